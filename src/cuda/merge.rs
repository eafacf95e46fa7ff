//! The public merge of partial results on a GPU; the kernel is `kernels/smxx/merge.cu`.

use crate::cuda::driver::{self, Kernel, KernelParam, Launch};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::merge::{Layout, Merge};
use std::ptr::null;

static MERGE: Kernel = Kernel::new("smxx/merge", "kfa_merge\0");

/// What the kernel's parameter holds pointers of.
const MAX_PARTS: usize = 64;

/// `MergeParams` of the kernel.
#[repr(C)]
struct MergeParams {
    outputs: [*const f32; MAX_PARTS],
    lses: [*const f32; MAX_PARTS],
    output: *mut f32,
    lse: *mut f32,
    parts: i32,
    q_len: i32,
    heads: i32,
    head_dim: i32,
}

const _: () = assert!(size_of::<MergeParams>() == 1056, "keep in step with merge.cu");

// SAFETY: repr(C), like the struct that the kernel takes.
unsafe impl KernelParam for MergeParams {}

/// Enqueues a validated merge.
pub fn merge(m: &Merge) -> Result<()> {
    let parts = m.outputs.len();
    if parts > MAX_PARTS {
        return Err(Error::unsupported(format!(
            "parts is {parts}; merging on CUDA serves at most {MAX_PARTS} at a time"
        )));
    }
    if let Some(asked) = beyond_packed_float32(m) {
        return Err(Error::unsupported(format!(
            "{asked} is not served by merging on CUDA, which takes packed float32 and natural LSEs"
        )));
    }
    let rows = m.batch * m.heads * m.q_len;
    let grid = i32::try_from(rows).map_err(|_| {
        Error::unsupported(format!("batch * heads * q_len is {rows}; CUDA serves below 2^31"))
    })?;
    let mut pointers = Vec::with_capacity(2 * parts + 2);
    pointers.push(("output", m.output.cast_const()));
    pointers.push(("lse", m.lse.cast_const().cast()));
    pointers.extend(m.outputs.iter().map(|pointer| ("outputs", *pointer)));
    pointers.extend(m.lses.iter().map(|pointer| ("lses", pointer.cast())));
    let gpu = driver::enter_with(&pointers, None, m.stream)?;

    let mut params = MergeParams {
        outputs: [null(); MAX_PARTS],
        lses: [null(); MAX_PARTS],
        output: m.output.cast(),
        lse: m.lse,
        parts: parts as i32,
        q_len: m.q_len as i32,
        heads: m.heads as i32,
        head_dim: m.head_dim as i32,
    };
    for (to, from) in params.outputs.iter_mut().zip(m.outputs) {
        *to = from.cast();
    }
    params.lses[..parts].copy_from_slice(m.lses);
    let launch = Launch { grid: [grid as u32, 1, 1], block: 128, ..Launch::DEFAULT };
    gpu.launch(&MERGE, launch, &[&params])
}

/// What a merge asks for that the kernel does not do.
fn beyond_packed_float32(m: &Merge) -> Option<&'static str> {
    let Merge { q_len, heads, head_dim, .. } = *m;
    let (dtype, head) = (Dtype::Fp32, head_dim);
    let outputs = Layout { dtype, batch: q_len * heads * head, row: heads * head, head };
    let lses = Layout { dtype, batch: heads * q_len, row: 1, head: q_len };
    [
        ("part_offsets", !m.part_offsets.is_null()),
        ("KFA_FLAG_LSE_BASE2", m.base2),
        ("a 16-bit outputs_dtype", m.outputs_layout.dtype != dtype),
        ("a 16-bit output_dtype", m.output_layout.dtype != dtype),
        ("a stride", m.outputs_layout != outputs || m.output_layout != outputs),
        ("a stride of LSEs", m.lses_layout != lses || m.lse_layout != lses),
    ]
    .into_iter()
    .find_map(|(name, asked)| asked.then_some(name))
}
