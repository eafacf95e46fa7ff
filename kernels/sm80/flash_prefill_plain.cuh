// Flash prefill in plain float32 FMA: any dtype, any head_dim up to 512. The fallback of the tensor
// core kernels (head_dim over 256; 16-bit keys under fp32 queries; fp32 where shared memory is
// small), and what they are tested by.
#pragma once

#include "common/listed.cuh"
#include "params.h"
#include "sm80/prefill_rows.cuh"

namespace kfa {

/// How a block is cut: a line of flash_prefill.list. 256 threads as 16 x 16: thread (y, x) owns rows
/// y + 16 i, keys x + 16 j and columns 4 x + 64 c .. of them; the 16 threads of a row share a warp.
template <int HEAD_DIM_, int ROWS_, int THREADS_, int SHARED, int KEYS_>
struct PlainShape {
  static constexpr int HEAD_DIM = HEAD_DIM_;
  static constexpr int ROWS = ROWS_;
  static constexpr int KEYS = KEYS_;
  static constexpr int THREADS = THREADS_;
  static_assert(THREADS == 256 && ROWS % 16 == 0 && KEYS % 16 == 0, "16 x 16 threads");
  /// A step of four floats between rows keeps their 16-byte reads in distinct banks.
  static constexpr int STRIDE = HEAD_DIM + 4;
  static constexpr int WEIGHT_STRIDE = KEYS + 1;
  static_assert(Listed<4 * ((ROWS + KEYS) * STRIDE + ROWS * WEIGHT_STRIDE), SHARED>::OK);
};

/// `T` of queries and output, `S` of keys and values.
template <class T, class S, class Shape>
__device__ __forceinline__ void flash_prefill_plain(const KfaAttentionParams& p) {
  constexpr int D = Shape::HEAD_DIM, KEYS = Shape::KEYS, STRIDE = Shape::STRIDE;
  constexpr int MY_ROWS = Shape::ROWS / 16, MY_KEYS = KEYS / 16, MY_FOURS = D / 64;
  RowTile tile;
  if (!tile.init<Shape::ROWS>(p)) return;

  extern __shared__ __align__(16) float floats[];
  float* const queries = floats;
  float* const keys = queries + Shape::ROWS * STRIDE;  // then, in turn, values
  float* const weights = keys + KEYS * STRIDE;

  const S* key = static_cast<const S*>(p.key.data) + tile.kv_offset(p.key);
  const S* value = static_cast<const S*>(p.value.data) + tile.kv_offset(p.value);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;

  for (int i = threadIdx.x; i < Shape::ROWS * D; i += Shape::THREADS) {
    const int row = i / D, column = i % D;
    const bool inside = row < tile.rows && column < p.head_dim;
    const T* query = static_cast<const T*>(p.query.data) + (inside ? tile.offset(p.query, row) + column : 0);
    queries[row * STRIDE + column] = inside ? to_float(*query) * p.scale : 0.f;
  }
  const auto load = [&](const S* from, int64_t row_stride, int block) {
    for (int i = threadIdx.x; i < KEYS * D; i += Shape::THREADS) {
      const int row = i / D, column = i % D, j = block * KEYS + row;
      const bool inside = j < tile.keys && column < p.head_dim;
      keys[row * STRIDE + column] = inside ? to_float(from[j * row_stride + column]) : 0.f;
    }
  };

  float output[MY_ROWS][MY_FOURS][4] = {};
  float max[MY_ROWS], sum[MY_ROWS];
  int visible[MY_ROWS];
#pragma unroll
  for (int i = 0; i < MY_ROWS; i++) {
    max[i] = -INFINITY;
    sum[i] = 0.f;
    visible[i] = tile.visible(y + 16 * i);
  }

  const int seen = tile.visible(tile.rows - 1);
  const int seen_by_all = tile.visible(0);
  for (int block = 0; block * KEYS < seen; block++) {
    __syncthreads();
    load(key, p.key.row_stride, block);
    __syncthreads();
    float score[MY_ROWS][MY_KEYS] = {};
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
      float4 q[MY_ROWS], k[MY_KEYS];
#pragma unroll
      for (int i = 0; i < MY_ROWS; i++) q[i] = *reinterpret_cast<float4*>(queries + (y + 16 * i) * STRIDE + d);
#pragma unroll
      for (int j = 0; j < MY_KEYS; j++) k[j] = *reinterpret_cast<float4*>(keys + (x + 16 * j) * STRIDE + d);
#pragma unroll
      for (int i = 0; i < MY_ROWS; i++) {
#pragma unroll
        for (int j = 0; j < MY_KEYS; j++) {
          score[i][j] = fmaf(q[i].x, k[j].x, score[i][j]);
          score[i][j] = fmaf(q[i].y, k[j].y, score[i][j]);
          score[i][j] = fmaf(q[i].z, k[j].z, score[i][j]);
          score[i][j] = fmaf(q[i].w, k[j].w, score[i][j]);
        }
      }
    }
    __syncthreads();
    load(value, p.value.row_stride, block);

    const bool whole = (block + 1) * KEYS <= seen_by_all;
#pragma unroll
    for (int i = 0; i < MY_ROWS; i++) {
      float m = max[i];
#pragma unroll
      for (int j = 0; j < MY_KEYS; j++) {
        if (block * KEYS + x + 16 * j >= visible[i]) score[i][j] = -INFINITY;
        m = fmaxf(m, score[i][j]);
      }
#pragma unroll
      for (int distance = 8; distance; distance /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, distance));
      const float shift = m == -INFINITY ? 0.f : m;
      const float factor = m == max[i] ? 1.f : exp2f((max[i] - m) * LOG2_E);
      max[i] = m;
      sum[i] *= factor;
#pragma unroll
      for (int j = 0; j < MY_KEYS; j++) {
        const float weight = exp2f((score[i][j] - shift) * LOG2_E);
        sum[i] += weight;
        weights[(y + 16 * i) * Shape::WEIGHT_STRIDE + x + 16 * j] = weight;
      }
#pragma unroll
      for (int c = 0; c < MY_FOURS; c++) {
#pragma unroll
        for (int e = 0; e < 4; e++) output[i][c][e] *= factor;
      }
    }
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < KEYS; j++) {
      float weight[MY_ROWS];
#pragma unroll
      for (int i = 0; i < MY_ROWS; i++) weight[i] = weights[(y + 16 * i) * Shape::WEIGHT_STRIDE + j];
#pragma unroll
      for (int c = 0; c < MY_FOURS; c++) {
        const float4 v = *reinterpret_cast<float4*>(keys + j * STRIDE + 64 * c + 4 * x);
#pragma unroll
        for (int i = 0; i < MY_ROWS; i++) {
          // A value that the row does not see may be NaN, which a weight of zero would not stop.
          if (!whole && block * KEYS + j >= visible[i]) continue;
          output[i][c][0] = fmaf(weight[i], v.x, output[i][c][0]);
          output[i][c][1] = fmaf(weight[i], v.y, output[i][c][1]);
          output[i][c][2] = fmaf(weight[i], v.z, output[i][c][2]);
          output[i][c][3] = fmaf(weight[i], v.w, output[i][c][3]);
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < MY_ROWS; i++) {
    float total = sum[i];
#pragma unroll
    for (int distance = 8; distance; distance /= 2) total += __shfl_xor_sync(~0u, total, distance);
    const int row = y + 16 * i;
    if (row >= tile.rows) continue;
    const float inverse = total == 0.f ? 0.f : 1.f / total;
    T* to = static_cast<T*>(p.output.data) + tile.offset(p.output, row);
#pragma unroll
    for (int c = 0; c < MY_FOURS; c++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int column = 64 * c + 4 * x + e;
        if (column < p.head_dim) to[column] = from_float<T>(output[i][c][e] * inverse);
      }
    }
    if (p.lse && x == 0) {
      p.lse[tile.lse_index(p, row)] = total == 0.f ? -INFINITY : max[i] + logf(total);
    }
  }
}

}  // namespace kfa
