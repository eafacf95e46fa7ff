//! Device to backend, and how a backend's choice reads.

use crate::error::Result;
use crate::problem::{Device, Problem};
use crate::{cpu, cuda};
use std::fmt::{Display, Write};

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

/// Tells a backend's choice: the first kernel that accepts, then why each one before it did not.
pub fn explain_choice<R: Display>(
    backend: &str,
    verdicts: impl Iterator<Item = (&'static str, std::result::Result<(), R>)>,
) -> String {
    let mut passed_over = String::new();
    for (name, verdict) in verdicts {
        match verdict {
            Ok(()) => return format!("{name}\n{passed_over}"),
            Err(reason) => {
                let _ = writeln!(passed_over, "passed over {name}: {reason}");
            }
        }
    }
    format!("none: no {backend} kernel serves this problem\n{passed_over}")
}
