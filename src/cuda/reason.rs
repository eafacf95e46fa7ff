//! Why a table entry does not serve a problem; cheap to make, put into words only when asked.

use crate::dtype::Dtype;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The caller asked for the other family of kernels.
    ModeExcludes {
        mode: &'static str,
    },
    /// `KFA_DISABLE_FLASH_ATTENTION` is set.
    FlashDisabled,
    /// `KFA_CUDA_KERNELS` names others.
    NotNamed,
    /// The entry's level does not fit the device, or `KFA_CUDA_ARCH` excludes it.
    Arch {
        needed: &'static str,
        arch: u32,
    },
    /// The build left a module out, or compiled it for other devices.
    NotBuilt {
        module: &'static str,
        capability: u32,
    },
    QLen {
        q_len: usize,
        min: usize,
        max: usize,
    },
    HeadDim {
        head_dim: usize,
        max: usize,
    },
    /// The kernels have no variant of these types.
    Dtypes {
        query: Dtype,
        key: Dtype,
        value: Dtype,
        output: Dtype,
    },
    /// Anything else, in a sentence that names the argument.
    Other(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::ModeExcludes { mode } => write!(f, "the attention mode is {mode}"),
            Reason::FlashDisabled => {
                f.write_str("flash attention is disabled by KFA_DISABLE_FLASH_ATTENTION")
            }
            Reason::NotNamed => f.write_str("KFA_CUDA_KERNELS does not name it"),
            Reason::Arch { needed, arch } => {
                write!(f, "needs {needed}; this process runs at {arch} (the GPU, or KFA_CUDA_ARCH)")
            }
            Reason::NotBuilt { module, capability } => {
                write!(f, "this build has no {module} kernels for compute capability {capability}")
            }
            Reason::QLen { q_len, min, max: usize::MAX } => {
                write!(f, "q_len is {q_len}; these kernels serve {min} and more")
            }
            Reason::QLen { q_len, min, max } => {
                write!(f, "q_len is {q_len}; these kernels serve {min} to {max}")
            }
            Reason::HeadDim { head_dim, max } => {
                write!(f, "head_dim is {head_dim}; these kernels serve 1 to {max}")
            }
            Reason::Dtypes { query, key, value, output } => {
                write!(f, "no kernel for query {query}, key {key}, value {value}, output {output}")
            }
            Reason::Other(sentence) => f.write_str(sentence),
        }
    }
}
