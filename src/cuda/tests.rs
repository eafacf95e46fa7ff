//! What can be tested of the backend without a GPU; `tools/gpu_test.py` does the rest on one.

use super::modules::{Code, MISSING, MODULES, Module};
use super::table::TABLE;
use super::{available, driver, summary};
use crate::error::Status;
use crate::settings::Mode;
use std::path::Path;

fn module(codes: &'static [Code]) -> Module {
    Module { name: "sm80/x", codes, devices: 80..=u32::MAX, image: &[] }
}

#[test]
fn machine_code_runs_on_its_major_version_and_ptx_on_later_devices() {
    use Code::{Machine, Ptx, Specific};
    let portable = module(&[Machine(80), Machine(90), Ptx(80), Ptx(90)]);
    assert_eq!(
        [75, 80, 86, 89, 90, 100, 120].map(|device| portable.compiled_for(device)),
        [None, Some(80), Some(80), Some(80), Some(90), Some(90), Some(90)]
    );
    let no_ptx = module(&[Machine(86)]);
    assert_eq!([80, 86, 89, 90].map(|device| no_ptx.runs_on(device)), [false, true, true, false]);
    let hopper = module(&[Specific(90)]);
    assert_eq!([89, 90, 100].map(|device| hopper.runs_on(device)), [false, true, false]);
}

#[test]
fn the_table_ends_with_standard_and_names_files_that_exist() {
    let last = TABLE.last().unwrap();
    assert!(
        last.algorithm.family == Mode::Standard
            && TABLE.iter().filter(|row| row.algorithm.family == Mode::Standard).count() == 1
    );
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for entry in TABLE {
        for module in entry.kernels.modules {
            assert!(
                kernels.join(module).with_extension("cu").exists(),
                "{}: {module}",
                entry.name()
            );
        }
    }
}

#[test]
fn a_fatbin_is_embedded_for_every_module() {
    match MISSING {
        Some(why) => assert!(MODULES.is_empty() && summary().contains(why)),
        None => assert!(MODULES.iter().all(|module| module.image.len() > 16)),
    }
}

#[test]
fn a_machine_without_a_driver_is_refused_with_the_reason() {
    for result in [available(), driver::probe()] {
        if let Err(error) = result {
            assert_eq!(error.status, Status::NoDevice);
            assert!(error.message.contains("KFA_DEVICE_CUDA; "), "{error}");
        }
    }
}
