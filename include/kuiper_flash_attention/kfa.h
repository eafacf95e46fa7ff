/*
 * Kuiper FlashAttention: attention kernels behind a C ABI.
 *
 * Generated from src/abi and src/capi by cbindgen; do not edit. `make header` writes it anew.
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef KUIPER_FLASH_ATTENTION_KFA_H
#define KUIPER_FLASH_ATTENTION_KFA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Results are bit-identical whatever the number of threads. Without it they are from run to run, at
 * a fixed number of threads: decode on the CPU cuts contexts finer for more threads than key/value
 * heads.
 */
#define KFA_FLAG_DETERMINISTIC 1

/**
 * A row's result does not depend on the batch it is in nor on how its sequence was chunked.
 */
#define KFA_FLAG_BATCH_INVARIANT 2

/**
 * Permits arithmetic that is faster and less exact than float32. No kernel of this version has
 * such arithmetic, so the flag is refused with `KFA_ERROR_UNSUPPORTED`.
 */
#define KFA_FLAG_FAST_MATH 4

/**
 * LSE is the base-2 logarithm of the sum of exponentials instead of the natural one.
 */
#define KFA_FLAG_LSE_BASE2 8

/**
 * Major version of the header: a change breaks the ABI.
 */
#define KFA_VERSION_MAJOR 0

/**
 * Minor version of the header.
 */
#define KFA_VERSION_MINOR 1

/**
 * Patch version of the header.
 */
#define KFA_VERSION_PATCH 0

/**
 * A flash attention layer; see `kfa_flash_attention_layer_create()`. One layer object serves all
 * layers of a model, one thread at a time.
 */
typedef struct kfa_flash_attention_layer kfa_flash_attention_layer;

/**
 * Result of a call: `KFA_OK` or one of the `KFA_ERROR_*` codes.
 */
typedef int32_t kfa_status;

/**
 * Where tensors lie; the numbers are the engine's `base::DeviceType`.
 */
typedef int32_t kfa_device_type;

/**
 * Which family of kernels may serve a call.
 */
typedef int32_t kfa_attention_mode;

/**
 * Element type; the first numbers are the engine's `base::DataType`. Of a packed type, strides
 * count elements; of a block type, blocks, and a head holds whole blocks.
 */
typedef int32_t kfa_dtype;

/**
 * A strided view of `[batch, rows, heads, head_dim]` with unit innermost stride.
 *
 * Strides count elements and are not negative. All three 0 means densely packed in that order.
 * A stride of 0 beside others broadcasts an input over that axis.
 */
typedef struct kfa_tensor_view {
  /**
   * First element, aligned to its type.
   */
  void *data;
  /**
   * Type of the elements.
   */
  kfa_dtype dtype;
  /**
   * Must be 0.
   */
  int32_t reserved;
  /**
   * Elements from one sequence of the batch to the next.
   */
  int64_t batch_stride;
  /**
   * Elements from one token to the next.
   */
  int64_t row_stride;
  /**
   * Elements from one head to the next.
   */
  int64_t head_stride;
} kfa_tensor_view;

/**
 * What an attention mask holds.
 */
typedef int32_t kfa_mask_kind;

/**
 * An explicit attention mask `[batch, heads, q_len, kv_len]`, unit innermost stride.
 */
typedef struct kfa_attention_mask {
  /**
   * First element, or NULL for no mask.
   */
  const void *data;
  /**
   * What the elements mean.
   */
  kfa_mask_kind kind;
  /**
   * Type of an additive mask's elements: fp32 (default), fp16 or bf16. Otherwise ignored.
   */
  kfa_dtype dtype;
  /**
   * Elements (of a bit mask: bits) from one sequence to the next; 0 shares the mask.
   */
  int64_t batch_stride;
  /**
   * Elements from one head to the next; 0 shares the mask.
   */
  int64_t head_stride;
  /**
   * Elements from one query row to the next; 0 shares one row.
   */
  int64_t row_stride;
} kfa_attention_mask;

/**
 * How a quantised cache is read: `value = (stored - zero) * scale`.
 *
 * Scales and zero points are arrays of one layout, `[batch or page, token group, head, channel
 * group]` by strides, of which each may be 0 to share: all 0 is one scale for the tensor,
 * `head_stride` alone one per head, `token_stride` and `head_stride` one per token and head.
 * Like every struct that a description points to, it may grow at its end: set it to zero bytes,
 * then `struct_size`.
 */
typedef struct kfa_quant {
  /**
   * `sizeof(kfa_quant)` as the caller compiled it.
   */
  uint32_t struct_size;
  /**
   * Type of scales and zero points: fp32, fp16 or bf16.
   */
  kfa_dtype dtype;
  /**
   * First scale, aligned to its type, where the tensors lie.
   */
  const void *scale;
  /**
   * First zero point, or NULL (default) for 0 throughout.
   */
  const void *zero;
  /**
   * Tokens that share a scale; 0 (default) means 1. Divides `page_size` in a paged cache.
   */
  int32_t token_group;
  /**
   * Elements of a head that share a scale; 0 (default) means the whole head. Divides its size.
   */
  int32_t channel_group;
  /**
   * Scales from one sequence, or page, to the next.
   */
  int64_t batch_stride;
  /**
   * Scales from one token group to the next.
   */
  int64_t token_stride;
  /**
   * Scales from one key/value head to the next.
   */
  int64_t head_stride;
  /**
   * Scales from one channel group to the next.
   */
  int64_t channel_stride;
} kfa_quant;

/**
 * RMS norm of queries and new keys over each head, before RoPE:
 * `x * weight / sqrt(mean(x^2) + epsilon)`.
 */
typedef struct kfa_norm {
  /**
   * `sizeof(kfa_norm)` as the caller compiled it.
   */
  uint32_t struct_size;
  /**
   * Type of the weights: fp32, fp16 or bf16.
   */
  kfa_dtype dtype;
  /**
   * `[head_dim]` weights of the queries' norm, or NULL to leave queries as they are.
   */
  const void *query_weight;
  /**
   * `[head_dim]` weights of the new keys' norm, or NULL to leave keys as they are.
   */
  const void *key_weight;
  /**
   * Added to the mean square; 0 or more.
   */
  float epsilon;
  /**
   * Must be 0.
   */
  int32_t reserved;
} kfa_norm;

/**
 * Which elements of a head RoPE turns together.
 */
typedef int32_t kfa_rope_style;

/**
 * Rotary embedding of queries and new keys; keys that the cache already holds are left alone.
 */
typedef struct kfa_rope {
  /**
   * `sizeof(kfa_rope)` as the caller compiled it.
   */
  uint32_t struct_size;
  /**
   * Which elements are turned together; default `KFA_ROPE_NEOX`.
   */
  kfa_rope_style style;
  /**
   * Elements of a head that are turned, even; 0 (default) means `head_dim`.
   */
  int32_t rotary_dim;
  /**
   * First element that is turned; default 0.
   */
  int32_t offset;
  /**
   * Type of the tables: fp32, fp16 or bf16.
   */
  kfa_dtype dtype;
  /**
   * 0 (default): a token takes the tables' row of its absolute position. 1: row `i` of sequence
   * `b` takes row `b * q_len + i`, or of packed queries its own row.
   */
  int32_t by_row;
  /**
   * Cosines `[rows, rotary_dim / 2]`, unit innermost stride.
   */
  const void *cos;
  /**
   * Sines, likewise.
   */
  const void *sin;
  /**
   * Elements from one row of the tables to the next; 0 (default) means `rotary_dim / 2`.
   */
  int64_t row_stride;
  /**
   * Rows of the tables; every position (or row) that is used lies below.
   */
  int32_t rows;
  /**
   * Must be 0.
   */
  int32_t reserved;
} kfa_rope;

/**
 * New keys and values that are written to the cache, normed, turned and quantised as the
 * description says, before any key is read. `kv_len` and `kv_lens` count them.
 */
typedef struct kfa_append {
  /**
   * `sizeof(kfa_append)` as the caller compiled it.
   */
  uint32_t struct_size;
  /**
   * Must be 0.
   */
  int32_t reserved;
  /**
   * `[batch, q_len, kv_heads, head_dim]`, or packed like the queries; fp32, fp16 or bf16.
   */
  struct kfa_tensor_view key;
  /**
   * `[batch, q_len, kv_heads, value_head_dim]`, likewise. Neither may overlap the cache.
   */
  struct kfa_tensor_view value;
  /**
   * Where each new token goes, `[batch, q_len]` or packed like the queries: in a paged cache
   * `page * page_size + token`, else the row of the sequence's cache; -1 is not stored. NULL
   * (default): the newest `q_len` rows of each sequence.
   */
  const int64_t *slots;
} kfa_append;

/**
 * One task of a host's thread pool.
 */
typedef void (*kfa_task)(void *argument, int32_t index);

/**
 * A host's own threads: runs `task(argument, index)` once for each index from 0 to `tasks - 1`, on
 * any threads, the caller's included, and returns when all are done. No task waits for another.
 * It must not throw.
 */
typedef void (*kfa_parallel)(void *pool, int32_t tasks, kfa_task task, void *argument);

/**
 * One attention problem: `output = softmax(scale * query . key^T + masks) . value`.
 *
 * Start from `kfa_attention_desc_init()`, which sets `struct_size` and every default. A feature
 * that this version does not implement is refused with `KFA_ERROR_UNSUPPORTED` and its name.
 */
typedef struct kfa_attention_desc {
  /**
   * `sizeof(kfa_attention_desc)` as the caller compiled it.
   */
  uint32_t struct_size;
  /**
   * `KFA_FLAG_*` bits; default 0.
   */
  uint32_t flags;
  /**
   * Where all tensors lie; default `KFA_DEVICE_CPU`.
   */
  kfa_device_type device;
  /**
   * CUDA device ordinal, or -1 (default): the device that the pointers belong to.
   */
  int32_t device_index;
  /**
   * Which kernels may serve the call; default `KFA_ATTENTION_MODE_AUTO`.
   */
  kfa_attention_mode mode;
  /**
   * 1: causal, aligned bottom-right, so the newest row sees all `kv_len` keys and row `i`, at
   * position `kv_len - q_len + i`, sees the keys up to that. 2: causal, aligned top-left: row `i`
   * is at position `i`. 0: every row, at the positions of 1, sees every key. Default 1.
   */
  int32_t is_causal;
  /**
   * Sequences in the batch; default 1.
   */
  int32_t batch;
  /**
   * Query rows per sequence: 1 is decode, `kv_len` is full prefill, between is chunked prefill.
   * With `q_lens` or `query_offsets`, the most rows that a sequence has.
   */
  int32_t q_len;
  /**
   * Valid keys per sequence (the engine's `pos + 1`), not the cache's capacity. With `kv_lens` or
   * `kv_offsets`, the most keys that a sequence has.
   */
  int32_t kv_len;
  /**
   * Query heads.
   */
  int32_t heads;
  /**
   * Key/value heads; divides `heads`. Query head `h` reads key/value head
   * `h / (heads / kv_heads)`.
   */
  int32_t kv_heads;
  /**
   * Elements per head of query and key.
   */
  int32_t head_dim;
  /**
   * Elements per head of value and output; 0 (default) means `head_dim`.
   */
  int32_t value_head_dim;
  /**
   * Factor on the scores: 0 (default) means `1 / sqrt(head_dim)`, which is refused where key and
   * value share memory (MLA: it would be wrong); else finite, and on CUDA of magnitude 1.2e-38 to
   * 2.3e38.
   */
  float softmax_scale;
  /**
   * Scores become `softcap * tanh(score / softcap)`; 0 (default) is off.
   */
  float softcap;
  /**
   * Each row sees only this many of its newest keys, the one at its own position included;
   * 0 (default) is off. (FlashAttention and FlashInfer call this a left window of one less.)
   */
  int32_t sliding_window;
  /**
   * `[batch, q_len, heads, head_dim]`.
   */
  struct kfa_tensor_view query;
  /**
   * `[batch, kv_len, kv_heads, head_dim]`; in a paged cache `[pages, page_size, kv_heads,
   * head_dim]`, where `batch_stride` leads from page to page.
   */
  struct kfa_tensor_view key;
  /**
   * `[batch, kv_len, kv_heads, value_head_dim]`, or in pages; may be a view of the key's memory.
   * Flash kernels divide last: values up to 3.4e38 over the number of keys cannot overflow.
   */
  struct kfa_tensor_view value;
  /**
   * `[batch, q_len, heads, value_head_dim]`. May be exactly the query view (same pointer and
   * strides); any other overlap with an input is refused.
   */
  struct kfa_tensor_view output;
  /**
   * Optional natural-log sum of exponentials per row, `[batch, heads, q_len]`, packed unless the
   * `lse_*_stride` say otherwise. A row that sees no key has output 0 and LSE -infinity (with a
   * sink: the sink).
   */
  float *lse;
  /**
   * Optional explicit mask; `kind` 0 (default) is off. See the `mask_*` fields, too.
   */
  struct kfa_attention_mask mask;
  /**
   * Optional ALiBi slopes `[heads]` (or per sequence, `alibi_batch_stride`): the score of a key at
   * distance `n` from the row's position falls by `slope * n`.
   */
  const float *alibi_slopes;
  /**
   * Optional attention-sink logit per head, `[heads]`: one more term of the softmax's denominator.
   */
  const float *sinks;
  /**
   * Optional prefix sums of query lengths, `[batch + 1]`, for packed variable-length queries:
   * sequence `b` has rows `query_offsets[b]` to `query_offsets[b + 1]` of query and output, whose
   * `batch_stride` is ignored. The LSE is then `[rows, heads]`.
   *
   * These arrays and all that follow (lengths, tables, offsets) lie where the tensors lie. On the
   * CPU they are checked against the bounds that the description gives; on CUDA they are read when
   * the kernels run.
   */
  const int32_t *query_offsets;
  /**
   * Optional prefix sums of key lengths, `[batch + 1]`, for packed variable-length keys.
   */
  const int32_t *kv_offsets;
  /**
   * Optional end of each sequence's valid keys, `[batch]`, 0 to `kv_len`; counts appended keys.
   */
  const int32_t *kv_lens;
  /**
   * Page table `[batch, pages of a sequence]` of a paged cache; set together with `page_size`.
   * Entries of pages that no row sees are not read.
   */
  const int32_t *page_table;
  /**
   * Elements from one sequence's row of the page table to the next; 0 (default) means
   * `kv_len / page_size`, rounded up. With `page_offsets`, the size of the whole table.
   */
  int64_t page_table_stride;
  /**
   * Tokens per page, at least 1; 0 (default) means a cache without pages.
   */
  int32_t page_size;
  /**
   * Keys after its own position that a row sees where `is_causal` is 0; 0 (default) means all.
   */
  int32_t window_right;
  /**
   * How quantised keys are read; NULL (default) for float and block types.
   */
  const struct kfa_quant *key_quant;
  /**
   * How quantised values are read; NULL (default) for float and block types.
   */
  const struct kfa_quant *value_quant;
  /**
   * Optional position of the newest query row in device memory, read when the kernel runs, so
   * that a captured CUDA graph serves every token. The valid keys are then `0 ..= *pos_device`,
   * and `kv_len` is the most that they may become, which the launch is planned for. CUDA only.
   */
  const int32_t *pos_device;
  /**
   * CUDA stream (`cudaStream_t`) the work is enqueued on; NULL on the CPU.
   */
  void *stream;
  /**
   * Scratch of at least `kfa_attention_workspace_size()` bytes, aligned to 4, where the tensors
   * lie; NULL if that is 0. On CUDA it is in use until the enqueued work is done: calls that may
   * run at the same time, on several streams, need one each.
   */
  void *workspace;
  /**
   * Bytes at `workspace`.
   */
  size_t workspace_size;
  /**
   * Optional query rows of each sequence, `[batch]`, 0 to `q_len`. Rows past them are not written.
   */
  const int32_t *q_lens;
  /**
   * Optional first valid key of each sequence, `[batch]` (left padding). Keys before it are hidden;
   * positions still count from key 0.
   */
  const int32_t *kv_starts;
  /**
   * Optional entry of the cache's batch axis that each sequence reads, `[batch]`, below
   * `cache_batch`. Not in a paged or packed cache.
   */
  const int32_t *cache_index;
  /**
   * Optional prefix sums of page counts, `[batch + 1]`: sequence `b` has the entries
   * `page_offsets[b]` to `page_offsets[b + 1]` of `page_table`.
   */
  const int32_t *page_offsets;
  /**
   * Optional page table of the values, laid out like `page_table`; NULL (default) means the same.
   */
  const int32_t *value_page_table;
  /**
   * Pages of the cache, which bounds the tables' entries; needed with `page_size`.
   */
  int32_t pages;
  /**
   * Entries of the cache's batch axis; needed with `cache_index`.
   */
  int32_t cache_batch;
  /**
   * Rows of the packed query and output, at least `query_offsets[batch]`; 0 (default) means that,
   * and on CUDA, where it cannot be read, `batch * q_len`.
   */
  int32_t query_rows;
  /**
   * Rows of the packed key and value, at least `kv_offsets[batch]`; 0 (default) means that, and on
   * CUDA `batch * kv_len`.
   */
  int32_t kv_rows;
  /**
   * A row sees only keys `k` with the same `k / attention_chunk` as its own position; 0 (default)
   * is off.
   */
  int32_t attention_chunk;
  /**
   * With `KFA_FLAG_BATCH_INVARIANT`: contexts are cut at multiples of this many keys from key 0, a
   * multiple of 64; 0 (default) leaves the choice to the library.
   */
  int32_t split_keys;
  /**
   * Optional exclusive end of the keys that a row sees although causal, `[batch, q_len]` or packed
   * like the queries: for the rows of an image the image's end, 0 for others. A window, a chunk and
   * the sequence's end still hide what they hide.
   */
  const int32_t *span_ends;
  /**
   * Slopes from one sequence to the next; 0 (default) shares them.
   */
  int64_t alibi_batch_stride;
  /**
   * Elements of the LSE from one sequence to the next. All three strides 0 (default): packed.
   */
  int64_t lse_batch_stride;
  /**
   * Elements of the LSE from one head to the next.
   */
  int64_t lse_head_stride;
  /**
   * Elements of the LSE from one row to the next.
   */
  int64_t lse_row_stride;
  /**
   * Optional first element of each sequence's mask, `[batch]`, instead of `mask.batch_stride`.
   */
  const int64_t *mask_offsets;
  /**
   * Optional factor on an additive mask per head, `[heads]`.
   */
  const float *mask_head_factor;
  /**
   * Keys that a mask row speaks of; 0 (default) means `kv_len`. It leaves all others alone.
   */
  int32_t mask_columns;
  /**
   * 0 (default): they are keys 0 to `mask_columns - 1`. 1: they are the newest of the sequence.
   */
  int32_t mask_newest;
  /**
   * RMS norm of queries and new keys; NULL (default) is off.
   */
  const struct kfa_norm *norm;
  /**
   * Rotary embedding of queries and new keys; NULL (default) is off.
   */
  const struct kfa_rope *rope;
  /**
   * New keys and values for the cache; NULL (default) is off, and then no input is ever written.
   */
  const struct kfa_append *append;
  /**
   * The most threads that this call may use; 0 (default) means the process's setting. CPU only.
   */
  int32_t threads;
  /**
   * Must be 0.
   */
  int32_t reserved;
  /**
   * The host's own threads for this call, of which there are `threads`; NULL (default) means the
   * library's. CPU only.
   */
  kfa_parallel parallel;
  /**
   * Handed to `parallel`.
   */
  void *pool;
} kfa_attention_desc;

/**
 * Partial attention results over disjoint key sets, to be merged into the whole.
 */
typedef struct kfa_merge_desc {
  /**
   * `sizeof(kfa_merge_desc)` as the caller compiled it.
   */
  uint32_t struct_size;
  /**
   * Where all memory lies.
   */
  kfa_device_type device;
  /**
   * Number of partial results, at least 1.
   */
  int32_t parts;
  /**
   * Sequences in the batch.
   */
  int32_t batch;
  /**
   * Query rows per sequence.
   */
  int32_t q_len;
  /**
   * Query heads.
   */
  int32_t heads;
  /**
   * Elements per head of the outputs.
   */
  int32_t head_dim;
  /**
   * `KFA_FLAG_LSE_BASE2` or 0 (default): the base of every LSE here.
   */
  uint32_t flags;
  /**
   * `parts` pointers to `[batch, q_len, heads, head_dim]`, packed float32 unless the fields below
   * say otherwise.
   */
  const float *const *outputs;
  /**
   * `parts` pointers to float32 `[batch, heads, q_len]`, packed unless `lses_*_stride` say otherwise.
   */
  const float *const *lses;
  /**
   * Receives the merged `[batch, q_len, heads, head_dim]`; may be one of `outputs`.
   */
  float *output;
  /**
   * Receives the merged `[batch, heads, q_len]`, or NULL; may be one of `lses`.
   */
  float *lse;
  /**
   * CUDA stream the work is enqueued on; NULL on the CPU.
   */
  void *stream;
  /**
   * Type of the elements of `outputs`: fp32 (also 0, the default), fp16 or bf16.
   */
  kfa_dtype outputs_dtype;
  /**
   * Type of the elements of `output`, likewise.
   */
  kfa_dtype output_dtype;
  /**
   * Elements of each of `outputs` from one sequence to the next. All three 0 (default): packed.
   */
  int64_t outputs_batch_stride;
  /**
   * Elements of each of `outputs` from one row to the next.
   */
  int64_t outputs_row_stride;
  /**
   * Elements of each of `outputs` from one head to the next.
   */
  int64_t outputs_head_stride;
  /**
   * Elements of `output` from one sequence to the next. All three 0 (default): packed.
   */
  int64_t output_batch_stride;
  /**
   * Elements of `output` from one row to the next.
   */
  int64_t output_row_stride;
  /**
   * Elements of `output` from one head to the next.
   */
  int64_t output_head_stride;
  /**
   * Elements of each of `lses` from one sequence to the next. All three 0 (default): packed.
   */
  int64_t lses_batch_stride;
  /**
   * Elements of each of `lses` from one head to the next.
   */
  int64_t lses_head_stride;
  /**
   * Elements of each of `lses` from one row to the next.
   */
  int64_t lses_row_stride;
  /**
   * Elements of `lse` from one sequence to the next. All three 0 (default): packed.
   */
  int64_t lse_batch_stride;
  /**
   * Elements of `lse` from one head to the next.
   */
  int64_t lse_head_stride;
  /**
   * Elements of `lse` from one row to the next.
   */
  int64_t lse_row_stride;
  /**
   * Optional, `[batch * q_len + 1]`, where the tensors lie: row `r` merges rows `part_offsets[r]`
   * to `part_offsets[r + 1]` of `outputs[0]` and `lses[0]`, which are then `[1, part_rows, heads,
   * head_dim]` and `[1, heads, part_rows]`, and `parts` is 1. For rows of unlike many parts.
   */
  const int32_t *part_offsets;
  /**
   * Rows of the parts that `part_offsets` leads to, which bounds its entries.
   */
  int32_t part_rows;
  /**
   * Must be 0.
   */
  int32_t reserved;
} kfa_merge_desc;

/**
 * A dense tensor as the engine hands it over: flat memory, a count, a type and a place.
 */
typedef struct kfa_tensor {
  /**
   * First element; device memory where `device` says so.
   */
  void *data;
  /**
   * Number of elements, at least 1.
   */
  int64_t size;
  /**
   * Type of the elements.
   */
  kfa_dtype dtype;
  /**
   * Where `data` points.
   */
  kfa_device_type device;
} kfa_tensor;

/**
 * Flash attention over the engine's tensors, of type float32, float16 or bfloat16; see
 * `kfa_get_flash_attention_kernel()`.
 *
 * - `query`: `[q_len, head_num, head_size]`, flat; `q_len = query->size / (head_num * head_size)`.
 * - `key`, `value`: caches `[layer_num, seq_len, kv_head_num * head_size]`.
 * - `output`: like `query`; may be the same memory.
 * - `seq_len`: the cache's capacity in tokens (its layer stride), not the valid keys.
 * - `pos`: position of the newest query row, so keys `0 ..= pos` are valid.
 * - `layer_idx`: which layer of the caches.
 * - `softmax_scale`: 0 means `1 / sqrt(head_size)`.
 * - `stream`: CUDA stream, NULL on the CPU.
 */
typedef kfa_status (*kfa_flash_attention_kernel)(const struct kfa_tensor *query,
                                                 const struct kfa_tensor *key,
                                                 const struct kfa_tensor *value,
                                                 const struct kfa_tensor *output,
                                                 int32_t head_num,
                                                 int32_t kv_head_num,
                                                 int32_t head_size,
                                                 int32_t seq_len,
                                                 int32_t pos,
                                                 int32_t layer_idx,
                                                 float softmax_scale,
                                                 bool is_causal,
                                                 kfa_device_type device,
                                                 void *stream);

/**
 * Multi-head attention over the engine's tensors; see `kfa_get_mha_kernel()` and
 * `kfa_get_standard_mha_kernel()`.
 *
 * - `mha_out`, `query`: `[q_len, head_num, head_size]`, flat.
 * - `score`: score storage, used by standard MHA alone: at least `head_num * seq_len` float32
 *   elements, rows being processed as many at a time as it holds, and all at once from
 *   `head_num * q_len * seq_len`. NULL, or a tensor without data: the library brings its own.
 * - `key_cache`, `value_cache`: `[layer_num, seq_len, kv_dim]`.
 * - `kv_mul`: query heads per key/value head.
 */
typedef kfa_status (*kfa_mha_kernel)(int32_t pos,
                                     int32_t head_num,
                                     int32_t layer_index,
                                     int32_t seq_len,
                                     int32_t kv_dim,
                                     int32_t kv_mul,
                                     int32_t head_size,
                                     const struct kfa_tensor *mha_out,
                                     const struct kfa_tensor *query,
                                     const struct kfa_tensor *score,
                                     const struct kfa_tensor *key_cache,
                                     const struct kfa_tensor *value_cache,
                                     kfa_device_type device,
                                     void *stream);

/**
 * Severity of a log line.
 */
typedef int32_t kfa_log_level;

/**
 * Receives log lines (without a newline) from any thread that calls the library.
 */
typedef void (*kfa_log_callback)(kfa_log_level level, const char *message, void *user);

/**
 * The call did what it says.
 */
#define KFA_OK 0

/**
 * An argument is wrong; `kfa_last_error_message()` names it. Nothing was written.
 */
#define KFA_ERROR_INVALID_ARGUMENT 1

/**
 * The request is valid, but no kernel of this build and machine serves it. Nothing was written.
 */
#define KFA_ERROR_UNSUPPORTED 2

/**
 * The requested device is not there, or this build has no backend for it.
 */
#define KFA_ERROR_NO_DEVICE 3

/**
 * The CUDA driver reported an error; the message holds its name and text.
 */
#define KFA_ERROR_CUDA 4

/**
 * Memory could not be allocated.
 */
#define KFA_ERROR_OUT_OF_MEMORY 5

/**
 * A defect of this library; please report it with the message.
 */
#define KFA_ERROR_INTERNAL 6

/**
 * No device: always refused.
 */
#define KFA_DEVICE_UNKNOWN 0

/**
 * Host memory, computed by CPU threads.
 */
#define KFA_DEVICE_CPU 1

/**
 * Memory of a CUDA device.
 */
#define KFA_DEVICE_CUDA 2

/**
 * Memory of a ROCm device; this version has no backend for it.
 */
#define KFA_DEVICE_ROCM 3

/**
 * Memory of an Intel GPU; this version has no backend for it.
 */
#define KFA_DEVICE_XPU 4

/**
 * No type: always refused.
 */
#define KFA_DTYPE_UNKNOWN 0

/**
 * IEEE 754 binary32.
 */
#define KFA_DTYPE_FP32 1

/**
 * 8-bit signed integer.
 */
#define KFA_DTYPE_INT8 2

/**
 * 32-bit signed integer.
 */
#define KFA_DTYPE_INT32 3

/**
 * IEEE 754 binary16.
 */
#define KFA_DTYPE_FP16 4

/**
 * bfloat16: the upper half of a binary32.
 */
#define KFA_DTYPE_BF16 5

/**
 * 8-bit float with 4 exponent bits.
 */
#define KFA_DTYPE_FP8_E4M3 6

/**
 * 8-bit float with 5 exponent bits.
 */
#define KFA_DTYPE_FP8_E5M2 7

/**
 * 4-bit signed integer, two in a byte, the first in the lower half; strides are even.
 */
#define KFA_DTYPE_INT4 8

/**
 * 4-bit unsigned integer, packed like `KFA_DTYPE_INT4`.
 */
#define KFA_DTYPE_UINT4 9

/**
 * 8-bit unsigned integer.
 */
#define KFA_DTYPE_UINT8 10

/**
 * ggml's block of 32 4-bit integers and a scale. Block types are 32 + ggml's own number.
 */
#define KFA_DTYPE_Q4_0 34

/**
 * ggml's block of 32 4-bit integers, a scale and a minimum.
 */
#define KFA_DTYPE_Q4_1 35

/**
 * ggml's block of 32 5-bit integers and a scale.
 */
#define KFA_DTYPE_Q5_0 38

/**
 * ggml's block of 32 5-bit integers, a scale and a minimum.
 */
#define KFA_DTYPE_Q5_1 39

/**
 * ggml's block of 32 8-bit integers and a scale.
 */
#define KFA_DTYPE_Q8_0 40

/**
 * ggml's block of 32 4-bit indices into a fixed table and a scale.
 */
#define KFA_DTYPE_IQ4_NL 52

/**
 * Flash attention; standard MHA where flash cannot serve, with one logged reason.
 */
#define KFA_ATTENTION_MODE_AUTO 0

/**
 * Flash attention only: `KFA_ERROR_UNSUPPORTED` instead of a fallback.
 */
#define KFA_ATTENTION_MODE_FLASH 1

/**
 * Standard MHA only: two passes over stored scores.
 */
#define KFA_ATTENTION_MODE_STANDARD 2

/**
 * No mask.
 */
#define KFA_MASK_NONE 0

/**
 * float32, fp16 or bf16 numbers added to the scores; -infinity hides the key.
 */
#define KFA_MASK_ADDITIVE 1

/**
 * Bytes: non-zero where the key may be seen.
 */
#define KFA_MASK_BOOLEAN 2

/**
 * Bits, a byte's least significant first: 1 where the key may be seen. Strides count bits.
 */
#define KFA_MASK_BITS 3

/**
 * Element `i` and `i + rotary_dim / 2` (NeoX, Hugging Face).
 */
#define KFA_ROPE_NEOX 0

/**
 * Elements `2 i` and `2 i + 1` (GPT-J, ggml's normal).
 */
#define KFA_ROPE_INTERLEAVED 1

/**
 * The library did something other than the caller may expect, such as a fallback.
 */
#define KFA_LOG_WARNING 1

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Fills a description of `size` bytes with its defaults: CPU, automatic mode, causal, batch 1,
 * float32 packed tensors, everything optional off. Sizes and data pointers are left 0.
 * `kfa_attention_desc_init()` is this with the size that the caller compiled.
 *
 * @param[out] desc  the description to fill.
 * @param[in]  size  `sizeof(kfa_attention_desc)`.
 *
 * # Safety
 * `desc` is NULL or may be written for `size` bytes.
 */
kfa_status kfa_attention_desc_init_sized(struct kfa_attention_desc *desc, size_t size);

/**
 * Computes attention.
 *
 * On the CPU the call returns when the output is written. On CUDA it enqueues the work on
 * `stream` and returns; it never waits, allocates device memory or locks, and may be captured into
 * a CUDA graph. It runs in the calling thread's current context if that belongs to the tensors'
 * device, else in the device's primary context, and leaves the current context as it was. Tensors
 * must be memory of one device (managed memory serves too). On an error nothing is written.
 *
 * Weighted values are summed in float32 before the sum is divided: where the number of keys that a
 * row sees times the largest magnitude of their values stays below 3.4e38, no finite value becomes
 * infinite; beyond it an output may be, although the mean is not.
 *
 * @param[in] desc  the problem; see `kfa_attention_desc`.
 * @return `KFA_OK`, or a status whose message `kfa_last_error_message()` holds.
 *
 * # Safety
 * The tensors are valid for the shapes and strides in `desc`; no other thread writes them or
 * touches output, LSE or workspace during the call.
 */
kfa_status kfa_attention_forward(const struct kfa_attention_desc *desc);

/**
 * Tells how many bytes of workspace `kfa_attention_forward()` needs for a problem.
 *
 * Data pointers of tensors may still be NULL; pointers that switch a feature on (sinks, lengths) may
 * not. On CUDA this also loads the kernels, so that the first forward
 * does not have to. Flash prefill needs none, flash decode some where it splits
 * the keys, standard MHA `4 * batch * heads * q_len * kv_len` up to 256 MiB (and runs with
 * `4 * batch * heads * kv_len`).
 *
 * @param[in]  desc  the problem.
 * @param[out] size  bytes.
 *
 * # Safety
 * `desc` is NULL or valid; `size` is NULL or may be written.
 */
kfa_status kfa_attention_workspace_size(const struct kfa_attention_desc *desc,
                                        size_t *size);

/**
 * Tells both how many bytes of workspace a problem needs at least and how many it likes to have, as
 * `kfa_attention_workspace_size()` says. With any size between the result is the same.
 *
 * @param[in]  desc       the problem.
 * @param[out] min        bytes that `kfa_attention_forward()` does not run without.
 * @param[out] preferred  bytes with which it is fastest.
 *
 * # Safety
 * `desc` is NULL or valid; `min` and `preferred` are NULL or may be written.
 */
kfa_status kfa_attention_workspace_bounds(const struct kfa_attention_desc *desc,
                                          size_t *min,
                                          size_t *preferred);

/**
 * Tells whether `kfa_attention_forward()` would serve a problem: `KFA_OK`, or the status that it
 * would answer. Leaves no message, allocates nothing and takes well under a microsecond on the CPU:
 * for hosts that ask of every node of a graph. `kfa_attention_explain()` says why.
 *
 * Data pointers of tensors may still be NULL.
 *
 * @param[in] desc  the problem.
 *
 * # Safety
 * `desc` is NULL or valid.
 */
kfa_status kfa_attention_supported(const struct kfa_attention_desc *desc);

/**
 * Explains which kernel would serve a problem: its name on the first line, then one line for each
 * kernel passed over with the reason. Where none would, the first line starts with `none`.
 *
 * Data pointers may still be NULL. Works like `snprintf`: writes at most `capacity` bytes with
 * the terminating NUL, and tells the whole text's size.
 *
 * @param[in]  desc      the problem.
 * @param[out] text      buffer, or NULL if `capacity` is 0.
 * @param[in]  capacity  bytes at `text`.
 * @param[out] size      bytes of the whole text with its NUL, or NULL.
 *
 * # Safety
 * `desc` is NULL or valid; `text` may be written for `capacity` bytes; `size` is NULL or may be
 * written.
 */
kfa_status kfa_attention_explain(const struct kfa_attention_desc *desc,
                                 char *text,
                                 size_t capacity,
                                 size_t *size);

/**
 * Merges attention results over disjoint sets of keys into the result over all of them.
 *
 * Each part is weighted by e^LSE (2^LSE with `KFA_FLAG_LSE_BASE2`); this is exact up to float32
 * rounding. Parts that saw no key (LSE -infinity) are ignored, whatever their output holds; a row
 * without any other has output 0 and LSE -infinity. An LSE that no sum of exponentials has (NaN,
 * +infinity) makes its row's output and LSE NaN. A sink must have entered exactly one part.
 *
 * On the CPU the call returns when the result is written, by the library's threads where it is
 * large. On CUDA the arrays of pointers lie in host memory and what they point to on the device; the
 * merge, of at most 64 parts of packed float32 with natural LSEs, is enqueued on `stream`.
 *
 * @param[in] desc  the partial results; see `kfa_merge_desc`.
 *
 * # Safety
 * The arrays are valid for the shapes in `desc`.
 */
kfa_status kfa_attention_merge(const struct kfa_merge_desc *desc);

/**
 * Names the kernel that served this thread's last successful attention call, such as
 * `cpu.flash_decode.avx2`; empty before the first. Never NULL; valid for ever.
 */
const char *kfa_last_kernel_name(void);

/**
 * Returns the flash attention kernel of a device, which falls back to standard MHA (with one
 * logged reason) where flash cannot serve and `kfa_set_attention_mode()` permits.
 *
 * @param[in] device  where the tensors will lie.
 * @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
 */
kfa_flash_attention_kernel kfa_get_flash_attention_kernel(kfa_device_type device);

/**
 * Returns the kernel that an engine calls as its MHA kernel: flash attention wherever it can serve,
 * which leaves the score storage alone, else standard MHA in it. `kfa_set_attention_mode()` and
 * `KFA_DISABLE_FLASH_ATTENTION=1` pin standard MHA; `kfa_last_kernel_name()` tells which ran.
 *
 * @param[in] device  where the tensors will lie.
 * @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
 */
kfa_mha_kernel kfa_get_mha_kernel(kfa_device_type device);

/**
 * Returns the standard MHA kernel of a device, whatever the attention mode: the baseline that flash
 * attention is measured against.
 *
 * @param[in] device  where the tensors will lie.
 * @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
 */
kfa_mha_kernel kfa_get_standard_mha_kernel(kfa_device_type device);

/**
 * Computes attention as `kfa_attention_forward()` does, in working memory that the library keeps:
 * of the calling thread on the CPU, of the stream on CUDA. It is allocated by the first call and
 * kept, so that later calls, those inside a stream capture included, allocate nothing.
 *
 * @param[in] desc         the problem; its workspace is NULL.
 * @param[in] kv_capacity  what `kv_len` may grow to in later calls, such as the cache's capacity,
 *                         or 0; lets the first call allocate for all of them.
 *
 * # Safety
 * As for `kfa_attention_forward()`.
 */
kfa_status kfa_attention_forward_in_scratch(const struct kfa_attention_desc *desc,
                                            int32_t kv_capacity);

/**
 * Does ahead of time what the first call on a device would take longer for: starts the threads of
 * the CPU, or loads the kernels into the current CUDA device (some milliseconds), or into the first
 * one where none is current. Optional, and again cheap; call it where the model is loaded.
 *
 * @param[in] device  where the tensors will lie.
 */
kfa_status kfa_warm_up(kfa_device_type device);

/**
 * Creates a layer with the arguments of the engine's `op::FlashAttention`.
 *
 * @param[in]  device       where tensors will lie.
 * @param[in]  layer_index  layer of the cache, as `kfa_flash_attention_layer_set_layer_idx()`.
 * @param[in]  kv_mul       query heads per key/value head.
 * @param[in]  kv_dim       `head_num / kv_mul * head_size`.
 * @param[in]  seq_len      the cache's capacity in tokens.
 * @param[in]  head_num     query heads.
 * @param[in]  head_size    elements per head.
 * @param[in]  scale        factor on the scores; 0 means `1 / sqrt(head_size)`.
 * @param[out] layer        receives the layer; untouched on an error.
 *
 * # Safety
 * `layer` is NULL or may be written.
 */
kfa_status kfa_flash_attention_layer_create(kfa_device_type device,
                                            int32_t layer_index,
                                            int32_t kv_mul,
                                            int32_t kv_dim,
                                            int32_t seq_len,
                                            int32_t head_num,
                                            int32_t head_size,
                                            float scale,
                                            struct kfa_flash_attention_layer **layer);

/**
 * Destroys a layer. NULL is allowed and does nothing.
 *
 * # Safety
 * `layer` is NULL or a live layer that no thread uses; it is gone afterwards.
 */
void kfa_flash_attention_layer_destroy(struct kfa_flash_attention_layer *layer);

/**
 * Sets the absolute position of the newest query row; keys `0 ..= pos` are valid.
 *
 * # Safety
 * `layer` is NULL or a live layer that no other thread uses.
 */
kfa_status kfa_flash_attention_layer_set_pos(struct kfa_flash_attention_layer *layer, int32_t pos);

/**
 * Sets which layer of the caches the next forward reads.
 *
 * # Safety
 * `layer` is NULL or a live layer that no other thread uses.
 */
kfa_status kfa_flash_attention_layer_set_layer_idx(struct kfa_flash_attention_layer *layer,
                                                   int32_t layer_idx);

/**
 * Sets an input tensor: 0 query, 1 key cache, 2 value cache. The description is copied, the
 * memory is not.
 *
 * # Safety
 * `layer` is NULL or a live layer that no other thread uses; `tensor` is NULL or valid.
 */
kfa_status kfa_flash_attention_layer_set_input(struct kfa_flash_attention_layer *layer,
                                               int32_t index,
                                               const struct kfa_tensor *tensor);

/**
 * Sets the output tensor, index 0. It may be the query's memory.
 *
 * # Safety
 * `layer` is NULL or a live layer that no other thread uses; `tensor` is NULL or valid.
 */
kfa_status kfa_flash_attention_layer_set_output(struct kfa_flash_attention_layer *layer,
                                                int32_t index,
                                                const struct kfa_tensor *tensor);

/**
 * Sets the CUDA stream that forward enqueues on; NULL (the default) on the CPU.
 *
 * # Safety
 * `layer` is NULL or a live layer that no other thread uses.
 */
kfa_status kfa_flash_attention_layer_set_stream(struct kfa_flash_attention_layer *layer,
                                                void *stream);

/**
 * Computes attention of the tensors that were set; the number of query rows follows from the
 * query's size. Tensors are checked here, and nothing is written on an error.
 *
 * # Safety
 * `layer` is NULL or a live layer that no other thread uses; the tensors' memory is valid.
 */
kfa_status kfa_flash_attention_layer_forward(struct kfa_flash_attention_layer *layer);

/**
 * Number of inputs of a layer: 3; 0 for NULL.
 */
size_t kfa_flash_attention_layer_input_size(const struct kfa_flash_attention_layer *layer);

/**
 * Number of outputs of a layer: 1; 0 for NULL.
 */
size_t kfa_flash_attention_layer_output_size(const struct kfa_flash_attention_layer *layer);

/**
 * Version of the library: `major * 1000000 + minor * 1000 + patch`.
 */
uint32_t kfa_version(void);

/**
 * Version of the library as text, such as `0.1.0`.
 */
const char *kfa_version_string(void);

/**
 * One line that says what this build holds: version, target, backends and the instruction set
 * in use. Valid for ever.
 */
const char *kfa_build_info(void);

/**
 * Message of this thread's last failed call: which argument, its value, what was expected. Never
 * NULL; empty before the first failure; valid until the thread's next failure or its end. Where the
 * thread has already destroyed its variables (in a destructor or an `atexit` handler) messages are
 * not kept, and this says so.
 */
const char *kfa_last_error_message(void);

/**
 * Name of a status, such as `KFA_ERROR_UNSUPPORTED`. Never NULL; valid for ever.
 */
const char *kfa_status_name(kfa_status status);

/**
 * Sets where warnings go. NULL (the default) writes them to standard error; one that cannot be
 * written there is lost, and no call fails for it.
 *
 * The callback runs at the end of a call into the library, on a thread that called it, and may call
 * the library itself, this function included. What such calls log comes with a later call.
 *
 * When this function returns, no other thread is inside the callback before, and none will enter
 * it, so that `user` may be freed. It waits for that: hold no lock that the callback takes. Only
 * where a callback calls it does it return at once, and other threads may be inside for a little
 * longer.
 *
 * A callback must return. It must not leave by `longjmp`; a C++ exception that leaves it ends the
 * process.
 *
 * @param[in] callback  called from any thread that calls the library.
 * @param[in] user      handed back to the callback.
 *
 * # Safety
 * The callback may be called, with `user`, from any thread until another one is set.
 */
void kfa_set_log_callback(kfa_log_callback callback, void *user);

/**
 * Sets which kernels serve calls whose own mode is automatic; the default is
 * `KFA_ATTENTION_MODE_AUTO`. The environment variable `KFA_DISABLE_FLASH_ATTENTION=1` takes flash
 * away from every mode. `kfa_get_standard_mha_kernel()` is not affected.
 */
kfa_status kfa_set_attention_mode(kfa_attention_mode mode);

/**
 * Sets how many threads a CPU call uses, the calling one included. The default is the number of
 * CPUs that the process may run on, lowered by the environment variable `KFA_NUM_THREADS`.
 */
kfa_status kfa_set_num_threads(int32_t threads);

/**
 * Number of threads that a CPU call uses, the calling one included.
 */
int32_t kfa_get_num_threads(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#ifdef __cplusplus
extern "C" {
#endif
/**
 * Fills a description with its defaults: `kfa_attention_desc_init_sized()` with the size of the
 * struct in this header, so that a library of another version fills no more and no less.
 */
static inline kfa_status kfa_attention_desc_init(struct kfa_attention_desc *desc) {
  return kfa_attention_desc_init_sized(desc, sizeof(kfa_attention_desc));
}
#ifdef __cplusplus
}  // extern "C"
#endif

#endif  /* KUIPER_FLASH_ATTENTION_KFA_H */
