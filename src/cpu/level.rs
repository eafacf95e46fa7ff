//! Instruction sets as levels, and kernels that run only where theirs is proven to be there.

use crate::error::{Error, Result};
use crate::problem::Problem;
use std::fmt;

/// One instruction set.
#[derive(Debug)]
pub struct Level {
    pub name: &'static str,
    /// Its rank among those of the architecture.
    pub strength: u8,
    /// Float32 elements of a vector.
    pub lanes: usize,
    /// Whether this CPU has it.
    pub detected: fn() -> bool,
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.strength == other.strength
    }
}

impl Eq for Level {}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One task of a plan, compiled for one instruction set.
///
/// # Safety
/// The CPU has the instruction set; the problem is one that the algorithm supports and the plan its
/// own; `task` is within the plan, no other thread runs the same task, and the scratch is as long as
/// the plan says.
pub type Task<Plan> = unsafe fn(&Problem, &Plan, task: usize, scratch: &mut [f32]);

/// A function compiled for an instruction set, which nobody can call as it is.
pub struct Compiled<F> {
    level: &'static Level,
    function: F,
}

/// A function whose instruction set this CPU has: only [`Compiled::prove`] makes one.
#[derive(Clone, Copy)]
pub struct Proven<F> {
    function: F,
    pub lanes: usize,
}

impl<F: Copy> Compiled<F> {
    pub const fn new(level: &'static Level, function: F) -> Self {
        Self { level, function }
    }

    /// The function, if this CPU has its instruction set.
    pub fn prove(&self) -> Result<Proven<F>> {
        if !(self.level.detected)() {
            return Err(Error::unsupported(format!("this CPU does not have {}", self.level)));
        }
        Ok(Proven { function: self.function, lanes: self.level.lanes })
    }
}

impl<F: Copy> Proven<F> {
    pub fn function(&self) -> F {
        self.function
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    #[test]
    fn a_kernel_of_a_level_that_is_not_there_cannot_be_had() {
        static HERE: Level = Level { name: "here", strength: 0, lanes: 4, detected: || true };
        static AWAY: Level = Level { name: "away", strength: 9, lanes: 64, detected: || false };
        assert_eq!(
            Compiled::new(&HERE, || 7).prove().map(|kernel| (kernel.lanes, kernel.function()())),
            Ok((4, 7))
        );
        let error = Compiled::new(&AWAY, || 7).prove().map(|_| ()).unwrap_err();
        assert_eq!(error.status, Status::Unsupported);
        assert!(error.message.contains("away"));
    }
}
