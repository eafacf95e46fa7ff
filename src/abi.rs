//! The structs, constants and defaults of the C API. Field order is the ABI: append only.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};

/// Result of a call: `KFA_OK` or one of the `KFA_ERROR_*` codes.
pub type kfa_status = i32;
/// The call did what it says.
pub const KFA_OK: kfa_status = 0;
/// An argument is wrong; `kfa_last_error_message()` names it. Nothing was written.
pub const KFA_ERROR_INVALID_ARGUMENT: kfa_status = 1;
/// The request is valid, but no kernel of this build and machine serves it. Nothing was written.
pub const KFA_ERROR_UNSUPPORTED: kfa_status = 2;
/// The requested device is not there, or this build has no backend for it.
pub const KFA_ERROR_NO_DEVICE: kfa_status = 3;
/// The CUDA driver reported an error; the message holds its name and text.
pub const KFA_ERROR_CUDA: kfa_status = 4;
/// Memory could not be allocated.
pub const KFA_ERROR_OUT_OF_MEMORY: kfa_status = 5;
/// A defect of this library; please report it with the message.
pub const KFA_ERROR_INTERNAL: kfa_status = 6;

/// Where tensors lie; the numbers are the engine's `base::DeviceType`.
pub type kfa_device_type = i32;
/// No device: always refused.
pub const KFA_DEVICE_UNKNOWN: kfa_device_type = 0;
/// Host memory, computed by CPU threads.
pub const KFA_DEVICE_CPU: kfa_device_type = 1;
/// Memory of a CUDA device.
pub const KFA_DEVICE_CUDA: kfa_device_type = 2;

/// Element type; the first numbers are the engine's `base::DataType`.
pub type kfa_dtype = i32;
/// No type: always refused.
pub const KFA_DTYPE_UNKNOWN: kfa_dtype = 0;
/// IEEE 754 binary32.
pub const KFA_DTYPE_FP32: kfa_dtype = 1;
/// 8-bit signed integer.
pub const KFA_DTYPE_INT8: kfa_dtype = 2;
/// 32-bit signed integer.
pub const KFA_DTYPE_INT32: kfa_dtype = 3;
/// IEEE 754 binary16.
pub const KFA_DTYPE_FP16: kfa_dtype = 4;
/// bfloat16: the upper half of a binary32.
pub const KFA_DTYPE_BF16: kfa_dtype = 5;
/// 8-bit float with 4 exponent bits.
pub const KFA_DTYPE_FP8_E4M3: kfa_dtype = 6;

/// Which family of kernels may serve a call.
pub type kfa_attention_mode = i32;
/// Flash attention; standard MHA where flash cannot serve, with one logged reason.
pub const KFA_ATTENTION_MODE_AUTO: kfa_attention_mode = 0;
/// Flash attention only: `KFA_ERROR_UNSUPPORTED` instead of a fallback.
pub const KFA_ATTENTION_MODE_FLASH: kfa_attention_mode = 1;
/// Standard MHA only: two passes over stored scores.
pub const KFA_ATTENTION_MODE_STANDARD: kfa_attention_mode = 2;

/// What an attention mask holds.
pub type kfa_mask_kind = i32;
/// No mask.
pub const KFA_MASK_NONE: kfa_mask_kind = 0;
/// Numbers added to the scaled scores.
pub const KFA_MASK_ADDITIVE: kfa_mask_kind = 1;
/// Bytes: non-zero where the key may be seen.
pub const KFA_MASK_BOOLEAN: kfa_mask_kind = 2;

/// Results are bit-identical whatever the number of threads. Without it they are from run to run, at
/// a fixed number of threads: decode on the CPU cuts contexts finer for more threads than key/value
/// heads.
pub const KFA_FLAG_DETERMINISTIC: u32 = 1;
/// A row's result does not depend on the batch it is in nor on how its sequence was chunked.
pub const KFA_FLAG_BATCH_INVARIANT: u32 = 2;
/// Permits arithmetic that is faster and less exact than float32.
pub const KFA_FLAG_FAST_MATH: u32 = 4;

/// Severity of a log line.
pub type kfa_log_level = i32;
/// The library did something other than the caller may expect, such as a fallback.
pub const KFA_LOG_WARNING: kfa_log_level = 1;

/// Receives log lines (without a newline) from any thread that calls the library.
pub type kfa_log_callback = Option<
    unsafe extern "C-unwind" fn(level: kfa_log_level, message: *const c_char, user: *mut c_void),
>;

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
    /// Type of an additive mask's elements.
    pub dtype: kfa_dtype,
    /// Elements from one sequence to the next; 0 shares the mask.
    pub batch_stride: i64,
    /// Elements from one head to the next; 0 shares the mask.
    pub head_stride: i64,
    /// Elements from one query row to the next.
    pub row_stride: i64,
}

/// One attention problem: `output = softmax(scale * query . key^T + masks) . value`.
///
/// Start from `kfa_attention_desc_init()`, which sets `struct_size` and every default. A feature
/// that this version does not implement is refused with `KFA_ERROR_UNSUPPORTED` and its name.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kfa_attention_desc {
    /// `sizeof(kfa_attention_desc)` as the caller compiled it.
    pub struct_size: u32,
    /// `KFA_FLAG_*` bits; default 0.
    pub flags: u32,
    /// Where all tensors lie; default `KFA_DEVICE_CPU`.
    pub device: kfa_device_type,
    /// CUDA device ordinal, or -1 (default): the device that the pointers belong to.
    pub device_index: i32,
    /// Which kernels may serve the call; default `KFA_ATTENTION_MODE_AUTO`.
    pub mode: kfa_attention_mode,
    /// 1: causal, aligned bottom-right, so the newest row sees all `kv_len` keys and row `i` sees
    /// keys `0 ..= kv_len - q_len + i`. 0: every row sees every key. Default 1.
    pub is_causal: i32,
    /// Sequences in the batch; default 1.
    pub batch: i32,
    /// Query rows per sequence: 1 is decode, `kv_len` is full prefill, between is chunked prefill.
    pub q_len: i32,
    /// Valid keys per sequence (the engine's `pos + 1`), not the cache's capacity.
    pub kv_len: i32,
    /// Query heads.
    pub heads: i32,
    /// Key/value heads; divides `heads`. Query head `h` reads key/value head
    /// `h / (heads / kv_heads)`.
    pub kv_heads: i32,
    /// Elements per head of query and key.
    pub head_dim: i32,
    /// Elements per head of value and output; 0 (default) means `head_dim`.
    pub value_head_dim: i32,
    /// Factor on the scores; 0 (default) means `1 / sqrt(head_dim)`.
    pub softmax_scale: f32,
    /// Scores become `softcap * tanh(score / softcap)`; 0 (default) is off.
    pub softcap: f32,
    /// Each row sees only this many of its newest keys; 0 (default) is off.
    pub sliding_window: i32,
    /// `[batch, q_len, heads, head_dim]`.
    pub query: kfa_tensor_view,
    /// `[batch, kv_len, kv_heads, head_dim]`.
    pub key: kfa_tensor_view,
    /// `[batch, kv_len, kv_heads, value_head_dim]`.
    pub value: kfa_tensor_view,
    /// `[batch, q_len, heads, value_head_dim]`. May be exactly the query view (same pointer and
    /// strides); any other overlap with an input is refused.
    pub output: kfa_tensor_view,
    /// Optional natural-log sum of exponentials per row, `[batch, heads, q_len]`, packed.
    /// A row that sees no key has output 0 and LSE -infinity.
    pub lse: *mut f32,
    /// Optional explicit mask; `kind` 0 (default) is off.
    pub mask: kfa_attention_mask,
    /// Optional ALiBi slope per head, `[heads]`.
    pub alibi_slopes: *const f32,
    /// Optional attention-sink logit per head, `[heads]`.
    pub sinks: *const f32,
    /// Optional prefix sums of query lengths, `[batch + 1]`, for packed variable-length queries.
    pub query_offsets: *const i32,
    /// Optional prefix sums of key lengths, `[batch + 1]`, for packed variable-length keys.
    pub kv_offsets: *const i32,
    /// Optional valid keys of each sequence, `[batch]`, at most `kv_len`.
    pub kv_lens: *const i32,
    /// Optional page table `[batch, pages]` of a paged cache.
    pub page_table: *const i32,
    /// Elements from one sequence's row of the page table to the next.
    pub page_table_stride: i64,
    /// Tokens per page.
    pub page_size: i32,
    /// Must be 0.
    pub reserved: i32,
    /// Optional scale of quantised keys.
    pub key_scale: *const f32,
    /// Optional scale of quantised values.
    pub value_scale: *const f32,
    /// Optional position of the newest query row in device memory, read when the kernel runs, so
    /// that a captured CUDA graph serves every token. The valid keys are then `0 ..= *pos_device`,
    /// and `kv_len` is the most that they may become, which the launch is planned for. CUDA only.
    pub pos_device: *const i32,
    /// CUDA stream (`cudaStream_t`) the work is enqueued on; NULL on the CPU.
    pub stream: *mut c_void,
    /// Scratch of at least `kfa_attention_workspace_size()` bytes, aligned to 4, where the tensors
    /// lie; NULL if that is 0. On CUDA it is in use until the enqueued work is done: calls that may
    /// run at the same time, on several streams, need one each.
    pub workspace: *mut c_void,
    /// Bytes at `workspace`.
    pub workspace_size: usize,
}

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
    /// Must be 0.
    pub reserved: i32,
    /// `parts` pointers to float32 `[batch, q_len, heads, head_dim]`, packed.
    pub outputs: *const *const f32,
    /// `parts` pointers to float32 `[batch, heads, q_len]`, packed.
    pub lses: *const *const f32,
    /// Receives the merged `[batch, q_len, heads, head_dim]`; may be one of `outputs`.
    pub output: *mut f32,
    /// Receives the merged `[batch, heads, q_len]`, or NULL; may be one of `lses`.
    pub lse: *mut f32,
    /// CUDA stream the work is enqueued on; NULL on the CPU.
    pub stream: *mut c_void,
}

/// Flash attention over the engine's tensors, of type float32, float16 or bfloat16; see
/// `kfa_get_flash_attention_kernel()`.
///
/// - `query`: `[q_len, head_num, head_size]`, flat; `q_len = query->size / (head_num * head_size)`.
/// - `key`, `value`: caches `[layer_num, seq_len, kv_head_num * head_size]`.
/// - `output`: like `query`; may be the same memory.
/// - `seq_len`: the cache's capacity in tokens (its layer stride), not the valid keys.
/// - `pos`: position of the newest query row, so keys `0 ..= pos` are valid.
/// - `layer_idx`: which layer of the caches.
/// - `softmax_scale`: 0 means `1 / sqrt(head_size)`.
/// - `stream`: CUDA stream, NULL on the CPU.
pub type kfa_flash_attention_kernel = Option<
    unsafe extern "C" fn(
        query: *const kfa_tensor,
        key: *const kfa_tensor,
        value: *const kfa_tensor,
        output: *const kfa_tensor,
        head_num: i32,
        kv_head_num: i32,
        head_size: i32,
        seq_len: i32,
        pos: i32,
        layer_idx: i32,
        softmax_scale: f32,
        is_causal: bool,
        device: kfa_device_type,
        stream: *mut c_void,
    ) -> kfa_status,
>;

/// Multi-head attention over the engine's tensors; see `kfa_get_mha_kernel()` and
/// `kfa_get_standard_mha_kernel()`.
///
/// - `mha_out`, `query`: `[q_len, head_num, head_size]`, flat.
/// - `score`: score storage, used by standard MHA alone: at least `head_num * seq_len` float32
///   elements, rows being processed as many at a time as it holds, and all at once from
///   `head_num * q_len * seq_len`. NULL, or a tensor without data: the library brings its own.
/// - `key_cache`, `value_cache`: `[layer_num, seq_len, kv_dim]`.
/// - `kv_mul`: query heads per key/value head.
pub type kfa_mha_kernel = Option<
    unsafe extern "C" fn(
        pos: i32,
        head_num: i32,
        layer_index: i32,
        seq_len: i32,
        kv_dim: i32,
        kv_mul: i32,
        head_size: i32,
        mha_out: *const kfa_tensor,
        query: *const kfa_tensor,
        score: *const kfa_tensor,
        key_cache: *const kfa_tensor,
        value_cache: *const kfa_tensor,
        device: kfa_device_type,
        stream: *mut c_void,
    ) -> kfa_status,
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

/// Every default of a description.
pub(crate) const DEFAULT_DESC: kfa_attention_desc = kfa_attention_desc {
    struct_size: size_of::<kfa_attention_desc>() as u32,
    flags: 0,
    device: KFA_DEVICE_CPU,
    device_index: -1,
    mode: KFA_ATTENTION_MODE_AUTO,
    is_causal: 1,
    batch: 1,
    q_len: 0,
    kv_len: 0,
    heads: 0,
    kv_heads: 0,
    head_dim: 0,
    value_head_dim: 0,
    softmax_scale: 0.0,
    softcap: 0.0,
    sliding_window: 0,
    query: NO_VIEW,
    key: NO_VIEW,
    value: NO_VIEW,
    output: NO_VIEW,
    lse: null_mut(),
    mask: kfa_attention_mask {
        data: null(),
        kind: KFA_MASK_NONE,
        dtype: KFA_DTYPE_FP32,
        batch_stride: 0,
        head_stride: 0,
        row_stride: 0,
    },
    alibi_slopes: null(),
    sinks: null(),
    query_offsets: null(),
    kv_offsets: null(),
    kv_lens: null(),
    page_table: null(),
    page_table_stride: 0,
    page_size: 0,
    reserved: 0,
    key_scale: null(),
    value_scale: null(),
    pos_device: null(),
    stream: null_mut(),
    workspace: null_mut(),
    workspace_size: 0,
};
