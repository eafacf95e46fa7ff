//! The headers compile as C11 and C++17, and a C program computes attention with the cdylib.
#![cfg(target_os = "linux")]

mod support;

use std::io::Write;
use std::process::Stdio;
use support::{Language, compiler, program, succeed};

#[test]
fn headers_compile_alone_and_twice() {
    let headers = [
        ("kuiper_flash_attention/kfa.h", Language::C11, "c"),
        ("kuiper_flash_attention/kfa.h", Language::Cpp17, "c++"),
        ("kuiper_flash_attention/kfa.hpp", Language::Cpp17, "c++"),
    ];
    for (header, language, name) in headers {
        for times in 1..=2 {
            let include = format!("#include \"{header}\"\n").repeat(times);
            let source = include + "int checked(void); int checked(void) { return 0; }\n";
            let mut command = compiler(language);
            command.args(["-fsyntax-only", "-x", name, "-"]).stdin(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "{header} {times} times as {language:?}");
        }
    }
}

#[test]
fn a_c_program_computes_attention() {
    succeed(&mut std::process::Command::new(program("consumer.c", Language::C11)));
}
