//! Standard multi-head attention, the baseline and the row that serves what others do not; the kernel is `kernels/smxx/standard_mha.cu`.

use crate::choice::score_workspace;
use crate::cuda::caps::Caps;
use crate::cuda::driver::{Gpu, Kernel, KernelParam, Launch};
use crate::cuda::params::Params;
use crate::cuda::reason::Reason;
use crate::dtype::Dtype::{self, Bf16, Fp16, Fp32};
use crate::error::Result;
use crate::problem::Problem;

pub const MODULE: &str = "smxx/standard_mha";

static F32_F32: Kernel = Kernel::new(MODULE, "kfa_standard_mha_f32_f32\0");
static F16_F16: Kernel = Kernel::new(MODULE, "kfa_standard_mha_f16_f16\0");
static BF16_BF16: Kernel = Kernel::new(MODULE, "kfa_standard_mha_bf16_bf16\0");
static F32_F16: Kernel = Kernel::new(MODULE, "kfa_standard_mha_f32_f16\0");
static F32_BF16: Kernel = Kernel::new(MODULE, "kfa_standard_mha_f32_bf16\0");

macro_rules! block {
    ([$threads:literal]) => {
        const THREADS: usize = $threads;
    };
}
standard_mha!(block);
/// Query and partial sums lie in shared memory that needs no opt-in.
const MAX_HEAD_DIM: usize = 8192;

/// `StandardParams` of the kernel.
#[repr(C)]
struct StandardParams {
    problem: Params,
    first_row: i32,
    rows: i32,
}

const _: () = assert!(size_of::<StandardParams>() == 448, "keep in step with standard_mha.cu");

// SAFETY: repr(C), like the struct that the kernel takes.
unsafe impl KernelParam for StandardParams {}

fn kernel(query: Dtype, kv: Dtype) -> Option<&'static Kernel> {
    Some(match (query, kv) {
        (Fp32, Fp32) => &F32_F32,
        (Fp16, Fp16) => &F16_F16,
        (Bf16, Bf16) => &BF16_BF16,
        (Fp32, Fp16) => &F32_F16,
        (Fp32, Bf16) => &F32_BF16,
        _ => return None,
    })
}

pub fn supports(p: &Problem, _: &Caps) -> std::result::Result<(), Reason> {
    let [query, key, value, output] = [p.query, p.key, p.value, p.output].map(|view| view.dtype);
    if kernel(query, key).is_none() || value != key || output != query {
        return Err(Reason::Dtypes { query, key, value, output });
    }
    let head_dim = p.head_dim.max(p.value_head_dim);
    if head_dim > MAX_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim, max: MAX_HEAD_DIM });
    }
    if p.batch.saturating_mul(p.heads) > i32::MAX as usize {
        return Err(Reason::Other("batch * heads is beyond the largest grid"));
    }
    Ok(())
}

/// Processes as many query rows at a time as the workspace holds scores of.
pub fn run(p: &Problem, gpu: &Gpu) -> Result<()> {
    let Some(kernel) = kernel(p.query.dtype, p.key.dtype) else {
        unreachable!("supports() refused these types");
    };
    let heads = p.batch * p.heads;
    let rows_in_flight =
        p.q_len.min(p.workspace_size / score_workspace(p).min).min(i32::MAX as usize / heads);
    let columns = p.value_head_dim.next_multiple_of(32).min(THREADS);
    let shared = (THREADS / columns * p.value_head_dim).max(p.head_dim) * size_of::<f32>();
    for first_row in (0..p.q_len).step_by(rows_in_flight) {
        let rows = rows_in_flight.min(p.q_len - first_row);
        let params = StandardParams {
            problem: Params::new(p),
            first_row: first_row as i32,
            rows: rows as i32,
        };
        let launch = Launch {
            grid: [(heads * rows) as u32, 1, 1],
            block: THREADS as u32,
            shared: shared as u32,
            ..Launch::DEFAULT
        };
        gpu.launch(kernel, launch, &[&params])?;
    }
    Ok(())
}
