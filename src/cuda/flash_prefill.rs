//! Flash prefill and chunked prefill, in three ways: 16-bit types on tensor cores, fp32 on tensor
//! cores as split halves, anything in plain FMA. `docs/cuda-prefill.md` tells how they work.

use crate::cuda::arch::sm80::{self, PrefillShape, SplitTile};
use crate::cuda::caps::Caps;
use crate::cuda::driver::{Gpu, Kernel, Launch};
use crate::cuda::params::Params;
use crate::cuda::reason::Reason;
use crate::dtype::Dtype::{self, Bf16, Fp16, Fp32};
use crate::error::Result;
use crate::problem::Problem;
use std::ffi::CStr;

const F16: &str = "sm80/flash_prefill_f16";
const BF16: &str = "sm80/flash_prefill_bf16";
const F32: &str = "sm80/flash_prefill_f32";
const PLAIN: &str = "sm80/flash_prefill_plain";

pub const HALF_MODULES: &[&str] = &[F16, BF16];
pub const SPLIT_MODULES: &[&str] = &[F32];
pub const PLAIN_MODULES: &[&str] = &[PLAIN];

/// A kernel, the largest head_dim it serves, and how it cuts a problem.
struct Variant {
    kernel: Kernel,
    head_dim: usize,
    shape: PrefillShape,
}

const fn half(module: &'static str, name: &'static CStr, d: u32, shape: [u32; 4]) -> Variant {
    let [keys, warps, atoms, stages] = shape;
    let shape = PrefillShape::half(d, keys, warps, atoms, stages);
    Variant { kernel: Kernel::new(module, name), head_dim: d as usize, shape }
}

const fn split(name: &'static CStr, d: u32, [keys, warps, atoms]: [u32; 3]) -> Variant {
    let shape = PrefillShape::split(d, keys, warps, atoms);
    Variant { kernel: Kernel::new(F32, name), head_dim: d as usize, shape }
}

const fn plain(name: &'static CStr, d: u32, [rows, keys]: [u32; 2]) -> Variant {
    let shape = PrefillShape::plain(d, rows, keys);
    Variant { kernel: Kernel::new(PLAIN, name), head_dim: d as usize, shape }
}

static HALF_F16: [Variant; 4] = [
    half(F16, c"kfa_flash_prefill_f16_d64", 64, [128, 4, 2, 1]),
    half(F16, c"kfa_flash_prefill_f16_d96", 96, [64, 4, 2, 2]),
    half(F16, c"kfa_flash_prefill_f16_d128", 128, [32, 4, 2, 2]),
    half(F16, c"kfa_flash_prefill_f16_d256", 256, [64, 4, 1, 1]),
];
static HALF_BF16: [Variant; 4] = [
    half(BF16, c"kfa_flash_prefill_bf16_d64", 64, [128, 4, 2, 1]),
    half(BF16, c"kfa_flash_prefill_bf16_d96", 96, [64, 4, 2, 2]),
    half(BF16, c"kfa_flash_prefill_bf16_d128", 128, [32, 4, 2, 2]),
    half(BF16, c"kfa_flash_prefill_bf16_d256", 256, [64, 4, 1, 1]),
];
static SPLIT_D64: Variant = split(c"kfa_flash_prefill_f32_d64", 64, [64, 4, 2]);
static SPLIT_D128: Variant = split(c"kfa_flash_prefill_f32_d128", 128, [64, 8, 1]);
static SPLIT_D128_WIDE: Variant = split(c"kfa_flash_prefill_f32_d128_wide", 128, [32, 8, 2]);
static SPLIT_D128_SMALL: Variant = split(c"kfa_flash_prefill_f32_d128_small", 128, [32, 4, 2]);
static SPLIT_D256: Variant = split(c"kfa_flash_prefill_f32_d256", 256, [32, 8, 1]);
static PLAIN_F32: [Variant; 4] = [
    plain(c"kfa_flash_prefill_plain_f32_d64", 64, [64, 32]),
    plain(c"kfa_flash_prefill_plain_f32_d128", 128, [64, 32]),
    plain(c"kfa_flash_prefill_plain_f32_d256", 256, [32, 32]),
    plain(c"kfa_flash_prefill_plain_f32_d512", 512, [16, 16]),
];
static PLAIN_F16: [Variant; 1] = [plain(c"kfa_flash_prefill_plain_f16_d512", 512, [16, 16])];
static PLAIN_BF16: [Variant; 1] = [plain(c"kfa_flash_prefill_plain_bf16_d512", 512, [16, 16])];

fn half_variants(dtype: Dtype) -> &'static [Variant] {
    match dtype {
        Fp16 => &HALF_F16,
        Bf16 => &HALF_BF16,
        _ => &[],
    }
}

fn split_variant(p: &Problem, caps: &Caps) -> Option<&'static Variant> {
    match p.head_dim {
        _ if p.query.dtype != Fp32 => None,
        ..=64 => Some(&SPLIT_D64),
        ..=128 => Some(match sm80::split_tile(p, caps, SPLIT_D128.shape, SPLIT_D128_WIDE.shape) {
            SplitTile::Narrow => &SPLIT_D128,
            SplitTile::Wide => &SPLIT_D128_WIDE,
            SplitTile::Small => &SPLIT_D128_SMALL,
        }),
        ..=256 => Some(&SPLIT_D256),
        _ => None,
    }
}

fn plain_variants(dtype: Dtype) -> &'static [Variant] {
    match dtype {
        Fp32 => &PLAIN_F32,
        Fp16 => &PLAIN_F16,
        Bf16 => &PLAIN_BF16,
    }
}

/// The first variant whose class holds the problem's head_dim.
fn fitting(variants: &'static [Variant], p: &Problem) -> Option<&'static Variant> {
    variants.iter().find(|variant| p.head_dim <= variant.head_dim)
}

pub fn supports_half(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    supports(p, caps, fitting(half_variants(p.query.dtype), p), &[Fp16, Bf16], 256)
}

pub fn supports_split(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    supports(p, caps, split_variant(p, caps), &[Fp32], 256)
}

pub fn supports_plain(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    supports(p, caps, fitting(plain_variants(p.query.dtype), p), &[Fp32, Fp16, Bf16], 512)
}

fn supports(
    p: &Problem,
    caps: &Caps,
    variant: Option<&Variant>,
    dtypes: &[Dtype],
    max_head_dim: usize,
) -> std::result::Result<(), Reason> {
    let [query, key, value, output] = [p.query, p.key, p.value, p.output].map(|view| view.dtype);
    if !dtypes.contains(&query) || [key, value, output] != [query; 3] {
        return Err(Reason::Dtypes { query, key, value, output });
    }
    let Some(variant) = variant else {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: max_head_dim });
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

/// Prefill keeps its scores in registers.
pub fn workspace_size(_: &Problem, _: &Caps) -> usize {
    0
}

pub fn run_half(p: &Problem, gpu: &Gpu) -> Result<()> {
    launch(p, gpu, fitting(half_variants(p.query.dtype), p))
}

pub fn run_split(p: &Problem, gpu: &Gpu) -> Result<()> {
    launch(p, gpu, split_variant(p, gpu.caps()))
}

pub fn run_plain(p: &Problem, gpu: &Gpu) -> Result<()> {
    launch(p, gpu, fitting(plain_variants(p.query.dtype), p))
}

/// The largest grid in its second and third dimensions.
const MAX_GRID_YZ: usize = 65535;

/// The grid is (pairs of a section, tiles, sections), as `RowTile` of the kernels reads it.
fn launch(p: &Problem, gpu: &Gpu, variant: Option<&'static Variant>) -> Result<()> {
    let Some(Variant { kernel, shape, .. }) = variant else {
        unreachable!("supports() refused this problem");
    };
    let pairs = p.batch * p.kv_heads;
    let section = sm80::prefill_section(p, gpu.caps()).max(pairs.div_ceil(MAX_GRID_YZ)).min(pairs);
    let tiles = (p.q_len * p.group()).div_ceil(shape.rows as usize);
    let launch = Launch {
        grid: [section as u32, tiles as u32, pairs.div_ceil(section) as u32],
        block: shape.threads,
        shared: shape.shared,
        ..Launch::DEFAULT
    };
    gpu.launch(kernel, launch, &Params::new(p))
}
