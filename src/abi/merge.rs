//! A merge of partial results and its defaults.

use super::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// Partial attention results over disjoint key sets, to be merged into the whole.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_merge_desc {
    /// `sizeof(kfa_merge_desc)` as the caller compiled it.
    pub struct_size: u32,
    /// Where all memory lies.
    pub device: kfa_device_type,
    /// Number of partial results, at least 1.
    pub parts: i32,
    /// Sequences in the batch.
    pub batch: i32,
    /// Query rows per sequence.
    pub q_len: i32,
    /// Query heads.
    pub heads: i32,
    /// Elements per head of the outputs.
    pub head_dim: i32,
    /// `KFA_FLAG_LSE_BASE2` or 0 (default): the base of every LSE here.
    pub flags: u32,
    /// `parts` pointers to `[batch, q_len, heads, head_dim]`, packed float32 unless the fields below
    /// say otherwise.
    pub outputs: *const *const f32,
    /// `parts` pointers to float32 `[batch, heads, q_len]`, packed unless `lses_*_stride` say otherwise.
    pub lses: *const *const f32,
    /// Receives the merged `[batch, q_len, heads, head_dim]`; may be one of `outputs`.
    pub output: *mut f32,
    /// Receives the merged `[batch, heads, q_len]`, or NULL; may be one of `lses`.
    pub lse: *mut f32,
    /// CUDA stream the work is enqueued on; NULL on the CPU.
    pub stream: *mut c_void,
    /// Type of the elements of `outputs`: fp32 (also 0, the default), fp16 or bf16.
    pub outputs_dtype: kfa_dtype,
    /// Type of the elements of `output`, likewise.
    pub output_dtype: kfa_dtype,
    /// Elements of each of `outputs` from one sequence to the next. All three 0 (default): packed.
    pub outputs_batch_stride: i64,
    /// Elements of each of `outputs` from one row to the next.
    pub outputs_row_stride: i64,
    /// Elements of each of `outputs` from one head to the next.
    pub outputs_head_stride: i64,
    /// Elements of `output` from one sequence to the next. All three 0 (default): packed.
    pub output_batch_stride: i64,
    /// Elements of `output` from one row to the next.
    pub output_row_stride: i64,
    /// Elements of `output` from one head to the next.
    pub output_head_stride: i64,
    /// Elements of each of `lses` from one sequence to the next. All three 0 (default): packed.
    pub lses_batch_stride: i64,
    /// Elements of each of `lses` from one head to the next.
    pub lses_head_stride: i64,
    /// Elements of each of `lses` from one row to the next.
    pub lses_row_stride: i64,
    /// Elements of `lse` from one sequence to the next. All three 0 (default): packed.
    pub lse_batch_stride: i64,
    /// Elements of `lse` from one head to the next.
    pub lse_head_stride: i64,
    /// Elements of `lse` from one row to the next.
    pub lse_row_stride: i64,
    /// Optional, `[batch * q_len + 1]`, where the tensors lie: row `r` merges rows `part_offsets[r]`
    /// to `part_offsets[r + 1]` of `outputs[0]` and `lses[0]`, which are then `[1, part_rows, heads,
    /// head_dim]` and `[1, heads, part_rows]`, and `parts` is 1. For rows of unlike many parts.
    pub part_offsets: *const i32,
    /// Rows of the parts that `part_offsets` leads to, which bounds its entries.
    pub part_rows: i32,
    /// Must be 0.
    pub reserved: i32,
}

/// Bytes of the first released `kfa_merge_desc`, the least that a caller's may have.
pub(crate) const FIRST_MERGE_DESC_SIZE: usize = std::mem::offset_of!(kfa_merge_desc, outputs_dtype);

/// Every default of a merge description.
pub(crate) const DEFAULT_MERGE_DESC: kfa_merge_desc = kfa_merge_desc {
    struct_size: size_of::<kfa_merge_desc>() as u32,
    device: KFA_DEVICE_CPU,
    parts: 0,
    batch: 0,
    q_len: 0,
    heads: 0,
    head_dim: 0,
    flags: 0,
    outputs: null(),
    lses: null(),
    output: null_mut(),
    lse: null_mut(),
    stream: null_mut(),
    outputs_dtype: 0,
    output_dtype: 0,
    outputs_batch_stride: 0,
    outputs_row_stride: 0,
    outputs_head_stride: 0,
    output_batch_stride: 0,
    output_row_stride: 0,
    output_head_stride: 0,
    lses_batch_stride: 0,
    lses_head_stride: 0,
    lses_row_stride: 0,
    lse_batch_stride: 0,
    lse_head_stride: 0,
    lse_row_stride: 0,
    part_offsets: null(),
    part_rows: 0,
    reserved: 0,
};
