// What happens to a score between product and softmax, in the contract's order: softcap, ALiBi, mask.
#pragma once

#include "common/dtype.cuh"
#include "common/visible.cuh"

namespace kfa {

/// The modifications of one row of one head.
struct RowScores {
  float softcap, slope, factor;
  int64_t position;
  const void* mask;
  KfaMaskKind kind;
  /// Elements to the row's first of the mask, and the key that its column 0 speaks of.
  int64_t first;
  int oldest, columns;

  __device__ RowScores(const KfaAttentionParams& p, const Sequence& s, int batch, int head, int row)
      : softcap(p.scores.softcap),
        slope(p.scores.alibi_slopes ? p.scores.alibi_slopes[batch * p.scores.alibi_batch_stride + head] : 0.f),
        factor(p.scores.mask_head_factor ? p.scores.mask_head_factor[head] : 1.f),
        position(position_of(p.visible, s, row)),
        mask(p.scores.mask),
        kind(p.scores.mask_kind),
        oldest(p.scores.mask_newest ? s.kv_end - p.scores.mask_columns : 0),
        columns(p.scores.mask_columns) {
    first = (p.scores.mask_offsets ? p.scores.mask_offsets[batch] : batch * p.scores.mask_batch_stride) +
            head * p.scores.mask_head_stride + row * p.scores.mask_row_stride;
  }

  /// What the mask adds to a key's score; -infinity if it hides the key.
  __device__ __forceinline__ float mask_of(int key) const {
    const int column = key - oldest;
    if (kind == KFA_MASK_NONE || column < 0 || column >= columns) return 0.f;
    const int64_t at = first + column;
    float x = 0.f;
    switch (kind) {
      case KFA_MASK_F32: x = static_cast<const float*>(mask)[at]; break;
      case KFA_MASK_F16: x = to_float(static_cast<const __half*>(mask)[at]); break;
      case KFA_MASK_BF16: x = to_float(static_cast<const __nv_bfloat16*>(mask)[at]); break;
      case KFA_MASK_BOOLEAN: return static_cast<const uint8_t*>(mask)[at] ? 0.f : -INFINITY;
      default: return static_cast<const uint8_t*>(mask)[at / 8] >> (at % 8) & 1 ? 0.f : -INFINITY;
    }
    return x == -INFINITY ? x : factor * x;
  }

  /// The final score from the scaled product, given what the mask adds.
  __device__ __forceinline__ float finish(float score, int key, float bias) const {
    if (softcap > 0.f) score = softcap * tanhf(score / softcap);
    if (slope != 0.f) score -= slope * fabsf(static_cast<float>(position - key));
    return score + bias;
  }
};

}  // namespace kfa
