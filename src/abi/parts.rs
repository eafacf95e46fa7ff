//! What a description is made of: tensors, masks, scales, the parts of a decoding step.

use super::*;
use std::ffi::c_void;
use std::ptr::null_mut;

/// A dense tensor as the engine hands it over: flat memory, a count, a type and a place.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_tensor {
    /// First element; device memory where `device` says so.
    pub data: *mut c_void,
    /// Number of elements, at least 1.
    pub size: i64,
    /// Type of the elements.
    pub dtype: kfa_dtype,
    /// Where `data` points.
    pub device: kfa_device_type,
}

/// A strided view of `[batch, rows, heads, head_dim]` with unit innermost stride.
///
/// Strides count elements and are not negative. All three 0 means densely packed in that order.
/// A stride of 0 beside others broadcasts an input over that axis.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_tensor_view {
    /// First element, aligned to its type.
    pub data: *mut c_void,
    /// Type of the elements.
    pub dtype: kfa_dtype,
    /// Must be 0.
    pub reserved: i32,
    /// Elements from one sequence of the batch to the next.
    pub batch_stride: i64,
    /// Elements from one token to the next.
    pub row_stride: i64,
    /// Elements from one head to the next.
    pub head_stride: i64,
}

/// An explicit attention mask `[batch, heads, q_len, kv_len]`, unit innermost stride.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_attention_mask {
    /// First element, or NULL for no mask.
    pub data: *const c_void,
    /// What the elements mean.
    pub kind: kfa_mask_kind,
    /// Type of an additive mask's elements: fp32 (default), fp16 or bf16. Otherwise ignored.
    pub dtype: kfa_dtype,
    /// Elements (of a bit mask: bits) from one sequence to the next; 0 shares the mask.
    pub batch_stride: i64,
    /// Elements from one head to the next; 0 shares the mask.
    pub head_stride: i64,
    /// Elements from one query row to the next; 0 shares one row.
    pub row_stride: i64,
}

/// How a quantised cache is read: `value = (stored - zero) * scale`.
///
/// Scales and zero points are arrays of one layout, `[batch or page, token group, head, channel
/// group]` by strides, of which each may be 0 to share: all 0 is one scale for the tensor,
/// `head_stride` alone one per head, `token_stride` and `head_stride` one per token and head.
/// Like every struct that a description points to, it may grow at its end: set it to zero bytes,
/// then `struct_size`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_quant {
    /// `sizeof(kfa_quant)` as the caller compiled it.
    pub struct_size: u32,
    /// Type of scales and zero points: fp32, fp16 or bf16.
    pub dtype: kfa_dtype,
    /// First scale, aligned to its type, where the tensors lie.
    pub scale: *const c_void,
    /// First zero point, or NULL (default) for 0 throughout.
    pub zero: *const c_void,
    /// Tokens that share a scale; 0 (default) means 1. Divides `page_size` in a paged cache.
    pub token_group: i32,
    /// Elements of a head that share a scale; 0 (default) means the whole head. Divides its size.
    pub channel_group: i32,
    /// Scales from one sequence, or page, to the next.
    pub batch_stride: i64,
    /// Scales from one token group to the next.
    pub token_stride: i64,
    /// Scales from one key/value head to the next.
    pub head_stride: i64,
    /// Scales from one channel group to the next.
    pub channel_stride: i64,
}

/// RMS norm of queries and new keys over each head, before RoPE:
/// `x * weight / sqrt(mean(x^2) + epsilon)`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_norm {
    /// `sizeof(kfa_norm)` as the caller compiled it.
    pub struct_size: u32,
    /// Type of the weights: fp32, fp16 or bf16.
    pub dtype: kfa_dtype,
    /// `[head_dim]` weights of the queries' norm, or NULL to leave queries as they are.
    pub query_weight: *const c_void,
    /// `[head_dim]` weights of the new keys' norm, or NULL to leave keys as they are.
    pub key_weight: *const c_void,
    /// Added to the mean square; 0 or more.
    pub epsilon: f32,
    /// Must be 0.
    pub reserved: i32,
}

/// Rotary embedding of queries and new keys; keys that the cache already holds are left alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_rope {
    /// `sizeof(kfa_rope)` as the caller compiled it.
    pub struct_size: u32,
    /// Which elements are turned together; default `KFA_ROPE_NEOX`.
    pub style: kfa_rope_style,
    /// Elements of a head that are turned, even; 0 (default) means `head_dim`.
    pub rotary_dim: i32,
    /// First element that is turned; default 0.
    pub offset: i32,
    /// Type of the tables: fp32, fp16 or bf16.
    pub dtype: kfa_dtype,
    /// 0 (default): a token takes the tables' row of its absolute position. 1: row `i` of sequence
    /// `b` takes row `b * q_len + i`, or of packed queries its own row.
    pub by_row: i32,
    /// Cosines `[rows, rotary_dim / 2]`, unit innermost stride.
    pub cos: *const c_void,
    /// Sines, likewise.
    pub sin: *const c_void,
    /// Elements from one row of the tables to the next; 0 (default) means `rotary_dim / 2`.
    pub row_stride: i64,
    /// Rows of the tables; every position (or row) that is used lies below.
    pub rows: i32,
    /// Must be 0.
    pub reserved: i32,
}

/// New keys and values that are written to the cache, normed, turned and quantised as the
/// description says, before any key is read. `kv_len` and `kv_lens` count them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_append {
    /// `sizeof(kfa_append)` as the caller compiled it.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: i32,
    /// `[batch, q_len, kv_heads, head_dim]`, or packed like the queries; fp32, fp16 or bf16.
    pub key: kfa_tensor_view,
    /// `[batch, q_len, kv_heads, value_head_dim]`, likewise. Neither may overlap the cache.
    pub value: kfa_tensor_view,
    /// Where each new token goes, `[batch, q_len]` or packed like the queries: in a paged cache
    /// `page * page_size + token`, else the row of the sequence's cache; -1 is not stored. NULL
    /// (default): the newest `q_len` rows of each sequence.
    pub slots: *const i64,
}

/// One task of a host's thread pool.
pub type kfa_task = Option<unsafe extern "C" fn(argument: *mut c_void, index: i32)>;

/// A host's own threads: runs `task(argument, index)` once for each index from 0 to `tasks - 1`, on
/// any threads, the caller's included, and returns when all are done. No task waits for another.
/// It must not throw.
pub type kfa_parallel = Option<
    unsafe extern "C" fn(pool: *mut c_void, tasks: i32, task: kfa_task, argument: *mut c_void),
>;

/// A view with no data, packed strides and float32 elements.
pub(crate) const NO_VIEW: kfa_tensor_view = kfa_tensor_view {
    data: null_mut(),
    dtype: KFA_DTYPE_FP32,
    reserved: 0,
    batch_stride: 0,
    row_stride: 0,
    head_stride: 0,
};
