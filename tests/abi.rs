//! The ABI of each released header, recorded in `docs/abi/`, still holds: functions, constants, the
//! size and place of each field. Structs may grow at their end, reserved fields may get a name.
//!
//! `KFA_WRITE_ABI=1 cargo test --test abi` records the present header under its version; a release
//! does so once.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use support::{Language, ROOT, compiler, library, succeed};

const HEADER: &str = "kuiper_flash_attention/kfa.h";

/// The present header, one fact a line: `function`, `type`, `constant`, `struct NAME SIZE`, `field STRUCT OFFSET SIZE NAME`.
fn describe_header() -> &'static str {
    static FACTS: OnceLock<String> = OnceLock::new();
    FACTS.get_or_init(facts)
}

fn facts() -> String {
    let source = preprocessed();
    let mut facts = BTreeSet::new();
    let mut program = format!("#include <{HEADER}>\n#include <stdio.h>\nint main(void) {{\n");
    for name in constants() {
        writeln!(program, "printf(\"constant {name} %lld\\n\", (long long){name});").unwrap();
    }
    for declaration in declarations(&source) {
        let Some((name, body)) = struct_of(&declaration) else {
            let kind = if declaration.starts_with("typedef") { "type" } else { "function" };
            let text = declaration.trim_start_matches("typedef ");
            facts.insert(format!("{kind} {text}"));
            continue;
        };
        writeln!(program, "printf(\"struct {name} %zu\\n\", sizeof({name}));").unwrap();
        for field in body.split(';').filter_map(field_name) {
            let of = format!("(({name}*)0)->{field}");
            writeln!(
                program,
                "printf(\"field {name} %zu %zu {field}\\n\", offsetof({name}, {field}), sizeof({of}));"
            )
            .unwrap();
        }
    }
    program += "return 0; }\n";
    facts.extend(run(&program).lines().map(String::from));
    facts.into_iter().map(|fact| fact + "\n").collect()
}

fn preprocessed() -> String {
    let mut command = compiler(Language::C11);
    command.args(["-E", "-P"]).arg(format!("{ROOT}/include/{HEADER}"));
    String::from_utf8(succeed(&mut command).stdout).unwrap()
}

/// `KFA_*` constants that are numbers.
fn constants() -> Vec<String> {
    let header = fs::read_to_string(format!("{ROOT}/include/{HEADER}")).unwrap();
    let define = |line: &str| {
        let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        let versions = name.starts_with("KFA_VERSION_");
        let number = value.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        (number && !versions).then(|| name.to_string())
    };
    header.lines().filter_map(define).collect()
}

/// The header's own declarations, each on one line with single spaces.
fn declarations(source: &str) -> Vec<String> {
    let mut found = vec![];
    let (mut text, mut depth) = (String::new(), 0);
    for c in source.chars() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                // An inline function ends here; its name is exported for callers of older headers.
                let inline = text.trim_start().strip_prefix("static inline ");
                if let (0, Some(function)) = (depth, inline) {
                    let signature = function.split('{').next().unwrap_or_default();
                    found.push(signature.split_whitespace().collect::<Vec<_>>().join(" "));
                    text.clear();
                    continue;
                }
            }
            ';' if depth == 0 => {
                let declaration = text.split_whitespace().collect::<Vec<_>>().join(" ");
                text.clear();
                if declaration.contains("kfa_") {
                    found.push(declaration);
                }
                continue;
            }
            _ => {}
        }
        text.push(c);
    }
    found
}

/// A struct's name and the text between its braces.
fn struct_of(declaration: &str) -> Option<(&str, &str)> {
    let (head, rest) = declaration.split_once('{')?;
    let name = head.trim().strip_prefix("typedef struct ")?;
    Some((name.trim(), rest.rsplit_once('}')?.0))
}

fn field_name(field: &str) -> Option<&str> {
    let name = field.trim().rsplit([' ', '*']).next()?;
    (!name.is_empty()).then_some(name)
}

/// What a C program prints.
fn run(program: &str) -> String {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi");
    let source = base.with_extension("c");
    fs::write(&source, program).unwrap();
    succeed(compiler(Language::C11).arg(&source).arg("-o").arg(&base));
    String::from_utf8(succeed(&mut Command::new(&base)).stdout).unwrap()
}

/// What a recorded fact finds broken in the present ones.
fn broken(recorded: &str, present: &BTreeSet<&str>) -> Option<String> {
    if present.contains(recorded) {
        return None;
    }
    let words: Vec<&str> = recorded.split(' ').collect();
    let prefixed = |prefix: String| present.iter().find(|fact| fact.starts_with(&prefix)).copied();
    let now = match words[..] {
        ["struct", name, size] => {
            let now = prefixed(format!("struct {name} "));
            let grown = |now: &str| now.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
            if now.is_some_and(|now| grown(now) >= size.parse().unwrap()) {
                return None;
            }
            now
        }
        ["field", of, offset, size, name] => {
            let now = prefixed(format!("field {of} {offset} {size} "));
            if now.is_some() && name.starts_with("reserved") {
                return None;
            }
            now
        }
        ["constant", name, _] => prefixed(format!("constant {name} ")),
        _ => None,
    };
    Some(format!("recorded: {recorded}; now: {}", now.unwrap_or("nothing of it")))
}

#[test]
fn released_headers_still_hold() {
    let now = describe_header();
    if std::env::var_os("KFA_WRITE_ABI").is_some() {
        let version =
            concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
        fs::write(format!("{ROOT}/docs/abi/{version}.txt"), now).unwrap();
    }
    let present: BTreeSet<&str> = now.lines().collect();
    let mut records = 0;
    for record in fs::read_dir(format!("{ROOT}/docs/abi")).unwrap() {
        let path = record.unwrap().path();
        let recorded = fs::read_to_string(&path).unwrap();
        let wrong: Vec<String> =
            recorded.lines().filter_map(|fact| broken(fact, &present)).collect();
        assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
        records += 1;
    }
    assert!(records > 0, "no record in docs/abi");
}

#[test]
fn recorded_functions_are_exported() {
    // SAFETY: loading the library runs no code of its own.
    let library = unsafe { libloading::Library::new(library()).unwrap() };
    let mut checked = 0;
    for fact in describe_header().lines().filter(|fact| fact.starts_with("function ")) {
        let name = fact.split_once('(').unwrap().0.rsplit([' ', '*']).next().unwrap();
        // SAFETY: the symbol is only looked up.
        let symbol = unsafe { library.get::<*const u8>(name) };
        assert!(symbol.is_ok(), "{name} is declared and not exported");
        checked += 1;
    }
    assert!(checked >= 20, "only {checked} functions found in the header");
}

#[test]
fn changes_that_break_callers_are_found() {
    let present = BTreeSet::from([
        "constant KFA_OK 0",
        "field kfa_a 0 4 size",
        "field kfa_a 4 4 named_now",
        "struct kfa_a 16",
    ]);
    let holds = |fact| broken(fact, &present).is_none();
    assert!(holds("struct kfa_a 16") && holds("struct kfa_a 8") && !holds("struct kfa_a 24"));
    assert!(holds("field kfa_a 4 4 reserved") && !holds("field kfa_a 4 4 other_name"));
    assert!(!holds("field kfa_a 8 4 size") && !holds("field kfa_a 0 8 size"));
    assert!(!holds("constant KFA_OK 1") && !holds("constant KFA_GONE 0"));
    assert!(!holds("function void kfa_gone(void)"));
}
