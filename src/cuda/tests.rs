//! What can be tested of the backend without a GPU; `tools/gpu_test.py` does the rest on one.

use super::modules::{MISSING, MODULES, Module};
use super::table::TABLE;
use super::{available, driver, summary};
use crate::error::Status;
use crate::settings::Mode;
use std::path::Path;

fn module(name: &'static str, archs: &'static [u32], ptx: Option<u32>) -> Module {
    Module { name, archs, ptx, image: &[] }
}

#[test]
fn machine_code_runs_on_its_major_version_and_ptx_on_later_devices() {
    let portable = module("sm80/x", &[80, 90], Some(80));
    for capability in [80, 86, 89, 90, 100, 120] {
        assert!(portable.runs_on(capability), "{capability}");
    }
    assert!(!portable.runs_on(75));
    assert_eq!(
        [89, 90, 100].map(|device| portable.compiled_for(device)),
        [Some(80), Some(90), Some(80)]
    );
    let no_ptx = module("sm80/x", &[86], None);
    assert!(no_ptx.runs_on(86) && no_ptx.runs_on(89));
    assert!(!no_ptx.runs_on(80) && !no_ptx.runs_on(90));
    let hopper = module("sm90/x", &[90], None);
    assert!(hopper.runs_on(90));
    assert!(!hopper.runs_on(100) && !hopper.runs_on(89));
}

#[test]
fn the_table_ends_with_standard_and_names_files_that_exist() {
    let last = TABLE.last().unwrap();
    assert!(
        last.family == Mode::Standard
            && TABLE.iter().filter(|e| e.family == last.family).count() == 1
    );
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for entry in TABLE {
        for module in entry.modules {
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
