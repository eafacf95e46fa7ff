// What a kernel is told: mirrors src/cuda/params.rs field by field; both sides assert the size.
#pragma once

#include <cstdint>

/// A strided view of [batch, rows, heads, head_dim]; strides count elements, innermost is 1.
struct KfaView {
  void* data;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t head_stride;
};

/// One attention problem on the device.
struct KfaAttentionParams {
  KfaView query;
  KfaView key;
  KfaView value;
  KfaView output;
  /// [batch, heads, q_len], or null.
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
};

static_assert(sizeof(KfaAttentionParams) == 192, "keep in step with src/cuda/params.rs");
