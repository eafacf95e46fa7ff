//! Stands in for the CUDA backend in builds without the `cuda` feature.

use crate::choice::Workspace;
use crate::error::{Error, Result, Status};
use crate::merge::Merge;
use crate::problem::Problem;

/// The scratch of calls that never come.
#[derive(Default)]
pub struct DeviceScratch;

impl DeviceScratch {
    pub const fn new() -> Self {
        Self
    }
}

pub fn available() -> Result<()> {
    Err(Error {
        status: Status::NoDevice,
        message:
            "device is KFA_DEVICE_CUDA; this build has no CUDA kernels: the cuda feature is off"
                .to_owned(),
    })
}

pub fn run(_: &Problem) -> Result<()> {
    available()
}

pub fn run_in(_: &Problem, _: usize, _: &DeviceScratch) -> Result<()> {
    available()
}

pub fn workspace(_: &Problem) -> Result<Workspace> {
    available().map(|()| Workspace::NONE)
}

pub fn serves(_: &Problem) -> bool {
    false
}

pub fn explain(_: &Problem) -> String {
    available().map_or_else(|error| format!("none: {error}\n"), |()| String::new())
}

pub fn merge(_: &Merge) -> Result<()> {
    available()
}

pub fn warm_up() -> Result<()> {
    available()
}

pub fn summary() -> String {
    "cuda: not built (the cuda feature is off)".to_owned()
}
