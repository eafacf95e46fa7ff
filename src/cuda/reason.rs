//! Why a device does not run a row of the table.

use crate::choice;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// `KFA_CUDA_KERNELS` names others.
    NotNamed,
    /// The row's level does not fit the device, or `KFA_CUDA_ARCH` excludes it.
    Arch { needed: &'static str, arch: u32 },
    /// The build left a module out, or compiled it for other devices.
    NotBuilt { module: &'static str, capability: u32 },
}

pub type Reason = choice::Reason<Lack>;

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::NotNamed => f.write_str("KFA_CUDA_KERNELS does not name it"),
            Lack::Arch { needed, arch } => {
                write!(f, "needs {needed}; this process runs at {arch} (the GPU, or KFA_CUDA_ARCH)")
            }
            Lack::NotBuilt { module, capability } => {
                write!(f, "this build has no {module} kernels for compute capability {capability}")
            }
        }
    }
}
