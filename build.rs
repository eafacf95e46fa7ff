//! Gives the shared library its soname and symbol versions, compiles the CUDA kernels where nvcc is
//! found, and on request generates the C header.

#[path = "kernels/build.rs"]
mod kernels;

use std::env;
#[cfg(feature = "generate-header")]
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let major = env::var("CARGO_PKG_VERSION_MAJOR").unwrap();
        let link = |argument: &str| println!("cargo:rustc-cdylib-link-arg={argument}");
        link(&format!("-Wl,-soname,libkuiper_flash_attention.so.{major}"));
        // Every symbol's version node is the soname. A script cannot name one, as rustc passes its
        // own, and lld does not know the option.
        link("-fuse-ld=bfd");
        link("-Wl,--default-symver");
        // Helper threads run the library's code until the process ends: dlclose leaves it there.
        link("-Wl,-z,nodelete");
    }
    println!("cargo:rustc-env=KFA_BUILD_TARGET={}", env::var("TARGET").unwrap());
    println!("cargo:rustc-env=KFA_BUILD_PROFILE={}", env::var("PROFILE").unwrap());
    #[cfg(feature = "generate-header")]
    generate_header();
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        kernels::build();
    }
}

/// Writes `$OUT_DIR/kfa.h`; `tests/header.rs` compares it with the checked-in header.
#[cfg(feature = "generate-header")]
fn generate_header() {
    use std::path::PathBuf;
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/abi");
    println!("cargo:rerun-if-changed=src/capi");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    // These files alone (cbindgen follows their modules), so that no name from anywhere
    // else gets into the header.
    let header = cbindgen::Builder::new()
        .with_src(root.join("src/abi/mod.rs"))
        .with_src(root.join("src/capi/mod.rs"))
        .with_config(config)
        .generate()
        .expect("cbindgen reads src/abi and src/capi");
    header.write_to_file(Path::new(&env::var("OUT_DIR").unwrap()).join("kfa.h"));
}
