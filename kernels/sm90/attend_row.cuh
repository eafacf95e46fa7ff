// One row the slow way, in plain float32 by one warp, touching only what the row sees.
#pragma once

#include "common/dtype.cuh"
#include "params.h"

namespace kfa {

/// Tiles multiply every value of a block of keys, those that a row does not see by zero: right unless
/// the value is NaN or infinite. A row that comes out so is done again by this. Lane l gets columns
/// l, l + 32, …; the result is the natural LSE. All branches are visibly the same for all lanes: one that
/// is not, here at a tile's end, costs the main loop its uniform registers.
template <class T, int COLUMNS>
__device__ __forceinline__ float attend_row(
    float (&output)[COLUMNS / 32], const KfaAttentionParams& p, int batch, int head, int position, int visible) {
  constexpr float LOG2 = 1.44269504088896340736f;
  const int lane = threadIdx.x % 32;
  const int kv_head = head / (p.heads / p.kv_heads);
  const T* query = static_cast<const T*>(p.query.data) + batch * p.query.batch_stride +
                   position * p.query.row_stride + head * p.query.head_stride;
  const T* key = static_cast<const T*>(p.key.data) + batch * p.key.batch_stride + kv_head * p.key.head_stride;
  const T* value =
      static_cast<const T*>(p.value.data) + batch * p.value.batch_stride + kv_head * p.value.head_stride;
  float q[COLUMNS / 32];
#pragma unroll
  for (int i = 0; i < COLUMNS / 32; i++) {
    const int column = i * 32 + lane;
    q[i] = column < p.head_dim ? to_float(query[column]) * p.scale : 0.f;
    output[i] = 0.f;
  }
  float max = -INFINITY, sum = 0.f;
  visible = __shfl_sync(~0u, visible, 0);
#pragma unroll 1
  for (int j = 0; j < visible; j++, key += p.key.row_stride, value += p.value.row_stride) {
    float score = 0.f;
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; i++) {
      const int column = i * 32 + lane;
      if (column < p.head_dim) score += q[i] * to_float(key[column]);
    }
#pragma unroll
    for (int distance = 16; distance; distance /= 2) score += __shfl_xor_sync(~0u, score, distance);
    const bool lost = !(score < INFINITY);  // +infinity or NaN: so is every weight of the row
    const float larger = lost ? NAN : fmaxf(max, score);
    const bool hidden = score == -INFINITY;
    const float factor = hidden ? 1.f : exp2f((max - larger) * LOG2);
    const float weight = hidden ? 0.f : exp2f((score - larger) * LOG2);
    sum = sum * factor + weight;
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; i++) {
      const int column = i * 32 + lane;
      if (column < p.head_dim) output[i] = output[i] * factor + (hidden ? 0.f : weight * to_float(value[column]));
    }
    max = larger;
    if (__any_sync(~0u, lost)) break;
  }
  const float inverse = sum == 0.f ? 0.f : 1.f / sum;
#pragma unroll
  for (int i = 0; i < COLUMNS / 32; i++) output[i] *= inverse;
  return sum == 0.f ? -INFINITY : max + logf(sum);
}

}  // namespace kfa
