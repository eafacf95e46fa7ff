//! Flash prefill and chunked prefill, in three ways: 16-bit types on tensor cores, fp32 on tensor
//! cores as split halves, anything in plain FMA. `docs/cuda-prefill.md` tells how they work.

use crate::cuda::arch::{self, PrefillShape};
use crate::cuda::caps::Caps;
use crate::cuda::driver::{Gpu, Kernel, Launch};
use crate::cuda::params::Params;
use crate::cuda::reason::Reason;
use crate::dtype::Dtype::{Bf16, Fp16, Fp32};
use crate::error::Result;
use crate::problem::Problem;

const F16: &str = "sm80/flash_prefill_f16";
const BF16: &str = "sm80/flash_prefill_bf16";
const F32: &str = "sm80/flash_prefill_f32";
const PLAIN: &str = "sm80/flash_prefill_plain";

pub const HALF_MODULES: &[&str] = &[F16, BF16];
pub const SPLIT_MODULES: &[&str] = &[F32];
pub const PLAIN_MODULES: &[&str] = &[PLAIN];

/// A kernel, and how it cuts a problem.
struct Variant {
    kernel: Kernel,
    shape: PrefillShape,
}

/// The kernels of a list for one pair of types, by head_dim class, ascending.
macro_rules! variants {
    ($module:expr, $prefix:literal, $([$name:ident, $head_dim:literal, $rows:literal, $threads:literal, $shared:literal $(, $kernels:literal)*])*) => {
        {
            static VARIANTS: [Variant; [$($head_dim),*].len()] = [$(Variant {
            kernel: Kernel::new($module, concat!("kfa_flash_prefill_", $prefix, stringify!($name), "\0")),
            shape: PrefillShape {
                head_dim: $head_dim,
                rows: $rows,
                threads: $threads,
                shared: $shared,
            },
        }),*];
            &VARIANTS
        }
    };
}
static HALF_F16: &[Variant] = prefill_half!(variants F16, "f16_",);
static HALF_BF16: &[Variant] = prefill_half!(variants BF16, "bf16_",);
static SPLIT: &[Variant] = prefill_f32!(variants F32, "f32_",);
static SPLIT_SMALL: &[Variant] = prefill_f32_small!(variants F32, "f32_",);
static PLAIN_F32: &[Variant] = prefill_plain!(variants PLAIN, "plain_f32_",);
static PLAIN_F32_F16: &[Variant] = prefill_plain_mixed!(variants PLAIN, "plain_f32_f16_",);
static PLAIN_F32_BF16: &[Variant] = prefill_plain_mixed!(variants PLAIN, "plain_f32_bf16_",);
static PLAIN_F16: &[Variant] = prefill_plain_half!(variants PLAIN, "plain_f16_",);
static PLAIN_BF16: &[Variant] = prefill_plain_half!(variants PLAIN, "plain_bf16_",);

fn half_variants(p: &Problem) -> &'static [Variant] {
    match (p.query.dtype, p.key.dtype) {
        (Fp16, Fp16) => HALF_F16,
        (Bf16, Bf16) => HALF_BF16,
        _ => &[],
    }
}

fn split_variants(p: &Problem, caps: &Caps) -> &'static [Variant] {
    if (p.query.dtype, p.key.dtype) != (Fp32, Fp32) {
        return &[];
    }
    match fitting(SPLIT, p) {
        Some(variant) if variant.shape.shared <= caps.shared_per_block => SPLIT,
        _ => SPLIT_SMALL,
    }
}

fn plain_variants(p: &Problem) -> &'static [Variant] {
    match (p.query.dtype, p.key.dtype) {
        (Fp32, Fp32) => PLAIN_F32,
        (Fp32, Fp16) => PLAIN_F32_F16,
        (Fp32, Bf16) => PLAIN_F32_BF16,
        (Fp16, Fp16) => PLAIN_F16,
        (Bf16, Bf16) => PLAIN_BF16,
        _ => &[],
    }
}

/// The first variant whose class holds the problem's head_dim.
fn fitting(variants: &'static [Variant], p: &Problem) -> Option<&'static Variant> {
    variants.iter().find(|variant| p.head_dim <= variant.shape.head_dim as usize)
}

pub fn supports_half(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    supports(p, caps, half_variants(p))
}

pub fn supports_split(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    supports(p, caps, split_variants(p, caps))
}

pub fn supports_plain(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    supports(p, caps, plain_variants(p))
}

fn supports(
    p: &Problem,
    caps: &Caps,
    variants: &'static [Variant],
) -> std::result::Result<(), Reason> {
    let [query, key, value, output] = [p.query, p.key, p.value, p.output].map(|view| view.dtype);
    let (Some(largest), true) = (variants.last(), value == key && output == query) else {
        return Err(Reason::Dtypes { query, key, value, output });
    };
    let Some(variant) = fitting(variants, p) else {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: largest.shape.head_dim as usize });
    };
    if caps.shared_per_block < variant.shape.shared {
        return Err(Reason::Other("the tile does not fit the device's shared memory"));
    }
    // What kernels count in 32 bits, and the limits of a grid.
    let most = i32::MAX as usize;
    let rows = p.q_len.saturating_mul(p.group());
    if rows > most - variant.shape.rows as usize
        || rows.div_ceil(variant.shape.rows as usize) > MAX_GRID_YZ
        || p.batch.saturating_mul(p.kv_heads) > most / 2
        || p.kv_len > most - 256
        || p.key.row_stride.max(p.value.row_stride) > most
    {
        return Err(Reason::Other("a size or stride is beyond 32 bits or the largest grid"));
    }
    Ok(())
}

pub fn run_half(p: &Problem, gpu: &Gpu) -> Result<()> {
    launch(p, gpu, fitting(half_variants(p), p))
}

pub fn run_split(p: &Problem, gpu: &Gpu) -> Result<()> {
    launch(p, gpu, fitting(split_variants(p, gpu.caps()), p))
}

pub fn run_plain(p: &Problem, gpu: &Gpu) -> Result<()> {
    launch(p, gpu, fitting(plain_variants(p), p))
}

/// The largest grid in its second and third dimensions.
const MAX_GRID_YZ: usize = 65535;

/// The grid is (pairs of a section, tiles, sections), as `RowTile` of the kernels reads it.
fn launch(p: &Problem, gpu: &Gpu, variant: Option<&'static Variant>) -> Result<()> {
    let Some(Variant { kernel, shape, .. }) = variant else {
        unreachable!("supports() refused this problem");
    };
    let pairs = p.batch * p.kv_heads;
    let section =
        arch::of(gpu.caps()).prefill_section(p, gpu.caps()).max(pairs.div_ceil(MAX_GRID_YZ));
    let tiles = (p.q_len * p.group()).div_ceil(shape.rows as usize);
    let launch = Launch {
        grid: [section as u32, tiles as u32, pairs.div_ceil(section) as u32],
        block: shape.threads,
        shared: shape.shared,
        ..Launch::DEFAULT
    };
    gpu.launch(kernel, launch, &[&Params::new(p)])
}
