//! Why a row of the table does not run on this CPU.

use crate::choice;
use crate::cpu::level::Level;
use std::fmt;

/// The level is above what the CPU has or `KFA_CPU_ISA` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaNotAvailable {
    pub needed: &'static Level,
    pub level: &'static Level,
}

pub type Reason = choice::Reason<IsaNotAvailable>;

impl fmt::Display for IsaNotAvailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, level } = self;
        write!(f, "needs {needed}; this process runs at {level} (the CPU, or KFA_CPU_ISA)")
    }
}
