// Softmax without a maximum: the exponent's shift is that of a row's first block, and stays until a
// block's weights come out too large for it.
#pragma once

#include <type_traits>

#include "common/dtype.cuh"
#include "common/mma.cuh"

namespace kfa {

constexpr float LOG2_E = 1.44269504088896340736f;
constexpr float LN_2 = 0.69314718055994530942f;

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// The largest sum of a thread's weights of one block and row that its shift may stand: what the type
/// holds, with room for a row's sum and output in float32.
template <class T>
constexpr float MOST_WEIGHT = 0x1p60f;
template <>
constexpr float MOST_WEIGHT<__half> = 0x1p15f;

/// A thread's two rows, 8 apart. Accumulators hold them in turns of two: elements 4i, 4i + 1 are the
/// first row's, 4i + 2, 4i + 3 the second's.
struct RowPair {
  /// A weight is 2^(score - shift), scores in powers of two; -infinity until a key is visible.
  float shift[2] = {-INFINITY, -INFINITY};
  /// This thread's part of the rows' sums of weights.
  float sum[2] = {0.f, 0.f};
};

/// What to subtract from a row's scores; where all are -infinity, nothing.
__device__ __forceinline__ float finite_shift(float shift) { return shift == -INFINITY ? 0.f : shift; }

/// Of four lanes that hold a row.
__device__ __forceinline__ float max_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

template <int COUNT>
__device__ __forceinline__ float largest(const float (&scores)[COUNT], int row) {
  float m = -INFINITY;
#pragma unroll
  for (int i = 0; i < COUNT / 4; i++) {
    m = fmaxf(m, fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]));
  }
  return max_of_row(m);
}

/// Gives rows without a shift that of this block. `scale` is not negative.
template <int COUNT>
__device__ __forceinline__ void first_shift(RowPair& rows, const float (&scores)[COUNT], float scale) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float m = largest(scores, r) * scale;
    if (rows.shift[r] == -INFINITY) rows.shift[r] = m;
  }
}

/// Two scores of a row become weights; their sum. In fp16 the sum is that of the rounded ones, so that
/// rounding shifts weight between keys but takes none away; bf16 is too coarse for that to show.
template <class T>
__device__ __forceinline__ float weigh_pair(float& x, float& y, float shift, float scale) {
  x = exp2_approx(fmaf(x, scale, -shift));
  y = exp2_approx(fmaf(y, scale, -shift));
  if constexpr (std::is_same_v<T, __half>) {
    const uint32_t pair = pack<__half>(x, y);
    const float2 rounded = __half22float2(reinterpret_cast<const __half2&>(pair));
    x = rounded.x;
    y = rounded.y;
  }
  return x + y;
}

/// Scores of keys from..to (in sixteens) become weights, which `sum` gathers.
template <class T, int FROM, int TO, int COUNT>
__device__ __forceinline__ void weigh(float (&scores)[COUNT], float (&sum)[2], const float (&shift)[2], float scale) {
#pragma unroll
  for (int i = 4 * FROM; i < 4 * TO; i++) {
    sum[i % 2] += weigh_pair<T>(scores[2 * i], scores[2 * i + 1], shift[i % 2], scale);
  }
}

/// Weights as the left operand of the next product, in place of thread and register.
template <class T, int FROM, int TO, int STEPS, int COUNT>
__device__ __forceinline__ void round_weights(uint32_t (&to)[STEPS][4], const float (&weights)[COUNT]) {
#pragma unroll
  for (int k = FROM; k < TO; k++) {
#pragma unroll
    for (int i = 0; i < 4; i++) to[k][i] = pack<T>(weights[8 * k + 2 * i], weights[8 * k + 2 * i + 1]);
  }
}

/// Hides columns from `end0` (first row) and `end1` (second row) on, counted from the thread's first.
template <int COUNT>
__device__ __forceinline__ void hide(float (&scores)[COUNT], int end0, int end1) {
#pragma unroll
  for (int i = 0; i < COUNT / 4; i++) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      if (8 * i + j >= end0) scores[4 * i + j] = -INFINITY;
      if (8 * i + j >= end1) scores[4 * i + 2 + j] = -INFINITY;
    }
  }
}

/// Gives the rows in question the shift of their scores here, and takes their sum and output along.
template <int COUNT, int OUTPUTS>
__device__ __forceinline__ void new_shift(
    RowPair& rows, const bool (&again)[2], const float (&scores)[COUNT], float (&output)[OUTPUTS], float scale) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float m = largest(scores, r) * scale;
    if (again[r]) {
      const float factor = m == rows.shift[r] ? 1.f : exp2_approx(rows.shift[r] - m);
      rows.shift[r] = m;
      rows.sum[r] *= factor;
#pragma unroll
      for (int i = 0; i < OUTPUTS / 4; i++) {
        output[4 * i + 2 * r] *= factor;
        output[4 * i + 2 * r + 1] *= factor;
      }
    }
  }
}

}  // namespace kfa
