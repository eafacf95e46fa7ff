//! Device to backend, nothing else.

use crate::error::Result;
use crate::problem::{Device, Problem};
use crate::{cpu, cuda};

pub fn run(p: &Problem) -> Result<()> {
    match p.device {
        Device::Cpu => cpu::run(p),
        Device::Cuda => cuda::run(p),
    }
}

pub fn workspace_size(p: &Problem) -> Result<usize> {
    match p.device {
        Device::Cpu => cpu::workspace_size(p),
        Device::Cuda => cuda::workspace_size(p),
    }
}

pub fn explain(p: &Problem) -> String {
    match p.device {
        Device::Cpu => cpu::explain(p),
        Device::Cuda => cuda::explain(p),
    }
}

/// Whether this build and machine can serve a device at all.
pub fn available(device: Device) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        Device::Cuda => cuda::available(),
    }
}
