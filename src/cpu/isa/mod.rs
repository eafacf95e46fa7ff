//! The instruction sets, each one file that implements `Vector` and instantiates the algorithms.

use crate::cpu::flash_decode::DecodePlan;
use crate::cpu::flash_prefill::PrefillPlan;
use crate::cpu::level::{Compiled, Level, Task};
use crate::cpu::merge;
use crate::cpu::standard_mha::StandardPlan;

/// Hands every instruction set to a macro, strongest first: a file of that name, and a row here.
macro_rules! instruction_sets {
    ($with:ident) => {
        $with! {
            #[cfg(target_arch = "x86_64")] avx512,
            #[cfg(target_arch = "x86_64")] avx2,
            #[cfg(target_arch = "aarch64")] neon,
            #[cfg(all())] portable,
        }
    };
}
pub(crate) use instruction_sets;

macro_rules! declare {
    ($(#[$when:meta] $isa:ident,)*) => {
        $(#[$when] pub mod $isa;)*

        /// The levels of this architecture, strongest first.
        pub static LEVELS: &[&Level] = &[$(#[$when] &$isa::LEVEL,)*];
    };
}
instruction_sets!(declare);

/// The names of all levels, weakest first.
pub fn names(separator: &str) -> String {
    LEVELS.iter().rev().map(|level| level.name).collect::<Vec<_>>().join(separator)
}

/// The algorithms' inner halves, compiled for one instruction set.
pub struct Kernels {
    pub level: &'static Level,
    pub decode: Compiled<Task<DecodePlan>>,
    pub decode_combine: Compiled<Task<DecodePlan>>,
    pub prefill: Compiled<Task<PrefillPlan>>,
    pub standard_scores: Compiled<Task<StandardPlan>>,
    pub standard_values: Compiled<Task<StandardPlan>>,
    pub merge: Compiled<merge::Task>,
}

/// Instantiates every algorithm for one vector type under its target features, as a level of this
/// name and rank that is there when `detected` says so.
///
/// `scores` and `values` are the register blocks of the two matrix products in `flash_prefill`, rows
/// by vectors, chosen to fill the register file.
macro_rules! instantiate {
    ($name:literal, strength = $strength:literal, detected = $detected:expr, $vector:ty,
        scores = $key_rows:literal x $query_vectors:literal,
        values = $value_rows:literal x $value_vectors:literal
        $(, features = $features:literal)?) => {
        use crate::cpu::isa::Kernels;
        use crate::cpu::level::{Compiled, Level};
        use crate::cpu::{flash_decode, flash_prefill, merge, standard_mha};
        use crate::merge::Merge;
        use crate::problem::Problem;
        use std::ops::Range;

        pub static LEVEL: Level = Level {
            name: $name,
            strength: $strength,
            lanes: <$vector as Vector>::LANES,
            detected: $detected,
        };

        pub static KERNELS: Kernels = Kernels {
            level: &LEVEL,
            decode: Compiled::new(&LEVEL, decode),
            decode_combine: Compiled::new(&LEVEL, decode_combine),
            prefill: Compiled::new(&LEVEL, prefill),
            standard_scores: Compiled::new(&LEVEL, standard_scores),
            standard_values: Compiled::new(&LEVEL, standard_values),
            merge: Compiled::new(&LEVEL, merge_task),
        };

        $(#[target_feature(enable = $features)])?
        unsafe fn decode(p: &Problem, plan: &flash_decode::DecodePlan, task: usize, scratch: &mut [f32]) {
            // SAFETY: this function's contract is the callee's, plus the features it enables.
            unsafe { flash_decode::task::<$vector>(p, plan, task, scratch) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn decode_combine(p: &Problem, plan: &flash_decode::DecodePlan, task: usize, scratch: &mut [f32]) {
            // SAFETY: as above.
            unsafe { flash_decode::combine::<$vector>(p, plan, task, scratch) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn prefill(p: &Problem, plan: &flash_prefill::PrefillPlan, task: usize, scratch: &mut [f32]) {
            // SAFETY: as above.
            unsafe {
                flash_prefill::task::<$vector, $key_rows, $query_vectors, $value_rows, $value_vectors>(
                    p, plan, task, scratch,
                )
            }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn standard_scores(p: &Problem, plan: &standard_mha::StandardPlan, task: usize, scratch: &mut [f32]) {
            // SAFETY: as above.
            unsafe { standard_mha::scores::<$vector>(p, plan, task, scratch) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn standard_values(p: &Problem, plan: &standard_mha::StandardPlan, task: usize, scratch: &mut [f32]) {
            // SAFETY: as above.
            unsafe { standard_mha::values::<$vector>(p, plan, task, scratch) }
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn merge_task(m: &Merge, rows: Range<usize>, weights: &mut [f32]) {
            // SAFETY: as above.
            unsafe { merge::task::<$vector>(m, rows, weights) }
        }

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn vector_keeps_its_contract() {
                if (LEVEL.detected)() {
                    // SAFETY: this CPU has the instruction set.
                    unsafe { crate::cpu::tests::vector_contract::<$vector>() }
                }
            }
        }
    };
}
pub(crate) use instantiate;
