//! Device to backend, nothing else.

use crate::cpu;
use crate::error::{Error, Result, Status};
use crate::problem::{Device, Problem};

pub fn run(p: &Problem) -> Result<()> {
    match p.device {
        Device::Cpu => cpu::run(p),
        Device::Cuda => Err(no_cuda()),
    }
}

pub fn workspace_size(p: &Problem) -> Result<usize> {
    match p.device {
        Device::Cpu => cpu::workspace_size(p),
        Device::Cuda => Err(no_cuda()),
    }
}

pub fn explain(p: &Problem) -> String {
    match p.device {
        Device::Cpu => cpu::explain(p),
        Device::Cuda => format!("none: {}\n", no_cuda()),
    }
}

/// The answer to every CUDA request.
pub fn no_cuda() -> Error {
    Error {
        status: Status::NoDevice,
        message: "device is KFA_DEVICE_CUDA; this version of the library has no CUDA backend"
            .to_owned(),
    }
}
