//! Device to backend.

use crate::choice::Workspace;
use crate::error::Result;
use crate::merge::Merge;
use crate::problem::{Device, Problem};
use crate::{cpu, cuda};

pub fn run(p: &Problem) -> Result<()> {
    match p.device {
        Device::Cpu => cpu::run(p),
        Device::Cuda => cuda::run(p),
    }
}

pub fn workspace(p: &Problem) -> Result<Workspace> {
    match p.device {
        Device::Cpu => cpu::workspace(p),
        Device::Cuda => cuda::workspace(p),
    }
}

pub fn explain(p: &Problem) -> String {
    match p.device {
        Device::Cpu => cpu::explain(p),
        Device::Cuda => cuda::explain(p),
    }
}

/// Whether some kernel serves the problem.
pub fn serves(p: &Problem) -> bool {
    match p.device {
        Device::Cpu => cpu::serves(p),
        Device::Cuda => cuda::serves(p),
    }
}

/// Whether this build and machine can serve a device at all.
pub fn available(device: Device) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        Device::Cuda => cuda::available(),
    }
}

/// Does ahead of time what only the first call of a process has to do on a device.
pub fn warm_up(device: Device) -> Result<()> {
    match device {
        Device::Cpu => {
            cpu::threads::start();
            Ok(())
        }
        Device::Cuda => cuda::warm_up(),
    }
}

/// Merges partial results where they lie.
///
/// # Safety
/// The arrays are valid for the merge's shapes.
pub unsafe fn merge(m: &Merge) -> Result<()> {
    match m.device {
        // SAFETY: the caller's.
        Device::Cpu => unsafe { cpu::merge(m) },
        Device::Cuda => cuda::merge(m),
    }
}
