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
/// Memory of a ROCm device; this version has no backend for it.
pub const KFA_DEVICE_ROCM: kfa_device_type = 3;
/// Memory of an Intel GPU; this version has no backend for it.
pub const KFA_DEVICE_XPU: kfa_device_type = 4;

/// Element type; the first numbers are the engine's `base::DataType`. Of a packed type, strides
/// count elements; of a block type, blocks, and a head holds whole blocks.
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
/// 8-bit float with 5 exponent bits.
pub const KFA_DTYPE_FP8_E5M2: kfa_dtype = 7;
/// 4-bit signed integer, two in a byte, the first in the lower half; strides are even.
pub const KFA_DTYPE_INT4: kfa_dtype = 8;
/// 4-bit unsigned integer, packed like `KFA_DTYPE_INT4`.
pub const KFA_DTYPE_UINT4: kfa_dtype = 9;
/// 8-bit unsigned integer.
pub const KFA_DTYPE_UINT8: kfa_dtype = 10;
/// ggml's block of 32 4-bit integers and a scale. Block types are 32 + ggml's own number.
pub const KFA_DTYPE_Q4_0: kfa_dtype = 34;
/// ggml's block of 32 4-bit integers, a scale and a minimum.
pub const KFA_DTYPE_Q4_1: kfa_dtype = 35;
/// ggml's block of 32 5-bit integers and a scale.
pub const KFA_DTYPE_Q5_0: kfa_dtype = 38;
/// ggml's block of 32 5-bit integers, a scale and a minimum.
pub const KFA_DTYPE_Q5_1: kfa_dtype = 39;
/// ggml's block of 32 8-bit integers and a scale.
pub const KFA_DTYPE_Q8_0: kfa_dtype = 40;
/// ggml's block of 32 4-bit indices into a fixed table and a scale.
pub const KFA_DTYPE_IQ4_NL: kfa_dtype = 52;

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
/// float32, fp16 or bf16 numbers added to the scores; -infinity hides the key.
pub const KFA_MASK_ADDITIVE: kfa_mask_kind = 1;
/// Bytes: non-zero where the key may be seen.
pub const KFA_MASK_BOOLEAN: kfa_mask_kind = 2;
/// Bits, a byte's least significant first: 1 where the key may be seen. Strides count bits.
pub const KFA_MASK_BITS: kfa_mask_kind = 3;

/// Which elements of a head RoPE turns together.
pub type kfa_rope_style = i32;
/// Element `i` and `i + rotary_dim / 2` (NeoX, Hugging Face).
pub const KFA_ROPE_NEOX: kfa_rope_style = 0;
/// Elements `2 i` and `2 i + 1` (GPT-J, ggml's normal).
pub const KFA_ROPE_INTERLEAVED: kfa_rope_style = 1;

/// Results are bit-identical whatever the number of threads. Without it they are from run to run, at
/// a fixed number of threads: decode on the CPU cuts contexts finer for more threads than key/value
/// heads.
pub const KFA_FLAG_DETERMINISTIC: u32 = 1;
/// A row's result does not depend on the batch it is in nor on how its sequence was chunked.
pub const KFA_FLAG_BATCH_INVARIANT: u32 = 2;
/// Permits arithmetic that is faster and less exact than float32. No kernel of this version has
/// such arithmetic, so the flag is refused with `KFA_ERROR_UNSUPPORTED`.
pub const KFA_FLAG_FAST_MATH: u32 = 4;
/// LSE is the base-2 logarithm of the sum of exponentials instead of the natural one.
pub const KFA_FLAG_LSE_BASE2: u32 = 8;

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
    /// 1: causal, aligned bottom-right, so the newest row sees all `kv_len` keys and row `i`, at
    /// position `kv_len - q_len + i`, sees the keys up to that. 2: causal, aligned top-left: row `i`
    /// is at position `i`. 0: every row, at the positions of 1, sees every key. Default 1.
    pub is_causal: i32,
    /// Sequences in the batch; default 1.
    pub batch: i32,
    /// Query rows per sequence: 1 is decode, `kv_len` is full prefill, between is chunked prefill.
    /// With `q_lens` or `query_offsets`, the most rows that a sequence has.
    pub q_len: i32,
    /// Valid keys per sequence (the engine's `pos + 1`), not the cache's capacity. With `kv_lens` or
    /// `kv_offsets`, the most keys that a sequence has.
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
    /// Factor on the scores: 0 (default) means `1 / sqrt(head_dim)`, which is refused where key and
    /// value share memory (MLA: it would be wrong); else finite, and on CUDA of magnitude 1.2e-38 to
    /// 2.3e38.
    pub softmax_scale: f32,
    /// Scores become `softcap * tanh(score / softcap)`; 0 (default) is off.
    pub softcap: f32,
    /// Each row sees only this many of its newest keys, the one at its own position included;
    /// 0 (default) is off. (FlashAttention and FlashInfer call this a left window of one less.)
    pub sliding_window: i32,
    /// `[batch, q_len, heads, head_dim]`.
    pub query: kfa_tensor_view,
    /// `[batch, kv_len, kv_heads, head_dim]`; in a paged cache `[pages, page_size, kv_heads,
    /// head_dim]`, where `batch_stride` leads from page to page.
    pub key: kfa_tensor_view,
    /// `[batch, kv_len, kv_heads, value_head_dim]`, or in pages; may be a view of the key's memory.
    pub value: kfa_tensor_view,
    /// `[batch, q_len, heads, value_head_dim]`. May be exactly the query view (same pointer and
    /// strides); any other overlap with an input is refused.
    pub output: kfa_tensor_view,
    /// Optional natural-log sum of exponentials per row, `[batch, heads, q_len]`, packed unless the
    /// `lse_*_stride` say otherwise. A row that sees no key has output 0 and LSE -infinity (with a
    /// sink: the sink).
    pub lse: *mut f32,
    /// Optional explicit mask; `kind` 0 (default) is off. See the `mask_*` fields, too.
    pub mask: kfa_attention_mask,
    /// Optional ALiBi slopes `[heads]` (or per sequence, `alibi_batch_stride`): the score of a key at
    /// distance `n` from the row's position falls by `slope * n`.
    pub alibi_slopes: *const f32,
    /// Optional attention-sink logit per head, `[heads]`: one more term of the softmax's denominator.
    pub sinks: *const f32,
    /// Optional prefix sums of query lengths, `[batch + 1]`, for packed variable-length queries:
    /// sequence `b` has rows `query_offsets[b]` to `query_offsets[b + 1]` of query and output, whose
    /// `batch_stride` is ignored. The LSE is then `[rows, heads]`.
    ///
    /// These arrays and all that follow (lengths, tables, offsets) lie where the tensors lie. On the
    /// CPU they are checked against the bounds that the description gives; on CUDA they are read when
    /// the kernels run.
    pub query_offsets: *const i32,
    /// Optional prefix sums of key lengths, `[batch + 1]`, for packed variable-length keys.
    pub kv_offsets: *const i32,
    /// Optional end of each sequence's valid keys, `[batch]`, 0 to `kv_len`; counts appended keys.
    pub kv_lens: *const i32,
    /// Page table `[batch, pages of a sequence]` of a paged cache; set together with `page_size`.
    /// Entries of pages that no row sees are not read.
    pub page_table: *const i32,
    /// Elements from one sequence's row of the page table to the next; 0 (default) means
    /// `kv_len / page_size`, rounded up. With `page_offsets`, the size of the whole table.
    pub page_table_stride: i64,
    /// Tokens per page, at least 1; 0 (default) means a cache without pages.
    pub page_size: i32,
    /// Keys after its own position that a row sees where `is_causal` is 0; 0 (default) means all.
    pub window_right: i32,
    /// How quantised keys are read; NULL (default) for float and block types.
    pub key_quant: *const kfa_quant,
    /// How quantised values are read; NULL (default) for float and block types.
    pub value_quant: *const kfa_quant,
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
    /// Optional query rows of each sequence, `[batch]`, 0 to `q_len`. Rows past them are not written.
    pub q_lens: *const i32,
    /// Optional first valid key of each sequence, `[batch]` (left padding). Keys before it are hidden;
    /// positions still count from key 0.
    pub kv_starts: *const i32,
    /// Optional entry of the cache's batch axis that each sequence reads, `[batch]`, below
    /// `cache_batch`. Not in a paged or packed cache.
    pub cache_index: *const i32,
    /// Optional prefix sums of page counts, `[batch + 1]`: sequence `b` has the entries
    /// `page_offsets[b]` to `page_offsets[b + 1]` of `page_table`.
    pub page_offsets: *const i32,
    /// Optional page table of the values, laid out like `page_table`; NULL (default) means the same.
    pub value_page_table: *const i32,
    /// Pages of the cache, which bounds the tables' entries; needed with `page_size`.
    pub pages: i32,
    /// Entries of the cache's batch axis; needed with `cache_index`.
    pub cache_batch: i32,
    /// Rows of the packed query and output, at least `query_offsets[batch]`; 0 (default) means that,
    /// and on CUDA, where it cannot be read, `batch * q_len`.
    pub query_rows: i32,
    /// Rows of the packed key and value, at least `kv_offsets[batch]`; 0 (default) means that, and on
    /// CUDA `batch * kv_len`.
    pub kv_rows: i32,
    /// A row sees only keys `k` with the same `k / attention_chunk` as its own position; 0 (default)
    /// is off.
    pub attention_chunk: i32,
    /// With `KFA_FLAG_BATCH_INVARIANT`: contexts are cut at multiples of this many keys from key 0, a
    /// multiple of 64; 0 (default) leaves the choice to the library.
    pub split_keys: i32,
    /// Optional exclusive end of the keys that a row sees although causal, `[batch, q_len]` or packed
    /// like the queries: for the rows of an image the image's end, 0 for others. A window, a chunk and
    /// the sequence's end still hide what they hide.
    pub span_ends: *const i32,
    /// Slopes from one sequence to the next; 0 (default) shares them.
    pub alibi_batch_stride: i64,
    /// Elements of the LSE from one sequence to the next. All three strides 0 (default): packed.
    pub lse_batch_stride: i64,
    /// Elements of the LSE from one head to the next.
    pub lse_head_stride: i64,
    /// Elements of the LSE from one row to the next.
    pub lse_row_stride: i64,
    /// Optional first element of each sequence's mask, `[batch]`, instead of `mask.batch_stride`.
    pub mask_offsets: *const i64,
    /// Optional factor on an additive mask per head, `[heads]`.
    pub mask_head_factor: *const f32,
    /// Keys that a mask row speaks of; 0 (default) means `kv_len`. It leaves all others alone.
    pub mask_columns: i32,
    /// 0 (default): they are keys 0 to `mask_columns - 1`. 1: they are the newest of the sequence.
    pub mask_newest: i32,
    /// RMS norm of queries and new keys; NULL (default) is off.
    pub norm: *const kfa_norm,
    /// Rotary embedding of queries and new keys; NULL (default) is off.
    pub rope: *const kfa_rope,
    /// New keys and values for the cache; NULL (default) is off, and then no input is ever written.
    pub append: *const kfa_append,
    /// The most threads that this call may use; 0 (default) means the process's setting. CPU only.
    pub threads: i32,
    /// Must be 0.
    pub reserved: i32,
    /// The host's own threads for this call, of which there are `threads`; NULL (default) means the
    /// library's. CPU only.
    pub parallel: kfa_parallel,
    /// Handed to `parallel`.
    pub pool: *mut c_void,
}

/// Bytes of the first released `kfa_attention_desc`, the least that a caller's may have.
pub(crate) const FIRST_DESC_SIZE: usize = std::mem::offset_of!(kfa_attention_desc, q_lens);

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
    window_right: 0,
    key_quant: null(),
    value_quant: null(),
    pos_device: null(),
    stream: null_mut(),
    workspace: null_mut(),
    workspace_size: 0,
    // From here on zero bits throughout: what an older or shorter struct does not say.
    q_lens: null(),
    kv_starts: null(),
    cache_index: null(),
    page_offsets: null(),
    value_page_table: null(),
    pages: 0,
    cache_batch: 0,
    query_rows: 0,
    kv_rows: 0,
    attention_chunk: 0,
    split_keys: 0,
    span_ends: null(),
    alibi_batch_stride: 0,
    lse_batch_stride: 0,
    lse_head_stride: 0,
    lse_row_stride: 0,
    mask_offsets: null(),
    mask_head_factor: null(),
    mask_columns: 0,
    mask_newest: 0,
    norm: null(),
    rope: null(),
    append: null(),
    threads: 0,
    reserved: 0,
    parallel: None,
    pool: null_mut(),
};

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
