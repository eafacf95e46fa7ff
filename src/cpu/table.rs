//! The ordered list of CPU kernels: flash before standard, strongest instruction set first. The
//! first entry that accepts a problem runs it.

#[cfg(target_arch = "aarch64")]
use crate::cpu::isa::neon;
use crate::cpu::isa::{Isa, Kernels, portable};
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::{avx2, avx512};
use crate::cpu::reason::Reason;
use crate::cpu::{flash_decode, flash_prefill, standard_mha};
use crate::error;
use crate::problem::Problem;
use crate::settings::Mode;
use std::ffi::CStr;

/// An algorithm's three questions.
pub struct Algorithm {
    pub family: Mode,
    pub supports: fn(&Problem) -> Result<(), Reason>,
    /// Bytes that the algorithm likes to have.
    pub workspace_size: fn(&Problem) -> usize,
    /// Bytes that the algorithm cannot run without.
    pub min_workspace_size: fn(&Problem) -> usize,
    pub run: fn(&Problem, &Kernels) -> error::Result<()>,
}

static FLASH_DECODE: Algorithm = Algorithm {
    family: Mode::Flash,
    supports: flash_decode::supports,
    workspace_size: flash_decode::workspace_size,
    min_workspace_size: flash_decode::min_workspace_size,
    run: flash_decode::run,
};
static FLASH_PREFILL: Algorithm = Algorithm {
    family: Mode::Flash,
    supports: flash_prefill::supports,
    workspace_size: flash_prefill::workspace_size,
    min_workspace_size: flash_prefill::workspace_size,
    run: flash_prefill::run,
};
static STANDARD_MHA: Algorithm = Algorithm {
    family: Mode::Standard,
    supports: standard_mha::supports,
    workspace_size: standard_mha::workspace_size,
    min_workspace_size: standard_mha::min_workspace_size,
    run: standard_mha::run,
};

pub struct Entry {
    pub name: &'static CStr,
    pub algorithm: &'static Algorithm,
    pub kernels: &'static Kernels,
}

const fn entry(
    name: &'static CStr,
    algorithm: &'static Algorithm,
    kernels: &'static Kernels,
) -> Entry {
    Entry { name, algorithm, kernels }
}

pub static TABLE: &[Entry] = &[
    #[cfg(target_arch = "x86_64")]
    entry(c"cpu.flash_decode.avx512", &FLASH_DECODE, &avx512::KERNELS),
    #[cfg(target_arch = "x86_64")]
    entry(c"cpu.flash_decode.avx2", &FLASH_DECODE, &avx2::KERNELS),
    #[cfg(target_arch = "aarch64")]
    entry(c"cpu.flash_decode.neon", &FLASH_DECODE, &neon::KERNELS),
    entry(c"cpu.flash_decode.portable", &FLASH_DECODE, &portable::KERNELS),
    #[cfg(target_arch = "x86_64")]
    entry(c"cpu.flash_prefill.avx512", &FLASH_PREFILL, &avx512::KERNELS),
    #[cfg(target_arch = "x86_64")]
    entry(c"cpu.flash_prefill.avx2", &FLASH_PREFILL, &avx2::KERNELS),
    #[cfg(target_arch = "aarch64")]
    entry(c"cpu.flash_prefill.neon", &FLASH_PREFILL, &neon::KERNELS),
    entry(c"cpu.flash_prefill.portable", &FLASH_PREFILL, &portable::KERNELS),
    #[cfg(target_arch = "x86_64")]
    entry(c"cpu.standard_mha.avx512", &STANDARD_MHA, &avx512::KERNELS),
    #[cfg(target_arch = "x86_64")]
    entry(c"cpu.standard_mha.avx2", &STANDARD_MHA, &avx2::KERNELS),
    #[cfg(target_arch = "aarch64")]
    entry(c"cpu.standard_mha.neon", &STANDARD_MHA, &neon::KERNELS),
    entry(c"cpu.standard_mha.portable", &STANDARD_MHA, &portable::KERNELS),
];

/// What the process allows, beside what a problem asks for.
pub struct Limits {
    pub isa: Isa,
    pub mode: Mode,
    pub flash_disabled: bool,
}

impl Entry {
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// Whether this entry serves the problem within the limits, or why not.
    pub fn accepts(&self, p: &Problem, limits: &Limits) -> Result<(), Reason> {
        match (limits.mode, self.algorithm.family) {
            (Mode::Standard, Mode::Flash) => {
                return Err(Reason::ModeExcludes { mode: "standard" });
            }
            (Mode::Flash, Mode::Standard) => return Err(Reason::ModeExcludes { mode: "flash" }),
            _ => {}
        }
        if limits.flash_disabled && self.algorithm.family == Mode::Flash {
            return Err(Reason::FlashDisabled);
        }
        if self.kernels.isa > limits.isa {
            return Err(Reason::IsaNotAvailable { needed: self.kernels.isa, level: limits.isa });
        }
        (self.algorithm.supports)(p)
    }
}
