//! The public merge of partial results on a GPU; the kernel is `kernels/smxx/merge.cu`.

use crate::cuda::driver::{self, Kernel, KernelParam, Launch};
use crate::error::{Error, Result};
use crate::merge::Merge;
use std::ffi::c_void;
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
pub fn merge(m: &Merge, stream: *mut c_void) -> Result<()> {
    let parts = m.outputs.len();
    if parts > MAX_PARTS {
        return Err(Error::unsupported(format!(
            "parts is {parts}; merging on CUDA serves at most {MAX_PARTS} at a time"
        )));
    }
    let rows = m.batch * m.heads * m.q_len;
    let grid = i32::try_from(rows).map_err(|_| {
        Error::unsupported(format!("batch * heads * q_len is {rows}; CUDA serves below 2^31"))
    })?;
    let mut pointers = Vec::with_capacity(2 * parts + 2);
    pointers.push(("output", m.output.cast_const().cast::<c_void>()));
    pointers.push(("lse", m.lse.cast_const().cast()));
    pointers.extend(m.outputs.iter().map(|pointer| ("outputs", pointer.cast())));
    pointers.extend(m.lses.iter().map(|pointer| ("lses", pointer.cast())));
    let gpu = driver::enter_with(&pointers, None, stream)?;

    let mut params = MergeParams {
        outputs: [null(); MAX_PARTS],
        lses: [null(); MAX_PARTS],
        output: m.output,
        lse: m.lse,
        parts: parts as i32,
        q_len: m.q_len as i32,
        heads: m.heads as i32,
        head_dim: m.head_dim as i32,
    };
    params.outputs[..parts].copy_from_slice(m.outputs);
    params.lses[..parts].copy_from_slice(m.lses);
    let launch = Launch { grid: [grid as u32, 1, 1], block: 128, ..Launch::DEFAULT };
    gpu.launch(&MERGE, launch, &[&params])
}
