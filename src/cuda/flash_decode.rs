//! Flash decode: up to 16 query positions against a long cache, split over keys.
//! `docs/cuda-decode.md` tells how the kernels work and what they reach.

use crate::cuda::arch::{self, DecodePlan, DecodeShape};
use crate::cuda::caps::Caps;
use crate::cuda::driver::{Gpu, Kernel, Launch};
use crate::cuda::params::Params;
use crate::cuda::reason::Reason;
use crate::dtype::Dtype::{self, Bf16, Fp16, Fp32};
use crate::error::Result;
use crate::problem::Problem;

const F16: &str = "sm80/flash_decode_f16";
const BF16: &str = "sm80/flash_decode_bf16";
const F32: &str = "sm80/flash_decode_f32";
const MIXED: &str = "sm80/flash_decode_mixed";
const COMBINE: &str = "sm80/flash_decode_combine";

pub const MODULES: &[&str] = &[F16, BF16, F32, MIXED, COMBINE];

const MAX_Q_LEN: usize = 16;
const MAX_HEAD_DIM: usize = 512;
/// The largest grid in its second and third dimensions.
const MAX_GRID_YZ: usize = 65535;

macro_rules! combine_block {
    ([$groups:literal, $columns:literal]) => {
        /// Threads per column, and columns, of the combine kernel.
        const COMBINE_GROUPS: u32 = $groups;
        const COMBINE_COLUMNS: u32 = $columns;
    };
}
decode_combine!(combine_block);

/// A kernel, and how it cuts a problem.
struct Variant {
    kernel: Kernel,
    shape: DecodeShape,
}

/// The kernels of a list for one pair of types, by head_dim class, then by rows, ascending.
macro_rules! variants {
    ($module:expr, $types:literal, $([$head_dim:literal, $rows:literal, $keys:literal, $warp:literal, $block:literal, $peer:literal])*) => {
        {
            static VARIANTS: [Variant; [$($head_dim),*].len()] = [$(Variant {
            kernel: Kernel::new(
                $module,
                concat!("kfa_flash_decode_", $types, "_d", $head_dim, "_r", $rows, "\0"),
            ),
            shape: DecodeShape {
                head_dim: $head_dim,
                rows: $rows,
                keys: $keys,
                per_warp: $warp,
                per_block: $block,
                per_peer: $peer,
            },
        }),*];
            &VARIANTS
        }
    };
}
static F16_F16: &[Variant] = decode_half!(variants F16, "f16_f16",);
static BF16_BF16: &[Variant] = decode_half!(variants BF16, "bf16_bf16",);
static F32_F32: &[Variant] = decode_f32!(variants F32, "f32_f32",);
static F32_F16: &[Variant] = decode_mixed!(variants MIXED, "f32_f16",);
static F32_BF16: &[Variant] = decode_mixed!(variants MIXED, "f32_bf16",);
static COMBINE_F32: Kernel = Kernel::new(COMBINE, "kfa_flash_decode_combine_f32\0");
static COMBINE_F16: Kernel = Kernel::new(COMBINE, "kfa_flash_decode_combine_f16\0");
static COMBINE_BF16: Kernel = Kernel::new(COMBINE, "kfa_flash_decode_combine_bf16\0");

fn variants(query: Dtype, kv: Dtype) -> &'static [Variant] {
    match (query, kv) {
        (Fp16, Fp16) => F16_F16,
        (Bf16, Bf16) => BF16_BF16,
        (Fp32, Fp32) => F32_F32,
        (Fp32, Fp16) => F32_F16,
        (Fp32, Bf16) => F32_BF16,
        _ => &[],
    }
}

/// In the narrowest class that holds head_dim, the fewest rows that hold all rows of a KV head, or
/// else the most there are.
fn fitting(p: &Problem) -> Option<&'static Variant> {
    let all = variants(p.query.dtype, p.key.dtype);
    let class = all.iter().map(|v| v.shape.head_dim).find(|class| p.head_dim <= *class as usize)?;
    let mut in_class = all.iter().filter(|v| v.shape.head_dim == class).peekable();
    let rows = p.q_len * p.group();
    loop {
        let variant = in_class.next()?;
        if variant.shape.rows as usize >= rows || in_class.peek().is_none() {
            return Some(variant);
        }
    }
}

fn plan(p: &Problem, shape: &DecodeShape, caps: &Caps) -> DecodePlan {
    arch::of(caps).decode_plan(p, shape, caps)
}

pub fn supports(p: &Problem, caps: &Caps) -> std::result::Result<(), Reason> {
    let [query, key, value, output] = [p.query, p.key, p.value, p.output].map(|view| view.dtype);
    if variants(query, key).is_empty() || value != key || output != query {
        return Err(Reason::Dtypes { query, key, value, output });
    }
    if p.q_len > MAX_Q_LEN {
        return Err(Reason::QLen { q_len: p.q_len, min: 1, max: MAX_Q_LEN });
    }
    let Some(Variant { shape, .. }) = fitting(p) else {
        return Err(Reason::HeadDim { head_dim: p.head_dim, max: MAX_HEAD_DIM });
    };
    if shape.most_warps(caps) == 0 {
        return Err(Reason::Other("a tile does not fit the device's shared memory"));
    }
    // What kernels count in 32 bits, and the limits of a grid.
    let most = i32::MAX as usize;
    if p.batch > MAX_GRID_YZ
        || shape.units(p) / p.batch > MAX_GRID_YZ
        || p.batch.saturating_mul(p.heads).saturating_mul(p.q_len) > most
        || p.kv_len > most / 2
    {
        return Err(Reason::Other("a size is beyond 32 bits or the largest grid"));
    }
    Ok(())
}

/// Bytes of the states that the second kernel merges: sums, maximum and denominator.
pub fn workspace_size(p: &Problem, caps: &Caps) -> usize {
    let Some(Variant { shape, .. }) = fitting(p) else { return 0 };
    match plan(p, shape, caps).parts() as usize {
        1 => 0,
        parts => p.batch * p.heads * p.q_len * parts * (p.head_dim + 2) * 4,
    }
}

pub fn run(p: &Problem, gpu: &Gpu) -> Result<()> {
    let Some(Variant { kernel, shape }) = fitting(p) else {
        unreachable!("supports() refused this problem");
    };
    let caps = gpu.caps();
    let plan = plan(p, shape, caps);
    let mut params = Params::new(p);
    params.splits = plan.splits as i32;
    let launch = Launch {
        grid: [plan.splits, (shape.units(p) / p.batch) as u32, p.batch as u32],
        block: plan.warps * 32,
        shared: shape.shared(&plan),
        cluster: [plan.cluster, 1, 1],
        dependent: caps.clusters,
    };
    gpu.launch(kernel, launch, &[&params])?;
    if plan.parts() == 1 {
        return Ok(());
    }
    let combine = match p.output.dtype {
        Fp32 => &COMBINE_F32,
        Fp16 => &COMBINE_F16,
        Bf16 => &COMBINE_BF16,
        other => unreachable!("supports() refused {other} output"),
    };
    params.splits = plan.parts() as i32;
    let columns = (p.head_dim as u32).next_multiple_of(32).min(COMBINE_COLUMNS);
    let launch = Launch {
        grid: [(p.batch * p.heads * p.q_len) as u32, 1, 1],
        block: COMBINE_GROUPS * columns,
        dependent: caps.clusters,
        ..Launch::DEFAULT
    };
    gpu.launch(combine, launch, &[&params])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::*;
    use crate::problem::{self, Check};

    fn problem(
        [batch, q_len, kv_len, group, kv_heads, head_dim]: [usize; 6],
        dtypes: (Dtype, Dtype),
    ) -> Problem {
        let view = |dtype| kfa_tensor_view {
            dtype: match dtype {
                Fp32 => KFA_DTYPE_FP32,
                Fp16 => KFA_DTYPE_FP16,
                _ => KFA_DTYPE_BF16,
            },
            ..NO_VIEW
        };
        let (query, key) = (view(dtypes.0), view(dtypes.1));
        let desc = kfa_attention_desc {
            device: KFA_DEVICE_CUDA,
            batch: batch as i32,
            q_len: q_len as i32,
            kv_len: kv_len as i32,
            heads: (group * kv_heads) as i32,
            kv_heads: kv_heads as i32,
            head_dim: head_dim as i32,
            query,
            key,
            value: key,
            output: query,
            ..DEFAULT_DESC
        };
        problem::of(&desc, Check::Shape).unwrap()
    }

    /// On an A100, a consumer GPU with little shared memory, and an H100.
    #[test]
    fn plans_fit_the_device_and_need_little_workspace() {
        let caps = |arch, sm_count, shared_kb: u32| Caps {
            capability: arch,
            arch,
            sm_count,
            shared_per_block: shared_kb << 10,
            l2_bytes: 40 << 20,
            clusters: arch == 90,
            tensor_maps: arch == 90,
        };
        let devices = [caps(80, 108, 163), caps(89, 128, 99), caps(90, 132, 227)];
        let dtypes = [(Fp32, Fp32), (Fp32, Bf16), (Fp16, Fp16)];
        for caps in devices {
            for (batch, group, kv_heads) in
                [(1, 4, 8), (1, 1, 32), (1, 1, 1), (1, 71, 1), (3, 8, 5), (40, 4, 8)]
            {
                for (head_dim, q_len, dtypes) in [1, 64, 80, 128, 200, 256, 512]
                    .into_iter()
                    .flat_map(|d| [1, 3, 16].map(|q| (d, q)))
                    .flat_map(|(d, q)| dtypes.map(|t| (d, q, t)))
                {
                    let mut last = 0;
                    for kv_len in
                        [1, 20, 128, 300, 512, 1000, 2048, 4096, 8192, 10_000, 32_768, 200_000]
                    {
                        let p = problem([batch, q_len, kv_len, group, kv_heads, head_dim], dtypes);
                        assert!(supports(&p, &caps).is_ok(), "{p:?}");
                        let shape = &fitting(&p).unwrap().shape;
                        let plan = plan(&p, shape, &caps);
                        assert!((1..=8).contains(&plan.warps), "{plan:?} {p:?}");
                        assert!(
                            plan.splits > 0 && plan.splits.is_multiple_of(plan.cluster),
                            "{plan:?} {p:?}"
                        );
                        assert!(caps.clusters || plan.cluster == 1);
                        assert!(shape.shared(&plan) <= caps.shared_per_block, "{plan:?} {p:?}");
                        // A caller may plan once for the longest cache.
                        let bytes = workspace_size(&p, &caps);
                        assert!(bytes >= last, "{plan:?} {p:?}");
                        last = bytes;
                        let cache = 2 * batch * kv_len * kv_heads * head_dim * p.key.dtype.size();
                        assert!(
                            kv_len < 8192 || bytes * 50 < cache,
                            "{bytes} of {cache}: {plan:?}"
                        );
                    }
                }
            }
        }
    }
}
