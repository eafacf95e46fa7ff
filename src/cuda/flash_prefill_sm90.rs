//! Flash prefill of 16-bit types on Hopper: `docs/cuda-hopper.md` tells how it works.

use crate::choice::Workspace;
use crate::cuda::arch::{PrefillShape, sm90};
use crate::cuda::caps::Caps;
use crate::cuda::driver::{Gpu, Kernel, KernelParam, Launch, TensorMap, TensorShape};
use crate::cuda::params::Params;
use crate::cuda::reason::Reason;
use crate::dtype::Dtype::{Bf16, Fp16};
use crate::error::Result;
use crate::problem::{Problem, View};
use std::f32::consts::LOG2_E;
use std::ptr::null_mut;

const F16: &str = "sm90/flash_prefill_f16";
const BF16: &str = "sm90/flash_prefill_bf16";

pub const MODULES: &[&str] = &[F16, BF16];

/// A kernel, and how it cuts a problem.
struct Variant {
    kernel: Kernel,
    shape: PrefillShape,
    /// Keys of a block.
    keys: u32,
}

/// The kernels of the list for one type, by head_dim class, ascending.
macro_rules! variants {
    ($module:expr, $prefix:literal, $([$name:ident, $head_dim:literal, $rows:literal, $threads:literal, $shared:literal, $keys:literal $(, $kernels:literal)*])*) => {
        {
            static VARIANTS: [Variant; [$($head_dim),*].len()] = [$(Variant {
                kernel: Kernel::new($module, concat!("kfa_flash_prefill_sm90_", $prefix, stringify!($name), "\0")),
                shape: PrefillShape {
                    head_dim: $head_dim,
                    rows: $rows,
                    threads: $threads,
                    shared: $shared,
                },
                keys: $keys,
            }),*];
            &VARIANTS
        }
    };
}
static VARIANTS_F16: &[Variant] = prefill_warpgroup!(variants F16, "f16_",);
static VARIANTS_BF16: &[Variant] = prefill_warpgroup!(variants BF16, "bf16_",);

/// `KfaPrefillSchedule` of `kernels/sm90/schedule.h`.
#[repr(C)]
struct Schedule {
    counters: *mut i32,
    pack_shift: i32,
    packs: i32,
    unit_tiles: i32,
    tiles: i32,
    section: i32,
    scale: f32,
}

const _: () = assert!(size_of::<Schedule>() == 32, "keep in step with kernels/sm90/schedule.h");

// SAFETY: repr(C), and both sides assert the size.
unsafe impl KernelParam for Schedule {}

/// Bytes of the two counters.
const COUNTERS: usize = 8;

fn variants(p: &Problem) -> &'static [Variant] {
    match (p.query.dtype, p.key.dtype) {
        (Fp16, Fp16) => VARIANTS_F16,
        (Bf16, Bf16) => VARIANTS_BF16,
        _ => &[],
    }
}

/// The first variant whose class holds the problem's head_dim.
fn fitting(p: &Problem) -> Option<&'static Variant> {
    variants(p).iter().find(|variant| p.head_dim <= variant.shape.head_dim as usize)
}

/// Query heads of a group that share a tile: all that divide a warpgroup's rows.
fn pack(p: &Problem) -> usize {
    1 << p.group().trailing_zeros().min(6)
}

pub fn supports(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    let [query, key, value, output] = [p.query, p.key, p.value, p.output].map(|view| view.dtype);
    let (Some(largest), true) = (variants(p).last(), value == key && output == query) else {
        return Err(Reason::Dtypes { query, key, value, output });
    };
    let Some(variant) = fitting(p) else {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: largest.shape.head_dim as usize });
    };
    if !caps.tensor_maps {
        return Err(Reason::Other("the driver makes no tensor maps"));
    }
    if caps.shared_per_block < variant.shape.shared {
        return Err(Reason::Other("the tile does not fit the device's shared memory"));
    }
    if p.scale < 0.0 {
        return Err(Reason::Other("scale is negative"));
    }
    if p.kv_len == 0 {
        return Err(Reason::Other("kv_len is 0"));
    }
    let queries = |view: &View| mappable(view, [p.batch, p.q_len, p.heads], p.head_dim);
    let keys = |view: &View| mappable(view, [p.batch, p.kv_len, p.kv_heads], p.head_dim);
    if !(queries(&p.query) && queries(&p.output) && keys(&p.key) && keys(&p.value)) {
        return Err(Reason::Other(
            "TMA needs data on 16 bytes, head_dim and strides in multiples of 8 elements, strides not 0",
        ));
    }
    // What kernels count in 32 bits.
    let most = i32::MAX as usize / 2;
    let rows = p.q_len.saturating_mul(pack(p));
    let tiles = rows.div_ceil(variant.shape.rows as usize);
    if rows > most
        || p.kv_len > most
        || p.batch.saturating_mul(p.heads).saturating_mul(tiles) > most
    {
        return Err(Reason::Other("a size is beyond 32 bits"));
    }
    Ok(())
}

/// Whether a tensor map can describe a view.
fn mappable(view: &View, sizes: [usize; 3], head_dim: usize) -> bool {
    const MOST_BYTES: usize = 1 << 40;
    let strides = [view.batch_stride, view.row_stride, view.head_stride];
    let fits = |(size, stride): (usize, usize)| {
        size == 1 || stride.is_multiple_of(8) && (8..MOST_BYTES / 2).contains(&stride)
    };
    view.data.addr().is_multiple_of(16)
        && head_dim.is_multiple_of(8)
        && sizes.into_iter().zip(strides).all(fits)
}

/// Tiles are handed out by counters, which the workspace holds: where causal, tiles are of unequal length,
/// and multiprocessors are never of quite equal speed.
pub fn workspace(_: &Problem, _: &Caps) -> Workspace {
    Workspace { min: 0, preferred: COUNTERS }
}

pub fn run(p: &Problem, gpu: &Gpu) -> Result<()> {
    let Some(Variant { kernel, shape, keys }) = fitting(p) else {
        unreachable!("supports() refused this problem");
    };
    let pack = pack(p);
    let rows = shape.rows as usize;
    let packs = p.heads / pack;
    let unit_tiles = (p.q_len * pack).div_ceil(rows);
    let tiles = p.batch * packs * unit_tiles;
    let counted = p.workspace_size >= COUNTERS && p.workspace.addr().is_multiple_of(4);
    if counted {
        gpu.zero(p.workspace, COUNTERS)?;
    }
    let schedule = Schedule {
        counters: if counted { p.workspace.cast() } else { null_mut() },
        pack_shift: pack.trailing_zeros() as i32,
        packs: packs as i32,
        unit_tiles: unit_tiles as i32,
        tiles: tiles as i32,
        section: sm90::prefill_section(p, packs, unit_tiles, gpu.caps()) as i32,
        scale: p.scale * LOG2_E,
    };
    let launch = Launch {
        grid: [tiles.min(gpu.caps().sm_count as usize) as u32, 1, 1],
        block: shape.threads,
        shared: shape.shared,
        ..Launch::DEFAULT
    };
    let query = rows_map(p, &p.query, pack, rows)?;
    let key = keys_map(p, &p.key, *keys)?;
    let value = keys_map(p, &p.value, *keys)?;
    let output = rows_map(p, &p.output, pack, 64)?;
    gpu.launch(kernel, launch, &[&Params::new(p), &schedule, &query, &key, &value, &output])
}

/// Columns of a panel in shared memory: what the swizzle spans.
const PANEL: u32 = 64;

/// Bytes; a stride that is never walked need only be valid.
fn stride(elements: usize, size: usize) -> u64 {
    2 * if size == 1 { 8 } else { elements as u64 }
}

/// [batch, pack, position, head of the pack, column], in boxes of `rows` rows.
fn rows_map(p: &Problem, view: &View, pack: usize, rows: usize) -> Result<TensorMap> {
    let packs = p.heads / pack;
    TensorMap::encode(&TensorShape {
        data: view.data.cast(),
        dtype: view.dtype,
        sizes: &[p.head_dim, pack, p.q_len, packs, p.batch].map(|size| size as u64),
        strides: &[
            stride(view.head_stride, pack),
            stride(view.row_stride, p.q_len),
            stride(view.head_stride * pack, packs),
            stride(view.batch_stride, p.batch),
        ],
        tile: &[PANEL, pack as u32, (rows / pack) as u32, 1, 1],
    })
}

/// [batch, head, key, column], in boxes of `keys` keys.
fn keys_map(p: &Problem, view: &View, keys: u32) -> Result<TensorMap> {
    TensorMap::encode(&TensorShape {
        data: view.data.cast(),
        dtype: view.dtype,
        sizes: &[p.head_dim, p.kv_len, p.kv_heads, p.batch].map(|size| size as u64),
        strides: &[
            stride(view.row_stride, p.kv_len),
            stride(view.head_stride, p.kv_heads),
            stride(view.batch_stride, p.batch),
        ],
        tile: &[PANEL, keys, 1, 1],
    })
}
