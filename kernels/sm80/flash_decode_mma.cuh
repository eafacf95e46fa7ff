// Decode arithmetic for 16-bit queries, keys and values, on matrix instructions.
//
// Keys are the tall operand: S^T = K Q^T has 16 keys by 8 rows, O^T = V^T P^T has 16 columns of the
// head by 8 rows. So a warp pads its rows only to a multiple of 8, and each fragment of keys or
// values, loaded once, serves all rows.
#pragma once

#include "common/mma.cuh"
#include "flash_decode.cuh"

namespace kfa::decode {

/// Transposes an 8x8 matrix of 16-bit elements across the warp.
__device__ __forceinline__ uint32_t transpose(uint32_t matrix) {
  uint32_t to;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(to) : "r"(matrix));
  return to;
}

/// Up to `ROWS` query rows of up to `DIM` elements.
template <class T, int DIM_, int ROWS_, int KEYS_>
struct MmaCore {
  using Query = T;
  using Output = T;
  static constexpr int DIM = DIM_;
  static constexpr int ROWS = ROWS_;
  static constexpr int TILES = ROWS / 8;
  static constexpr int KEYS = KEYS_;
  static_assert(ROWS % 8 == 0 && KEYS == 16, "the shape of the matrix instruction");
  static constexpr int QUERY_PITCH = DIM + 8;
  using Keys = Stream<T, DIM, KEYS>;
  using StateView = State<ROWS, DIM>;

  const Unit& unit;
  /// This lane's rows of the fragments that ldmatrix gathers.
  uint32_t query;
  uint32_t key_offset;
  uint32_t value_offset;
  float scale;
  /// Lane l holds keys l/4 and l/4 + 8 of rows 2(l%4) and the next, of every tile of rows.
  float scores[TILES][4];
  uint32_t weights[TILES][2];
  float max[TILES][2];
  /// Of this lane's keys only, until `leave`.
  float denominator[TILES][2];
  float sums[DIM / 16][TILES][4];

  __device__ __forceinline__ MmaCore(const Unit& u, const T* q) : unit(u), scale(u.p->scale * LOG2_E) {
    const int lane = threadIdx.x % 32;
    query = shared_address(q) + (lane % 8 * QUERY_PITCH + lane / 8 * 8) * 2;
    key_offset = lane % 16 * Keys::PITCH + lane / 16 * 16;
    value_offset = (lane % 8 + lane / 16 * 8) * Keys::PITCH + lane / 8 % 2 * 16;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        max[n][i] = -INFINITY;
        denominator[n][i] = 0;
      }
#pragma unroll
      for (int d = 0; d < DIM / 16; d++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[d][n][i] = 0;
      }
    }
  }

  __device__ __forceinline__ void take_query() {}

  __device__ __forceinline__ void score(uint32_t tile, int) {
    // Two chains of products, so that one's latency hides the other's.
    float even[TILES][4] = {};
    float odd[TILES][4] = {};
    static_assert(DIM % 32 == 0, "two steps at a time");
#pragma unroll
    for (int d = 0; d < DIM; d += 32) {
      uint32_t a[4], b[4];
      load_matrices(a, tile + key_offset + d * 2);
      load_matrices(b, tile + key_offset + d * 2 + 32);
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        uint32_t q[4];
        load_matrices(q, query + (n * 8 * QUERY_PITCH + d) * 2);
        mma<T>(even[n], a, q[0], q[1]);
        mma<T>(odd[n], b, q[2], q[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) scores[n][i] = even[n][i] + odd[n][i];
    }
  }

  /// Scores become weights; earlier sums are brought to the new maximum.
  __device__ __forceinline__ void weigh(int key) {
    const int lane = threadIdx.x % 32;
    const bool partial = key + KEYS > unit.common_keys;
    bool grew = false;
    float factor[TILES][2];
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float a = scores[n][i] * scale;
        float b = scores[n][i + 2] * scale;
        if (partial) {
          const int limit = unit.limits[n * 8 + lane % 4 * 2 + i];
          if (key + lane / 4 >= limit) a = -INFINITY;
          if (key + lane / 4 + 8 >= limit) b = -INFINITY;
        }
        float now = fmaxf(a, b);
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) {
          now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, offset));
        }
        now = fmaxf(now, max[n][i]);
        grew |= now != max[n][i];
        factor[n][i] = rescale(max[n][i], now);
        max[n][i] = now;
        const float base = now == -INFINITY ? 0.f : now;
        scores[n][i] = exp2_approx(a - base);
        scores[n][i + 2] = exp2_approx(b - base);
        denominator[n][i] = denominator[n][i] * factor[n][i] + (scores[n][i] + scores[n][i + 2]);
      }
      weights[n][0] = transpose(pack<T>(scores[n][0], scores[n][1]));
      weights[n][1] = transpose(pack<T>(scores[n][2], scores[n][3]));
    }
    if (!__any_sync(0xffffffff, grew)) return;
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[d][n][i] *= factor[n][i % 2];
      }
    }
  }

  __device__ __forceinline__ void accumulate(uint32_t tile, int key) {
    if (key + KEYS > unit.common_keys && unit.common_keys < unit.keys) {
      accumulate_hidden(tile, key);
      return;
    }
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
      uint32_t a[4];
      load_matrices_transposed(a, tile + value_offset + d * 32);
#pragma unroll
      for (int n = 0; n < TILES; n++) mma<T>(sums[d][n], a, weights[n][0], weights[n][1]);
    }
  }

  /// Some rows must not see some keys of this tile, whose values may be NaN: a weight of 0 does not
  /// hide those. One query position at a time, with the values that it does not see cleared.
  __device__ __forceinline__ void accumulate_hidden(uint32_t tile, int key) {
    const int lane = threadIdx.x % 32;
    const int last = unit.position(unit.rows - 1);
#pragma unroll 1
    for (int position = unit.position(0); position <= last; position++) {
      const int limit = unit.limit_at(position);
      if (limit <= key) continue;
      const int seen = limit - key - lane % 4 * 2;
      const uint32_t low = (seen > 0 ? 0xffffu : 0) | (seen > 1 ? 0xffff0000u : 0);
      const uint32_t high = (seen > 8 ? 0xffffu : 0) | (seen > 9 ? 0xffff0000u : 0);
#pragma unroll
      for (int d = 0; d < DIM / 16; d++) {
        uint32_t a[4];
        load_matrices_transposed(a, tile + value_offset + d * 32);
        a[0] &= low;
        a[1] &= low;
        a[2] &= high;
        a[3] &= high;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
          float product[4] = {};
          mma<T>(product, a, weights[n][0], weights[n][1]);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            if (unit.limits[n * 8 + lane % 4 * 2 + i % 2] == limit) sums[d][n][i] += product[i];
          }
        }
      }
    }
  }

  __device__ __forceinline__ void leave(const StateView& state) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = n * 8 + lane % 4 * 2 + i;
        float total = denominator[n][i];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) {
          total += __shfl_xor_sync(0xffffffff, total, offset);
        }
        if (lane < 4) {
          state.max(row) = max[n][i];
          state.denominator(row) = total;
        }
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) {
          state.sums(row)[d * 16 + lane / 4] = sums[d][n][i];
          state.sums(row)[d * 16 + lane / 4 + 8] = sums[d][n][i + 2];
        }
      }
    }
  }
};

}  // namespace kfa::decode
