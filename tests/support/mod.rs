//! The C and C++ compilers, and the shared library that cargo built beside the tests.
#![allow(dead_code)] // Each test uses its part.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Clone, Copy, Debug)]
pub enum Language {
    C11,
    Cpp17,
}

/// A compiler with warnings as errors and the public headers on its path.
pub fn compiler(language: Language) -> Command {
    let mut build = cc::Build::new();
    let target = env!("KFA_BUILD_TARGET");
    build.target(target).host(target).opt_level(1).cargo_metadata(false);
    build.cpp(matches!(language, Language::Cpp17));
    let mut command = build.get_compiler().to_command();
    command.arg(match language {
        Language::C11 => "-std=c11",
        Language::Cpp17 => "-std=c++17",
    });
    command.args(["-Wall", "-Wextra", "-Werror", "-Wpedantic"]);
    command.arg(format!("-I{ROOT}/include"));
    command
}

/// The cdylib of this very build.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.with_file_name("libkuiper_flash_attention.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

/// Compiles `tests/c/NAME` against the shared library into the build folder, which keeps the
/// library under its soname, too.
pub fn program(name: &str, language: Language) -> PathBuf {
    let library = library();
    let profile = library.ancestors().nth(2).unwrap().file_name().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(profile);
    fs::create_dir_all(&folder).unwrap();
    let soname = folder.join("libkuiper_flash_attention.so.0");
    if let Err(error) = symlink(&library, &soname) {
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", soname.display());
    }
    let program = folder.join(name.replace('.', "_"));
    let mut command = compiler(language);
    command
        .arg("-D_GNU_SOURCE")
        .arg(format!("{ROOT}/tests/c/{name}"))
        .arg("-o")
        .arg(&program)
        .arg(&soname);
    command.arg(format!("-Wl,-rpath,{}", folder.display())).args(["-lpthread", "-ldl", "-lm"]);
    succeed(&mut command);
    program
}

/// Runs a command and returns its output; fails with all that it wrote if it fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{} {:?}: {}\n{}{}",
        command.get_program().display(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
