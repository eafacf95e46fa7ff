// Decode arithmetic for float32 queries, on fused multiply-adds: exact to float32 for any keys.
//
// G lanes share a key and each owns the same columns of every key, query and sum; the other lanes
// of the warp work on other keys, with a state of their own until the warp is done.
#pragma once

#include "flash_decode.cuh"

namespace kfa::decode {

/// The least power of two from `x` on.
constexpr int power_of_two(int x) {
  int power = 1;
  while (power < x) power *= 2;
  return power;
}

/// Up to `ROWS` query rows of up to `DIM` elements against keys of type `T`.
template <class T, int DIM_, int ROWS_, int KEYS_>
struct FmaCore {
  using Query = float;
  using Output = float;
  static constexpr int DIM = DIM_;
  static constexpr int ROWS = ROWS_;
  static constexpr int VECTOR = 16 / sizeof(T);
  /// As few lanes per key, for the fewest exchanges, as leave a lane 64 sums or fewer.
  static constexpr int WANTED = power_of_two(ROWS * DIM / 64);
  static constexpr int G = WANTED < 8 ? 8 : WANTED > 32 ? 32 : WANTED;
  static constexpr int KEY_GROUPS = 32 / G;
  static constexpr int CHUNKS = DIM / VECTOR / G;
  static constexpr int COLUMNS = CHUNKS * VECTOR;
  /// About 4 KB, if a lane can hold their scores.
  static constexpr int KEYS = KEYS_;
  static constexpr int LANE_KEYS = KEYS / KEY_GROUPS;
  static_assert(KEYS % KEY_GROUPS == 0, "lanes share the keys evenly");
  static constexpr int QUERY_PITCH = DIM;
  using Keys = Stream<T, DIM, KEYS>;
  using StateView = State<ROWS, DIM>;

  const Unit& unit;
  const float* shared_query;
  float query[ROWS][COLUMNS];
  float scores[LANE_KEYS][ROWS];
  float max[ROWS];
  float denominator[ROWS];
  float sums[ROWS][COLUMNS];

  /// The column of a lane's element.
  __device__ static __forceinline__ int column(int i) {
    return (i / VECTOR * G + threadIdx.x % G) * VECTOR + i % VECTOR;
  }
  /// The key, within the tile, of a lane's i-th.
  __device__ static __forceinline__ int lane_key(int i) {
    return i * KEY_GROUPS + threadIdx.x % 32 / G;
  }
  __device__ static __forceinline__ void load(float (&to)[VECTOR], uint32_t tile, int key, int chunk) {
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(tile + key * Keys::PITCH + (chunk * G + threadIdx.x % G) * 16));
    unpack(to, x, T());
  }

  __device__ __forceinline__ FmaCore(const Unit& u, const float* q) : unit(u), shared_query(q) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
      for (int i = 0; i < COLUMNS; i++) sums[r][i] = 0;
      max[r] = -INFINITY;
      denominator[r] = 0;
    }
  }

  __device__ __forceinline__ void take_query() {
    const float scale = unit.p->scale * LOG2_E;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
      for (int i = 0; i < COLUMNS; i++) query[r][i] = shared_query[r * QUERY_PITCH + column(i)] * scale;
    }
  }

  __device__ __forceinline__ void score(uint32_t tile, int key) {
#pragma unroll
    for (int k = 0; k < LANE_KEYS; k++) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) scores[k][r] = 0;
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int k = 0; k < LANE_KEYS; k++) {
        float x[VECTOR];
        load(x, tile, lane_key(k), c);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
          for (int i = 0; i < VECTOR; i++) {
            scores[k][r] = fmaf(query[r][c * VECTOR + i], x[i], scores[k][r]);
          }
        }
      }
    }
#pragma unroll
    for (int offset = 1; offset < G; offset *= 2) {
#pragma unroll
      for (int k = 0; k < LANE_KEYS; k++) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          scores[k][r] += __shfl_xor_sync(0xffffffff, scores[k][r], offset);
        }
      }
    }
    if (key + KEYS <= unit.common_keys) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int limit = unit.limits[r] - key;
#pragma unroll
      for (int k = 0; k < LANE_KEYS; k++) {
        if (lane_key(k) >= limit) scores[k][r] = -INFINITY;
      }
    }
  }

  /// Scores become weights; earlier sums are brought to the new maximum.
  __device__ __forceinline__ void weigh(int) {
    bool grew = false;
    float factor[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float now = max[r];
#pragma unroll
      for (int k = 0; k < LANE_KEYS; k++) now = fmaxf(now, scores[k][r]);
      grew |= now != max[r];
      factor[r] = rescale(max[r], now);
      max[r] = now;
      const float base = now == -INFINITY ? 0.f : now;
      denominator[r] *= factor[r];
#pragma unroll
      for (int k = 0; k < LANE_KEYS; k++) {
        scores[k][r] = exp2_approx(scores[k][r] - base);
        denominator[r] += scores[k][r];
      }
    }
    if (!__any_sync(0xffffffff, grew)) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
      for (int i = 0; i < COLUMNS; i++) sums[r][i] *= factor[r];
    }
  }

  __device__ __forceinline__ void accumulate(uint32_t tile, int key) {
    if (key + KEYS > unit.common_keys && unit.common_keys < unit.keys) {
      accumulate<true>(tile, key);
    } else {
      accumulate<false>(tile, key);
    }
  }

  /// With `HIDDEN`, some rows must not see some keys, whose values may be NaN.
  template <bool HIDDEN>
  __device__ __forceinline__ void accumulate(uint32_t tile, int key) {
#pragma unroll
    for (int k = 0; k < LANE_KEYS; k++) {
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
        float x[VECTOR];
        load(x, tile, lane_key(k), c);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          if (HIDDEN && key + lane_key(k) >= unit.limits[r]) continue;
#pragma unroll
          for (int i = 0; i < VECTOR; i++) {
            float& sum = sums[r][c * VECTOR + i];
            sum = fmaf(scores[k][r], x[i], sum);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void leave(const StateView& state) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float all = max[r];
#pragma unroll
      for (int offset = G; offset < 32; offset *= 2) {
        all = fmaxf(all, __shfl_xor_sync(0xffffffff, all, offset));
      }
      const float factor = rescale(max[r], all);
      denominator[r] *= factor;
#pragma unroll
      for (int i = 0; i < COLUMNS; i++) {
        // A group without keys holds zeros.
        sums[r][i] *= factor;
#pragma unroll
        for (int offset = G; offset < 32; offset *= 2) {
          sums[r][i] += __shfl_xor_sync(0xffffffff, sums[r][i], offset);
        }
        if (lane < G) state.sums(r)[column(i)] = sums[r][i];
      }
#pragma unroll
      for (int offset = G; offset < 32; offset *= 2) {
        denominator[r] += __shfl_xor_sync(0xffffffff, denominator[r], offset);
      }
      if (lane == 0) {
        state.max(r) = all;
        state.denominator(r) = denominator[r];
      }
    }
  }
};

}  // namespace kfa::decode
