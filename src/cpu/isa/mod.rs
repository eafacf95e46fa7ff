//! The instruction sets, each one file that implements `Vector` and instantiates the algorithms.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

use crate::cpu::flash_decode::DecodePlan;
use crate::cpu::flash_prefill::PrefillPlan;
use crate::cpu::merge;
use crate::cpu::standard_mha::StandardPlan;
use crate::problem::Problem;
use std::fmt;

/// The instruction-set levels of this architecture, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    pub const ALL: &[Isa] = &[
        Isa::Portable,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
        }
    }

    /// The names of all levels.
    pub fn names(separator: &str) -> String {
        Self::ALL.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(separator)
    }

    /// Whether this CPU has the level.
    pub fn detected(self) -> bool {
        match self {
            Isa::Portable => true,
            // Part of the architecture.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")
            }
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One task of a plan, compiled for one instruction set.
///
/// # Safety
/// The CPU has the instruction set, the problem is valid float32, `task` is within the plan, no
/// other thread runs the same task, and the scratch is as long as the plan says.
pub type Task<Plan> = unsafe fn(&Problem, &Plan, task: usize, scratch: &mut [f32]);

/// The algorithms' inner halves, compiled for one instruction set.
pub struct Kernels {
    pub isa: Isa,
    /// Float32 elements of a vector.
    pub lanes: usize,
    pub decode: Task<DecodePlan>,
    pub decode_combine: Task<DecodePlan>,
    pub prefill: Task<PrefillPlan>,
    pub standard_scores: Task<StandardPlan>,
    pub standard_values: Task<StandardPlan>,
    pub merge: merge::Task,
}

/// Instantiates every algorithm for one vector type under its target features.
///
/// `scores` and `values` are the register blocks of the two matrix products in `flash_prefill`, rows
/// by vectors, chosen to fill the register file.
macro_rules! instantiate {
    ($isa:expr, $vector:ty,
        scores = $key_rows:literal x $query_vectors:literal,
        values = $value_rows:literal x $value_vectors:literal
        $(, features = $features:literal)?) => {
        use crate::cpu::isa::Kernels;
        use crate::cpu::{flash_decode, flash_prefill, merge, standard_mha};
        use crate::merge::Merge;
        use crate::problem::Problem;
        use std::ops::Range;

        pub static KERNELS: Kernels = Kernels {
            isa: $isa,
            lanes: <$vector as Vector>::LANES,
            decode,
            decode_combine,
            prefill,
            standard_scores,
            standard_values,
            merge: merge_task,
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
                if $isa.detected() {
                    // SAFETY: this CPU has the instruction set.
                    unsafe { crate::cpu::tests::vector_contract::<$vector>() }
                }
            }
        }
    };
}
pub(crate) use instantiate;
