//! The ordered list of CUDA kernels: flash before standard, newest architecture first, decode
//! before prefill. The first row that accepts a problem runs it.

use crate::choice::{self, Backend, Workspace, score_workspace};
use crate::cuda::caps::{self, Caps};
use crate::cuda::driver::Gpu;
use crate::cuda::modules::{MODULES, Module};
use crate::cuda::reason::Lack;
use crate::cuda::{flash_decode, flash_prefill, flash_prefill_sm90, standard_mha};
use crate::error::Result;
use crate::features::Features;
use crate::settings::Mode;

/// CUDA devices as a place that kernels run in.
pub struct Cuda;

pub type Algorithm = choice::Algorithm<Cuda>;
pub type Row = choice::Row<Cuda>;

/// Which devices a row's instructions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Any device that we compile for.
    Smxx,
    /// `mma.sync`, `cp.async`: 8.0 and later.
    Sm80,
    /// `wgmma`, TMA: 9.0 alone.
    Sm90,
}

/// What a row launches.
pub struct Launches {
    pub arch: Arch,
    pub modules: &'static [&'static str],
}

impl Backend for Cuda {
    const NAME: &'static str = "CUDA";
    type Machine = Caps;
    type Kernels = Launches;
    type Place = Gpu;
    type Lack = Lack;

    fn rows() -> &'static [Row] {
        TABLE
    }

    fn runs(caps: &Caps, row: &Row) -> Result<(), Lack> {
        if !caps::names(row.name()) {
            return Err(Lack::NotNamed);
        }
        let Caps { arch, capability, .. } = *caps;
        match row.kernels.arch {
            Arch::Smxx => {}
            Arch::Sm80 if arch >= 80 => {}
            Arch::Sm80 => return Err(Lack::Arch { needed: "8.0 or later", arch }),
            Arch::Sm90 if arch == 90 => {}
            Arch::Sm90 => return Err(Lack::Arch { needed: "9.0", arch }),
        }
        for module in row.kernels.modules {
            if !Module::index(module).is_some_and(|index| MODULES[index].runs_on(capability)) {
                return Err(Lack::NotBuilt { module, capability });
            }
        }
        Ok(())
    }
}

/// Every kernel takes the newest row's position from device memory.
const ALL: Features = Features::POS_DEVICE;

/// Standard MHA's: all but the steps that would change the cache or the query, and quantised caches.
const REFERENCE: Features = ALL
    .and(Features::CAUSAL_TOP_LEFT)
    .and(Features::SLIDING_WINDOW)
    .and(Features::WINDOW_RIGHT)
    .and(Features::ATTENTION_CHUNK)
    .and(Features::SPANS)
    .and(Features::SOFTCAP)
    .and(Features::ALIBI)
    .and(Features::ADDITIVE_MASK)
    .and(Features::BOOLEAN_MASK)
    .and(Features::BIT_MASK)
    .and(Features::MASK_COLUMNS)
    .and(Features::MASK_OFFSETS)
    .and(Features::MASK_HEAD_FACTOR)
    .and(Features::SINKS)
    .and(Features::VALUE_HEAD_DIM)
    .and(Features::QUERY_OFFSETS)
    .and(Features::KV_OFFSETS)
    .and(Features::Q_LENS)
    .and(Features::KV_LENS)
    .and(Features::KV_STARTS)
    .and(Features::CACHE_INDEX)
    .and(Features::PAGES)
    .and(Features::PAGE_OFFSETS)
    .and(Features::VALUE_PAGES)
    .and(Features::LSE_STRIDES)
    .and(Features::LSE_BASE2)
    // Each row is a block's own, whose order of summation is that of the row's keys.
    .and(Features::BATCH_INVARIANT);

static FLASH_DECODE: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: flash_decode::supports,
    workspace: |p, caps| {
        let size = flash_decode::workspace_size(p, caps);
        Workspace { min: size, preferred: size }
    },
    run: |p, _, gpu| flash_decode::run(p, gpu),
};
static FLASH_PREFILL_SM90: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: flash_prefill_sm90::supports,
    workspace: flash_prefill_sm90::workspace,
    run: |p, _, gpu| flash_prefill_sm90::run(p, gpu),
};
// Prefill keeps its scores in registers.
static FLASH_PREFILL: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: flash_prefill::supports_half,
    workspace: |_, _| Workspace::NONE,
    run: |p, _, gpu| flash_prefill::run_half(p, gpu),
};
static FLASH_PREFILL_FP32: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: flash_prefill::supports_split,
    workspace: |_, _| Workspace::NONE,
    run: |p, _, gpu| flash_prefill::run_split(p, gpu),
};
static FLASH_PREFILL_PLAIN: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: ALL,
    supports: flash_prefill::supports_plain,
    workspace: |_, _| Workspace::NONE,
    run: |p, _, gpu| flash_prefill::run_plain(p, gpu),
};
static STANDARD_MHA: Algorithm = Algorithm {
    family: Mode::Standard,
    serves: REFERENCE,
    supports: standard_mha::supports,
    workspace: |p, _| score_workspace(p),
    run: |p, _, gpu| standard_mha::run(p, gpu),
};

pub static TABLE: &[Row] = &[
    Row {
        name: c"cuda.flash_decode.sm80",
        algorithm: &FLASH_DECODE,
        kernels: Launches { arch: Arch::Sm80, modules: flash_decode::MODULES },
    },
    Row {
        name: c"cuda.flash_prefill.sm90",
        algorithm: &FLASH_PREFILL_SM90,
        kernels: Launches { arch: Arch::Sm90, modules: flash_prefill_sm90::MODULES },
    },
    Row {
        name: c"cuda.flash_prefill.sm80",
        algorithm: &FLASH_PREFILL,
        kernels: Launches { arch: Arch::Sm80, modules: flash_prefill::HALF_MODULES },
    },
    Row {
        name: c"cuda.flash_prefill_fp32.sm80",
        algorithm: &FLASH_PREFILL_FP32,
        kernels: Launches { arch: Arch::Sm80, modules: flash_prefill::SPLIT_MODULES },
    },
    Row {
        name: c"cuda.flash_prefill_plain.sm80",
        algorithm: &FLASH_PREFILL_PLAIN,
        kernels: Launches { arch: Arch::Sm80, modules: flash_prefill::PLAIN_MODULES },
    },
    Row {
        name: c"cuda.standard_mha.smxx",
        algorithm: &STANDARD_MHA,
        kernels: Launches { arch: Arch::Smxx, modules: &[standard_mha::MODULE] },
    },
];
