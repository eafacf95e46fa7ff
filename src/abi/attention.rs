//! The attention problem and its defaults.

use super::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

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
    /// Flash kernels divide last: values up to 3.4e38 over the number of keys cannot overflow.
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
