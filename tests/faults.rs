//! Whatever goes wrong around the library, a call is answered: memory and threads that fail, a
//! standard error that cannot be written, forks, ends of threads and processes, callbacks that call.
//! Each case is a C or C++ program of its own on the cdylib.
#![cfg(target_os = "linux")]

mod support;

use std::process::Command;
use support::{Language, library, program, succeed};

fn run(name: &str, arguments: &[&str]) {
    succeed(Command::new(program(name, Language::C11)).args(arguments));
}

#[test]
fn memory_that_runs_out() {
    run("memory_failure.c", &[]);
}

#[test]
fn threads_that_cannot_start() {
    run("no_threads.c", &[]);
}

#[test]
fn standard_error_that_cannot_be_written() {
    let program = program("no_stderr.c", Language::C11);
    for state in ["full", "closed"] {
        succeed(Command::new(&program).arg(state));
    }
}

#[test]
fn fork_during_the_first_call() {
    run("fork_first.c", &[]);
}

#[test]
fn unloading_right_after_helpers_started() {
    run("unload.c", &[library().to_str().unwrap()]);
}

#[test]
fn log_callbacks_that_call_back() {
    run("reentrant_log.c", &[]);
}

#[test]
fn calls_while_a_thread_or_the_process_ends() {
    let program = program("teardown.cc", Language::Cpp17);
    for place in ["thread_local", "key", "atexit", "static"] {
        for call in ["forward", "failure", "message"] {
            for warm in [&[][..], &["warm"]] {
                succeed(Command::new(&program).args([place, call]).args(warm));
            }
        }
    }
}
