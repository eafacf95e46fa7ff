// The rows of a prefill tile: which query each one is, what it sees, and the slow way to attend it.
#pragma once

#include "common/dtype.cuh"
#include "common/softmax.cuh"
#include "common/visible.cuh"
#include "params.h"

namespace kfa {

/// What one block attends: one key/value head, and consecutive rows, where row = position * group +
/// head of the group, so that keys and values are read once for all heads that share them.
///
/// The grid is (pairs of a section, tiles, sections), a pair being a sequence and a key/value head:
/// the pairs of a section share the L2 cache, and the last tiles, which see most keys, start first.
struct RowTile {
  int batch, kv_head, group;
  int first_row, rows;
  /// Valid keys, and those of them that the row at position 0 sees (may be negative).
  int keys, keys_of_first;
  bool causal;

  /// False for the blocks of the last section that have no pair.
  template <int ROWS>
  __device__ __forceinline__ bool init(const KfaAttentionParams& p) {
    const int pair = blockIdx.z * gridDim.x + blockIdx.x;
    if (pair >= p.batch * p.kv_heads) return false;
    batch = pair / p.kv_heads;
    kv_head = pair % p.kv_heads;
    group = p.heads / p.kv_heads;
    first_row = (gridDim.y - 1 - blockIdx.y) * ROWS;
    rows = min(ROWS, p.q_len * group - first_row);
    keys = valid_keys(p);
    causal = p.causal;
    keys_of_first = keys - p.q_len + 1;
    return true;
  }

  __device__ __forceinline__ int position(int row) const {
    const int r = first_row + row;
    return group == 1 ? r : r / group;
  }
  __device__ __forceinline__ int head(int row) const {
    return kv_head * group + (group == 1 ? 0 : (first_row + row) % group);
  }
  /// How many keys a row sees, from key 0; rows past the end see what their position would.
  __device__ __forceinline__ int visible(int row) const {
    return causal ? max(min(keys_of_first + position(row), keys), 0) : keys;
  }
  __device__ __forceinline__ int64_t offset(const KfaView& view, int row) const {
    return batch * view.batch_stride + position(row) * view.row_stride + head(row) * view.head_stride;
  }
  __device__ __forceinline__ int64_t kv_offset(const KfaView& view) const {
    return batch * view.batch_stride + kv_head * view.head_stride;
  }
  __device__ __forceinline__ int64_t lse_index(const KfaAttentionParams& p, int row) const {
    return (int64_t(batch) * p.heads + head(row)) * p.q_len + position(row);
  }
};

/// Whether every row of a view starts at a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ bool rows_aligned(const KfaView& view) {
  const uint64_t bits = reinterpret_cast<uint64_t>(view.data) |
                        sizeof(T) * (view.batch_stride | view.row_stride | view.head_stride);
  return bits % 16 == 0;
}

/// Of a ballot over a matrix fragment, the rows (four lanes each) with any vote.
__device__ __forceinline__ uint32_t rows_of_lanes(uint32_t ballot) {
  uint32_t rows = 0;
  if (ballot) {
    for (int row = 0; row < 8; row++) rows |= uint32_t((ballot >> 4 * row & 15) != 0) << row;
  }
  return rows;
}

/// Attends one row by one warp, key after key, in plain float32. Tiles multiply every value of a
/// block of keys, those that a row does not see by zero: right unless the value is NaN or infinite.
/// A row that comes out NaN is therefore done again by this, which touches only what the row sees.
template <class T, int ROWS>
__device__ __noinline__ void attend_row(const KfaAttentionParams& p, int row) {
  RowTile tile;
  tile.init<ROWS>(p);
  constexpr int SLOTS = 16;  // of 32 columns: head_dim up to 512
  const int lane = threadIdx.x % 32;
  const T* query = static_cast<const T*>(p.query.data) + tile.offset(p.query, row);
  const T* key = static_cast<const T*>(p.key.data) + tile.kv_offset(p.key);
  const T* value = static_cast<const T*>(p.value.data) + tile.kv_offset(p.value);
  T* output = static_cast<T*>(p.output.data) + tile.offset(p.output, row);
  float q[SLOTS], o[SLOTS];
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    const int column = i * 32 + lane;
    q[i] = column < p.head_dim ? to_float(query[column]) * p.scale : 0.f;
    o[i] = 0.f;
  }
  float max = -INFINITY, sum = 0.f;
  const int visible = tile.visible(row);
  for (int j = 0; j < visible; j++, key += p.key.row_stride, value += p.value.row_stride) {
    float score = 0.f;
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      const int column = i * 32 + lane;
      if (column < p.head_dim) score += q[i] * to_float(key[column]);
    }
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
      score += __shfl_xor_sync(~0u, score, distance);
    }
    if (score == -INFINITY) continue;
    const bool lost = !(score < INFINITY);  // +infinity or NaN: so is every weight of the row
    const float larger = lost ? NAN : fmaxf(max, score);
    const float factor = exp2f((max - larger) * LOG2_E);
    const float weight = exp2f((score - larger) * LOG2_E);
    sum = sum * factor + weight;
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      const int column = i * 32 + lane;
      if (column < p.head_dim) o[i] = o[i] * factor + weight * to_float(value[column]);
    }
    max = larger;
    if (lost) break;
  }
  const float inverse = sum == 0.f ? 0.f : 1.f / sum;
#pragma unroll
  for (int i = 0; i < SLOTS; i++) {
    const int column = i * 32 + lane;
    if (column < p.head_dim) output[column] = from_float<T>(max == max ? o[i] * inverse : NAN);
  }
  if (p.lse && lane == 0) {
    p.lse[tile.lse_index(p, row)] = sum == 0.f ? -INFINITY : max + logf(sum);
  }
}

}  // namespace kfa
