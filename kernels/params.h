// What a kernel is told: mirrors src/cuda/params.rs field by field; both sides assert the sizes.
#pragma once

#include <cstdint>

/// A strided view of [batch, rows, heads, head_dim]; strides count elements, innermost is 1.
struct KfaView {
  void* data;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t head_stride;
};

/// What hides keys from a row: common/visible.cuh.
struct KfaVisible {
  /// 0 no, 1 bottom-right, 2 top-left.
  int32_t causal;
  /// Newest keys that a row sees, its own included; 0 is all.
  int32_t window;
  /// Keys after its own that a row sees where not causal; 0 is all.
  int32_t window_right;
  /// A row sees only keys of its own chunk of so many; 0 is off.
  int32_t chunk;
  /// Ends of the keys that rows see although causal, one per query row; null is none.
  const int32_t* span_ends;
};

/// Lengths and offsets of the sequences, null where the problem's own numbers hold: common/visible.cuh.
struct KfaLengths {
  const int32_t* query_offsets;
  const int32_t* kv_offsets;
  const int32_t* q_lens;
  const int32_t* kv_lens;
  const int32_t* kv_starts;
  const int32_t* cache_index;
  /// Rows of the packed query, and of packed keys.
  int32_t query_rows;
  int32_t kv_rows;
  /// Entries of the cache's batch axis.
  int32_t cache_batch;
};

/// Which page of the cache holds which keys: common/cache.cuh.
struct KfaPages {
  /// Null without pages.
  const int32_t* table;
  const int32_t* value_table;
  /// Where each sequence's entries begin; null where they are `stride` apart.
  const int32_t* offsets;
  int64_t stride;
  /// Keys of a page.
  int32_t size;
  /// Pages of the cache.
  int32_t count;
};

enum KfaMaskKind : int32_t {
  KFA_MASK_NONE,
  KFA_MASK_F32,
  KFA_MASK_F16,
  KFA_MASK_BF16,
  KFA_MASK_BOOLEAN,
  KFA_MASK_BITS,
};

/// What happens to a score between product and softmax, and the sink beside it: common/scores.cuh.
struct KfaScores {
  /// [heads], or null.
  const float* sinks;
  /// [heads] per sequence, or null.
  const float* alibi_slopes;
  int64_t alibi_batch_stride;
  /// Strides in elements, of a bit mask in bits.
  const void* mask;
  const int64_t* mask_offsets;
  const float* mask_head_factor;
  int64_t mask_batch_stride;
  int64_t mask_head_stride;
  int64_t mask_row_stride;
  KfaMaskKind mask_kind;
  /// Keys that a row of the mask speaks of: the newest of the sequence, or the first.
  int32_t mask_columns;
  int32_t mask_newest;
  /// 0 is off.
  float softcap;
};

/// One attention problem on the device.
struct KfaAttentionParams {
  KfaView query;
  KfaView key;
  KfaView value;
  KfaView output;
  /// With a stride for sequences, heads and rows, or null.
  float* lse;
  /// Scratch of the launch: split states of decode, scores of standard MHA.
  float* workspace;
  /// Position of the newest row, read on the device; null: kv_len - 1. Then kv_len is the capacity
  /// that the launch was planned for, and the valid keys are *pos + 1.
  const int32_t* pos;
  int32_t batch;
  int32_t q_len;
  int32_t kv_len;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t causal;
  /// Split-KV: runs of keys per sequence and keys per run.
  int32_t splits;
  int32_t split_keys;
  float scale;
  // Beyond plain attention.
  KfaVisible visible;
  KfaLengths lengths;
  KfaPages pages;
  KfaScores scores;
  int64_t lse_strides[3];
  int32_t value_head_dim;
  /// The LSE is a logarithm to base 2.
  int32_t lse_base2;
};

static_assert(sizeof(KfaVisible) == 24 && sizeof(KfaLengths) == 64 && sizeof(KfaPages) == 40 &&
                  sizeof(KfaScores) == 88 && sizeof(KfaAttentionParams) == 440,
              "keep in step with src/cuda/params.rs");
