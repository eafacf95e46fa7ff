//! The ordered list of CPU kernels: flash before standard, strongest instruction set first. The
//! first row that accepts a problem runs it.

use crate::choice::{self, Backend, Workspace, score_workspace};
#[cfg(target_arch = "aarch64")]
use crate::cpu::isa::neon;
use crate::cpu::isa::{Isa, Kernels, portable};
#[cfg(target_arch = "x86_64")]
use crate::cpu::isa::{avx2, avx512};
use crate::cpu::reason::IsaNotAvailable;
use crate::cpu::{flash_decode, flash_prefill, standard_mha};
use crate::error::Result;
use crate::features::Features;
use crate::settings::Mode;

/// The CPU as a place that kernels run in.
pub struct Cpu;

pub type Algorithm = choice::Algorithm<Cpu>;
pub type Row = choice::Row<Cpu>;

impl Backend for Cpu {
    const NAME: &'static str = "CPU";
    type Machine = Isa;
    type Kernels = &'static Kernels;
    type Place = ();
    type Lack = IsaNotAvailable;

    fn rows() -> &'static [Row] {
        TABLE
    }

    fn runs(level: &Isa, row: &Row) -> Result<(), IsaNotAvailable> {
        let needed = row.kernels.isa;
        if needed > *level { Err(IsaNotAvailable { needed, level: *level }) } else { Ok(()) }
    }
}

/// The LSE is written where its strides say.
const ALL: Features = Features::LSE_STRIDES;

static FLASH_DECODE: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: |p, _| flash_decode::supports(p),
    workspace: |p, _| Workspace {
        min: flash_decode::min_workspace_size(p),
        preferred: flash_decode::workspace_size(p),
    },
    run: |p, kernels, ()| flash_decode::run(p, kernels),
};
static FLASH_PREFILL: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: |p, _| flash_prefill::supports(p),
    // Its scratch belongs to the threads and does not grow with length.
    workspace: |_, _| Workspace::NONE,
    run: |p, kernels, ()| flash_prefill::run(p, kernels),
};
static STANDARD_MHA: Algorithm = Algorithm {
    family: Mode::Standard,
    serves: ALL,
    supports: |p, _| standard_mha::supports(p),
    workspace: |p, _| score_workspace(p),
    run: |p, kernels, ()| standard_mha::run(p, kernels),
};

const fn row(
    name: &'static std::ffi::CStr,
    algorithm: &'static Algorithm,
    kernels: &'static Kernels,
) -> Row {
    Row { name, algorithm, kernels }
}

pub static TABLE: &[Row] = &[
    #[cfg(target_arch = "x86_64")]
    row(c"cpu.flash_decode.avx512", &FLASH_DECODE, &avx512::KERNELS),
    #[cfg(target_arch = "x86_64")]
    row(c"cpu.flash_decode.avx2", &FLASH_DECODE, &avx2::KERNELS),
    #[cfg(target_arch = "aarch64")]
    row(c"cpu.flash_decode.neon", &FLASH_DECODE, &neon::KERNELS),
    row(c"cpu.flash_decode.portable", &FLASH_DECODE, &portable::KERNELS),
    #[cfg(target_arch = "x86_64")]
    row(c"cpu.flash_prefill.avx512", &FLASH_PREFILL, &avx512::KERNELS),
    #[cfg(target_arch = "x86_64")]
    row(c"cpu.flash_prefill.avx2", &FLASH_PREFILL, &avx2::KERNELS),
    #[cfg(target_arch = "aarch64")]
    row(c"cpu.flash_prefill.neon", &FLASH_PREFILL, &neon::KERNELS),
    row(c"cpu.flash_prefill.portable", &FLASH_PREFILL, &portable::KERNELS),
    #[cfg(target_arch = "x86_64")]
    row(c"cpu.standard_mha.avx512", &STANDARD_MHA, &avx512::KERNELS),
    #[cfg(target_arch = "x86_64")]
    row(c"cpu.standard_mha.avx2", &STANDARD_MHA, &avx2::KERNELS),
    #[cfg(target_arch = "aarch64")]
    row(c"cpu.standard_mha.neon", &STANDARD_MHA, &neon::KERNELS),
    row(c"cpu.standard_mha.portable", &STANDARD_MHA, &portable::KERNELS),
];

/// The strongest kernels at or below a level.
pub fn kernels(level: Isa) -> &'static Kernels {
    let best = TABLE.iter().map(|row| row.kernels).find(|kernels| kernels.isa <= level);
    best.unwrap_or(&portable::KERNELS)
}
