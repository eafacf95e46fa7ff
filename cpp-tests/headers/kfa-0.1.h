/*
 * Kuiper FlashAttention: attention kernels behind a C ABI.
 *
 * Generated from src/capi by cbindgen; do not edit. `make header` writes it anew.
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef KUIPER_FLASH_ATTENTION_KFA_H
#define KUIPER_FLASH_ATTENTION_KFA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
 * Permits arithmetic that is faster and less exact than float32.
 */
#define KFA_FLAG_FAST_MATH 4

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
 * Element type; the first numbers are the engine's `base::DataType`.
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
   * Type of an additive mask's elements.
   */
  kfa_dtype dtype;
  /**
   * Elements from one sequence to the next; 0 shares the mask.
   */
  int64_t batch_stride;
  /**
   * Elements from one head to the next; 0 shares the mask.
   */
  int64_t head_stride;
  /**
   * Elements from one query row to the next.
   */
  int64_t row_stride;
} kfa_attention_mask;

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
   * 1: causal, aligned bottom-right, so the newest row sees all `kv_len` keys and row `i` sees
   * keys `0 ..= kv_len - q_len + i`. 0: every row sees every key. Default 1.
   */
  int32_t is_causal;
  /**
   * Sequences in the batch; default 1.
   */
  int32_t batch;
  /**
   * Query rows per sequence: 1 is decode, `kv_len` is full prefill, between is chunked prefill.
   */
  int32_t q_len;
  /**
   * Valid keys per sequence (the engine's `pos + 1`), not the cache's capacity.
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
   * Factor on the scores; 0 (default) means `1 / sqrt(head_dim)`.
   */
  float softmax_scale;
  /**
   * Scores become `softcap * tanh(score / softcap)`; 0 (default) is off.
   */
  float softcap;
  /**
   * Each row sees only this many of its newest keys; 0 (default) is off.
   */
  int32_t sliding_window;
  /**
   * `[batch, q_len, heads, head_dim]`.
   */
  struct kfa_tensor_view query;
  /**
   * `[batch, kv_len, kv_heads, head_dim]`.
   */
  struct kfa_tensor_view key;
  /**
   * `[batch, kv_len, kv_heads, value_head_dim]`.
   */
  struct kfa_tensor_view value;
  /**
   * `[batch, q_len, heads, value_head_dim]`. May be exactly the query view (same pointer and
   * strides); any other overlap with an input is refused.
   */
  struct kfa_tensor_view output;
  /**
   * Optional natural-log sum of exponentials per row, `[batch, heads, q_len]`, packed.
   * A row that sees no key has output 0 and LSE -infinity.
   */
  float *lse;
  /**
   * Optional explicit mask; `kind` 0 (default) is off.
   */
  struct kfa_attention_mask mask;
  /**
   * Optional ALiBi slope per head, `[heads]`.
   */
  const float *alibi_slopes;
  /**
   * Optional attention-sink logit per head, `[heads]`.
   */
  const float *sinks;
  /**
   * Optional prefix sums of query lengths, `[batch + 1]`, for packed variable-length queries.
   */
  const int32_t *query_offsets;
  /**
   * Optional prefix sums of key lengths, `[batch + 1]`, for packed variable-length keys.
   */
  const int32_t *kv_offsets;
  /**
   * Optional valid keys of each sequence, `[batch]`, at most `kv_len`.
   */
  const int32_t *kv_lens;
  /**
   * Optional page table `[batch, pages]` of a paged cache.
   */
  const int32_t *page_table;
  /**
   * Elements from one sequence's row of the page table to the next.
   */
  int64_t page_table_stride;
  /**
   * Tokens per page.
   */
  int32_t page_size;
  /**
   * Must be 0.
   */
  int32_t reserved;
  /**
   * Optional scale of quantised keys.
   */
  const float *key_scale;
  /**
   * Optional scale of quantised values.
   */
  const float *value_scale;
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
   * Must be 0.
   */
  int32_t reserved;
  /**
   * `parts` pointers to float32 `[batch, q_len, heads, head_dim]`, packed.
   */
  const float *const *outputs;
  /**
   * `parts` pointers to float32 `[batch, heads, q_len]`, packed.
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
 * Flash attention over the engine's tensors; see `kfa_get_flash_attention_kernel()`.
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
 * Standard multi-head attention over the engine's tensors; see `kfa_get_mha_kernel()`.
 *
 * - `mha_out`, `query`: `[q_len, head_num, head_size]`, flat.
 * - `score`: score storage of at least `head_num * seq_len` elements; rows are processed as many
 *   at a time as it holds, and all at once from `head_num * q_len * seq_len`.
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
 * Numbers added to the scaled scores.
 */
#define KFA_MASK_ADDITIVE 1

/**
 * Bytes: non-zero where the key may be seen.
 */
#define KFA_MASK_BOOLEAN 2

/**
 * The library did something other than the caller may expect, such as a fallback.
 */
#define KFA_LOG_WARNING 1

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Fills a description with its defaults: CPU, automatic mode, causal, batch 1, float32 packed
 * tensors, everything optional off. Sizes and data pointers are left 0.
 *
 * @param[out] desc  the description to fill.
 *
 * # Safety
 * `desc` is NULL or may be written.
 */
kfa_status kfa_attention_desc_init(struct kfa_attention_desc *desc);

/**
 * Computes attention.
 *
 * On the CPU the call returns when the output is written. On CUDA it enqueues the work on
 * `stream` and returns; it never waits, allocates device memory or locks, and may be captured into
 * a CUDA graph. It runs in the calling thread's current context if that belongs to the tensors'
 * device, else in the device's primary context, and leaves the current context as it was. Tensors
 * must be memory of one device (managed memory serves too). On an error nothing is written.
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
 * Data pointers may still be NULL. On CUDA this also loads the kernels, so that the first forward
 * does not have to. Flash prefill needs none, flash decode some where it splits
 * the keys, standard MHA `4 * batch * heads * q_len * kv_len` (and runs with a `q_len`-th of it).
 *
 * @param[in]  desc  the problem.
 * @param[out] size  bytes.
 *
 * # Safety
 * `desc` is NULL or valid; `size` is NULL or may be written.
 */
kfa_status kfa_attention_workspace_size(const struct kfa_attention_desc *desc, size_t *size);

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
 * Each part is weighted by e^LSE; this is exact up to float32 rounding. Parts that saw no key
 * (LSE -infinity) are ignored, whatever their output holds. On CUDA the arrays of pointers lie in
 * host memory and what they point to on the device; the merge, of at most 64 parts, is enqueued on
 * `stream`.
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
 * Returns the standard MHA kernel of a device: the baseline, with the engine's score storage.
 *
 * @param[in] device  where the tensors will lie.
 * @return the kernel; NULL with a message in `kfa_last_error_message()` where there is none.
 */
kfa_mha_kernel kfa_get_mha_kernel(kfa_device_type device);

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
 * NULL; empty before the first failure; valid until the thread's next failure.
 */
const char *kfa_last_error_message(void);

/**
 * Name of a status, such as `KFA_ERROR_UNSUPPORTED`. Never NULL; valid for ever.
 */
const char *kfa_status_name(kfa_status status);

/**
 * Sets where warnings go. NULL (the default) writes them to standard error.
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
 * away from every mode. `kfa_get_mha_kernel()` is not affected.
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

#endif  /* KUIPER_FLASH_ATTENTION_KFA_H */
