//! The checked-in C header is what cbindgen makes of the sources.
#![cfg(feature = "generate-header")]

use std::fs;

const CHECKED_IN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/include/kuiper_flash_attention/kfa.h");

#[test]
fn header_is_current() {
    let generated = fs::read_to_string(concat!(env!("OUT_DIR"), "/kfa.h")).unwrap();
    if std::env::var_os("KFA_WRITE_HEADER").is_some() {
        fs::write(CHECKED_IN, &generated).unwrap();
    }
    let checked_in = fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(generated == checked_in, "kfa.h is out of date: run `make header` and commit it");
}

#[test]
fn header_shows_names_of_the_api_alone() {
    let header = fs::read_to_string(concat!(env!("OUT_DIR"), "/kfa.h")).unwrap();
    for line in header.lines() {
        let ours = line.contains("kfa_") || line.contains("KFA_") || line.contains("KUIPER_");
        let declares = line.starts_with("typedef ") || line.starts_with("#define ");
        assert!(ours || !declares, "the crate's own in kfa.h: {line}");
    }
}
