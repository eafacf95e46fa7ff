//! Why a table entry does not serve a problem; cheap to make, put into words only when asked.

use crate::cpu::isa::Isa;
use crate::dtype::Dtype;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The level is above what the CPU has or `KFA_CPU_ISA` allows.
    IsaNotAvailable {
        needed: Isa,
        level: Isa,
    },
    /// The caller asked for the other family of kernels.
    ModeExcludes {
        mode: &'static str,
    },
    /// `KFA_DISABLE_FLASH_ATTENTION` is set.
    FlashDisabled,
    MoreThanOneRow {
        q_len: usize,
    },
    HeadDim {
        head_dim: usize,
        max: usize,
    },
    /// No kernel has these types together.
    Dtypes {
        query: Dtype,
        key: Dtype,
        value: Dtype,
        output: Dtype,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::IsaNotAvailable { needed, level } => {
                write!(f, "needs {needed}; this process runs at {level} (the CPU, or KFA_CPU_ISA)")
            }
            Reason::ModeExcludes { mode } => write!(f, "the attention mode is {mode}"),
            Reason::FlashDisabled => {
                f.write_str("flash attention is disabled by KFA_DISABLE_FLASH_ATTENTION")
            }
            Reason::MoreThanOneRow { q_len } => {
                write!(f, "q_len is {q_len}; decode kernels serve 1 row")
            }
            Reason::HeadDim { head_dim, max } => {
                write!(f, "head_dim is {head_dim}; flash kernels serve 1 to {max}")
            }
            Reason::Dtypes { query, key, value, output } => {
                write!(f, "no kernel for query {query}, key {key}, value {value}, output {output}")
            }
        }
    }
}
