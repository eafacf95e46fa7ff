//! Gives the shared library its soname and, on request, generates the C header.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        let major = env::var("CARGO_PKG_VERSION_MAJOR").unwrap();
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libkuiper_flash_attention.so.{major}");
    }
    println!("cargo:rustc-env=KFA_BUILD_TARGET={}", env::var("TARGET").unwrap());
    println!("cargo:rustc-env=KFA_BUILD_PROFILE={}", env::var("PROFILE").unwrap());
    #[cfg(feature = "generate-header")]
    generate_header();
}

/// Writes `$OUT_DIR/kfa.h`; `tests/header.rs` compares it with the checked-in header.
#[cfg(feature = "generate-header")]
fn generate_header() {
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/capi");
    let root = env::var("CARGO_MANIFEST_DIR").unwrap();
    let out = std::path::Path::new(&env::var("OUT_DIR").unwrap()).join("kfa.h");
    cbindgen::generate(root).expect("cbindgen reads src/capi").write_to_file(out);
}
