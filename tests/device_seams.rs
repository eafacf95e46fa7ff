//! What kernels share with the host is tested as host code.
#![cfg(target_os = "linux")]

mod support;

use std::path::Path;
use std::process::Command;
use support::{Language, ROOT, compiler, succeed};

#[test]
fn a_row_sees_on_a_gpu_what_it_sees_on_the_cpu() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("visible");
    let mut compile = compiler(Language::Cpp17);
    compile.arg(format!("-I{ROOT}/kernels")).arg(format!("{ROOT}/tests/c/visible.cc"));
    succeed(compile.arg("-o").arg(&program));
    succeed(&mut Command::new(program));
}
