//! The ordered list of CUDA kernels: flash before standard, newest architecture first, decode
//! before prefill. The first entry that accepts a problem runs it.

use crate::cuda::caps::{self, Caps};
use crate::cuda::driver::Gpu;
use crate::cuda::modules::{MODULES, Module};
use crate::cuda::reason::Reason;
use crate::cuda::{flash_decode, flash_prefill, standard_mha};
use crate::error::Result;
use crate::problem::Problem;
use crate::settings::Mode;
use std::ffi::CStr;

/// Which devices an entry's instructions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Any device that we compile for.
    Smxx,
    /// `mma.sync`, `cp.async`: 8.0 and later.
    Sm80,
    /// `wgmma`, TMA: 9.0 alone.
    #[allow(dead_code, reason = "the level of the Hopper kernels")]
    Sm90,
}

pub struct Entry {
    pub name: &'static CStr,
    pub family: Mode,
    pub arch: Arch,
    /// What `run` launches kernels of.
    pub modules: &'static [&'static str],
    pub supports: fn(&Problem, &Caps) -> std::result::Result<(), Reason>,
    /// Bytes that the algorithm likes to have.
    pub workspace_size: fn(&Problem, &Caps) -> usize,
    /// Bytes that the algorithm cannot run without.
    pub min_workspace_size: fn(&Problem, &Caps) -> usize,
    /// Enqueues the kernels; never waits and never allocates.
    pub run: fn(&Problem, &Gpu) -> Result<()>,
}

pub static TABLE: &[Entry] = &[
    Entry {
        name: c"cuda.flash_decode.sm80",
        family: Mode::Flash,
        arch: Arch::Sm80,
        modules: flash_decode::MODULES,
        supports: flash_decode::supports,
        workspace_size: flash_decode::workspace_size,
        min_workspace_size: flash_decode::workspace_size,
        run: flash_decode::run,
    },
    Entry {
        name: c"cuda.flash_prefill.sm80",
        family: Mode::Flash,
        arch: Arch::Sm80,
        modules: flash_prefill::HALF_MODULES,
        supports: flash_prefill::supports_half,
        workspace_size: flash_prefill::workspace_size,
        min_workspace_size: flash_prefill::workspace_size,
        run: flash_prefill::run_half,
    },
    Entry {
        name: c"cuda.flash_prefill_fp32.sm80",
        family: Mode::Flash,
        arch: Arch::Sm80,
        modules: flash_prefill::SPLIT_MODULES,
        supports: flash_prefill::supports_split,
        workspace_size: flash_prefill::workspace_size,
        min_workspace_size: flash_prefill::workspace_size,
        run: flash_prefill::run_split,
    },
    Entry {
        name: c"cuda.flash_prefill_plain.sm80",
        family: Mode::Flash,
        arch: Arch::Sm80,
        modules: flash_prefill::PLAIN_MODULES,
        supports: flash_prefill::supports_plain,
        workspace_size: flash_prefill::workspace_size,
        min_workspace_size: flash_prefill::workspace_size,
        run: flash_prefill::run_plain,
    },
    Entry {
        name: c"cuda.standard_mha.smxx",
        family: Mode::Standard,
        arch: Arch::Smxx,
        modules: &[standard_mha::MODULE],
        supports: standard_mha::supports,
        workspace_size: standard_mha::workspace_size,
        min_workspace_size: standard_mha::min_workspace_size,
        run: standard_mha::run,
    },
];

/// What the process allows, beside what a problem asks for.
pub struct Limits<'a> {
    pub caps: &'a Caps,
    pub mode: Mode,
    pub flash_disabled: bool,
}

impl Entry {
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// Whether this entry serves the problem within the limits, or why not.
    pub fn accepts(&self, p: &Problem, limits: &Limits) -> std::result::Result<(), Reason> {
        match (limits.mode, self.family) {
            (Mode::Standard, Mode::Flash) => {
                return Err(Reason::ModeExcludes { mode: "standard" });
            }
            (Mode::Flash, Mode::Standard) => return Err(Reason::ModeExcludes { mode: "flash" }),
            _ => {}
        }
        if limits.flash_disabled && self.family == Mode::Flash {
            return Err(Reason::FlashDisabled);
        }
        if !caps::names(self.name()) {
            return Err(Reason::NotNamed);
        }
        let Caps { arch, capability, .. } = *limits.caps;
        match self.arch {
            Arch::Smxx => {}
            Arch::Sm80 if arch >= 80 => {}
            Arch::Sm80 => return Err(Reason::Arch { needed: "8.0 or later", arch }),
            Arch::Sm90 if arch == 90 => {}
            Arch::Sm90 => return Err(Reason::Arch { needed: "9.0", arch }),
        }
        (self.supports)(p, limits.caps)?;
        for module in self.modules {
            if !Module::index(module).is_some_and(|index| MODULES[index].runs_on(capability)) {
                return Err(Reason::NotBuilt { module, capability });
            }
        }
        Ok(())
    }
}
