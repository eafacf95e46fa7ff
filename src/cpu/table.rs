//! The ordered list of CPU kernels: flash before standard, strongest instruction set first. The
//! first row that accepts a problem runs it.

use crate::choice::{self, Backend, Workspace, score_workspace};
use crate::cpu::isa::{self, Kernels, instruction_sets};
use crate::cpu::level::Level;
use crate::cpu::reason::IsaNotAvailable;
use crate::cpu::{cache, flash_decode, flash_prefill, standard_mha};
use crate::error::Result;
use crate::features::Features;
use crate::settings::Mode;
use std::ffi::CStr;

/// The CPU as a place that kernels run in.
pub struct Cpu;

pub type Algorithm = choice::Algorithm<Cpu>;
pub type Row = choice::Row<Cpu>;

impl Backend for Cpu {
    const NAME: &'static str = "CPU";
    type Machine = &'static Level;
    type Kernels = &'static Kernels;
    type Place = ();
    type Lack = IsaNotAvailable;

    fn rows() -> &'static [Row] {
        TABLE
    }

    fn runs(level: &&'static Level, row: &Row) -> Result<(), IsaNotAvailable> {
        let (needed, level) = (row.kernels.level, *level);
        if needed.strength > level.strength {
            return Err(IsaNotAvailable { needed, level });
        }
        Ok(())
    }
}

/// What the seams carry through every algorithm: which keys a row sees, how long sequences are and
/// where they lie, what happens to a score, how a row ends, and whose threads work.
const SEAMS: Features = Features::CAUSAL_TOP_LEFT
    .and(Features::SLIDING_WINDOW)
    .and(Features::WINDOW_RIGHT)
    .and(Features::ATTENTION_CHUNK)
    .and(Features::SPANS)
    .and(Features::QUERY_OFFSETS)
    .and(Features::KV_OFFSETS)
    .and(Features::Q_LENS)
    .and(Features::KV_LENS)
    .and(Features::KV_STARTS)
    .and(Features::CACHE_INDEX)
    .and(Features::VALUE_HEAD_DIM)
    .and(Features::SOFTCAP)
    .and(Features::ALIBI)
    .and(Features::SINKS)
    .and(Features::LSE_STRIDES)
    .and(Features::LSE_BASE2)
    .and(Features::THREADS)
    .and(Features::HOST_THREADS);

/// What standard MHA serves beside: masks, and every kind of cache.
const ALL: Features = SEAMS
    .and(Features::ADDITIVE_MASK)
    .and(Features::BOOLEAN_MASK)
    .and(Features::BIT_MASK)
    .and(Features::MASK_COLUMNS)
    .and(Features::MASK_OFFSETS)
    .and(Features::MASK_HEAD_FACTOR)
    .and(Features::PAGES)
    .and(Features::PAGE_OFFSETS)
    .and(Features::VALUE_PAGES)
    .and(Features::QUANTISED_KEYS)
    .and(Features::QUANTISED_VALUES);

static FLASH_DECODE: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: SEAMS,
    supports: |p, _| flash_decode::supports(p),
    workspace: |p, _| Workspace {
        min: flash_decode::min_workspace_size(p),
        preferred: flash_decode::workspace_size(p),
    },
    run: |p, kernels, ()| {
        flash_decode::run(p, kernels.decode.prove()?, kernels.decode_combine.prove()?)
    },
};
static FLASH_PREFILL: Algorithm = Algorithm {
    family: Mode::Flash,
    serves: SEAMS,
    supports: |p, _| flash_prefill::supports(p),
    // Its scratch belongs to the threads and does not grow with length.
    workspace: |_, _| Workspace::NONE,
    run: |p, kernels, ()| flash_prefill::run(p, kernels.prefill.prove()?),
};
static STANDARD_MHA: Algorithm = Algorithm {
    family: Mode::Standard,
    serves: ALL,
    supports: |_, _| Ok(()),
    workspace: |p, _| score_workspace(p),
    run: |p, kernels, ()| {
        // SAFETY: the problem lies on the CPU.
        unsafe { cache::check(p)? };
        standard_mha::run(p, kernels.standard_scores.prove()?, kernels.standard_values.prove()?)
    },
};

/// The rows of one algorithm name and one instruction set.
macro_rules! row {
    ($algorithm:ident, $name:literal, $isa:ident) => {
        Row {
            name: match CStr::from_bytes_with_nul(
                concat!("cpu.", $name, ".", stringify!($isa), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            },
            algorithm: &$algorithm,
            kernels: &isa::$isa::KERNELS,
        }
    };
}

macro_rules! table {
    ($(#[$when:meta] $isa:ident,)*) => {
        pub static TABLE: &[Row] = &[
            $(#[$when] row!(FLASH_DECODE, "flash_decode", $isa),)*
            $(#[$when] row!(FLASH_PREFILL, "flash_prefill", $isa),)*
            $(#[$when] row!(STANDARD_MHA, "standard_mha", $isa),)*
        ];
    };
}
instruction_sets!(table);

/// The strongest kernels at or below a level.
pub fn kernels(level: &Level) -> &'static Kernels {
    let mut all = TABLE.iter().map(|row| row.kernels);
    all.find(|kernels| kernels.level.strength <= level.strength).unwrap_or(&isa::portable::KERNELS)
}
