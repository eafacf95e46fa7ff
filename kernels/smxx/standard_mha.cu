// Standard multi-head attention, the baseline and the reference: one block computes one row of one head.
// Scores of all visible keys go to global memory, the block normalises them there, then sums the values.
// That score memory, and every head reading its own keys and values, is what flash attention saves.
#include <cmath>

#include "common/cache.cuh"
#include "common/dtype.cuh"
#include "common/scores.cuh"
#include "common/softmax.cuh"
#include "params.h"

/// Mirrors StandardParams in src/cuda/standard_mha.rs.
struct StandardParams {
  KfaAttentionParams problem;
  /// First query row in flight, and how many are: the workspace holds their scores.
  int32_t first_row;
  int32_t rows;
};
static_assert(sizeof(StandardParams) == 448, "keep in step with src/cuda/standard_mha.rs");

namespace {

#define KFA_STANDARD_MHA(threads) constexpr int kThreads = threads;
#include "smxx/standard_mha.list"
constexpr int kWarps = kThreads / 32;
/// Keys that a warp scores together, so that their loads are in flight at once.
constexpr int kKeys = 4;

/// What stands for the score of a key that a mask or a page table hides: no product gives this NaN.
constexpr uint32_t HIDDEN = 0xffdeadffu;

struct Max {
  static __device__ float apply(float a, float b) { return fmaxf(a, b); }
};
struct Sum {
  static __device__ float apply(float a, float b) { return a + b; }
};

template <class Op>
__device__ float reduce_warp(float x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x = Op::apply(x, __shfl_xor_sync(0xffffffff, x, offset));
  }
  return x;
}

/// The reduction of all threads' values, in every thread.
template <class Op>
__device__ float reduce_block(float x) {
  __shared__ float warps[kWarps];
  x = reduce_warp<Op>(x);
  __syncthreads();  // the previous use of `warps` is over
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = warps[0];
  for (int w = 1; w < kWarps; ++w) x = Op::apply(x, warps[w]);
  return x;
}

template <class Element>
__device__ Element* at(const KfaView& view, int batch, int row, int head) {
  return static_cast<Element*>(view.data) + batch * view.batch_stride + row * view.row_stride +
         head * view.head_stride;
}

/// Whether every key that a row sees has a place of its own and a score that nothing changes: then no
/// key asks whether it is hidden, which costs several times the products.
__device__ bool is_plain(const KfaAttentionParams& p) {
  return !p.pages.table && !p.lengths.kv_offsets && !p.lengths.cache_index &&
         p.scores.mask_kind == KFA_MASK_NONE && p.scores.softcap <= 0.f && !p.scores.alibi_slopes;
}

template <class Q, class KV, bool PLAIN>
__device__ __forceinline__ void attend_row(const StandardParams& params) {
  const KfaAttentionParams& p = params.problem;
  // Rows are fastest, so that neighbouring blocks share a head's keys in L2.
  const int64_t block = blockIdx.x;
  const int offset = block % params.rows;
  const int row = params.first_row + offset;
  const int head = block / params.rows % p.heads;
  const int batch = block / params.rows / p.heads;
  const int kv_head = head / (p.heads / p.kv_heads);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;

  const kfa::Sequence s = kfa::sequence_of(p, batch);
  if (row >= s.q_len) return;
  const kfa::Range seen = kfa::row_range(p.visible, s, row);
  const kfa::CacheRows keys(p, p.key, p.pages.table, s, batch, kv_head);
  const kfa::CacheRows values(p, p.value, p.pages.value_table, s, batch, kv_head);
  const kfa::RowScores modify(p, s, batch, head, row);
  // Of a plain problem: key 0, and its value.
  const KV* key = at<const KV>(p.key, batch, 0, kv_head);
  const KV* value = at<const KV>(p.value, batch, 0, kv_head);
  float* scores = p.workspace + block * p.kv_len;

  // The scaled query row, later the partial sums of the values.
  extern __shared__ float shared[];
  const Q* query = at<Q>(p.query, s.query_batch, s.query_row + row, head);
  for (int d = threadIdx.x; d < p.head_dim; d += kThreads) shared[d] = kfa::to_float(query[d]) * p.scale;
  __syncthreads();

  float max = p.scores.sinks ? p.scores.sinks[head] : -INFINITY;
  for (int first = seen.first + warp * kKeys; first < seen.end; first += kWarps * kKeys) {
    const KV* elements[kKeys];
    float dots[kKeys] = {}, bias[kKeys];
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      if constexpr (PLAIN) {
        // The last keys of a row repeat its newest one, which is valid, instead of branching.
        elements[k] = key + min(first + k, seen.end - 1) * p.key.row_stride;
      } else {
        bias[k] = first + k < seen.end ? modify.mask_of(first + k) : -INFINITY;
        const int64_t place = bias[k] == -INFINITY ? -1 : keys.offset(first + k);
        elements[k] = place < 0 ? nullptr : static_cast<const KV*>(p.key.data) + place;
      }
    }
    for (int d = lane; d < p.head_dim; d += 32) {
#pragma unroll
      for (int k = 0; k < kKeys; ++k) {
        if (PLAIN || elements[k]) dots[k] += shared[d] * kfa::to_float(elements[k][d]);
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      float score = __uint_as_float(HIDDEN);
      if (PLAIN || elements[k]) {
        score = reduce_warp<Sum>(dots[k]);
        if (!PLAIN) score = modify.finish(score, first + k, bias[k]);
        max = fmaxf(max, score);
      }
      if (lane == 0 && first + k < seen.end) scores[first + k] = score;
    }
  }
  max = reduce_block<Max>(max);  // its barriers also publish the scores to the block

  // Scores of -infinity alone are no keys at all.
  const float shift = max == -INFINITY ? 0.0f : max;
  float sum = 0;
  for (int k = seen.first + threadIdx.x; k < seen.end; k += kThreads) {
    // A hidden key's weight is negative: its value is passed over, not multiplied by zero.
    float weight = -1.0f;
    if (PLAIN || __float_as_uint(scores[k]) != HIDDEN) {
      weight = expf(scores[k] - shift);
      sum += weight;
    }
    scores[k] = weight;
  }
  sum = reduce_block<Sum>(sum);
  if (p.scores.sinks) sum += expf(p.scores.sinks[head] - shift);
  const float inverse = sum == 0 ? 0.0f : 1.0f / sum;

  // Each group of threads takes every groups-th key; a thread owns one column of the values, or
  // more where the head is wider than the block.
  const int columns = min((p.value_head_dim + 31) / 32 * 32, kThreads);
  const int groups = kThreads / columns;
  const int group = threadIdx.x / columns;
  if (group < groups) {
    for (int d = threadIdx.x % columns; d < p.value_head_dim; d += columns) {
      float total = 0;
#pragma unroll 8
      for (int k = seen.first + group; k < seen.end; k += groups) {
        if constexpr (PLAIN) {
          total += scores[k] * kfa::to_float(value[k * p.value.row_stride + d]);
        } else {
          const int64_t place = scores[k] < 0 ? -1 : values.offset(k);
          if (place >= 0) total += scores[k] * kfa::to_float(static_cast<const KV*>(p.value.data)[place + d]);
        }
      }
      shared[group * p.value_head_dim + d] = total;
    }
  }
  __syncthreads();
  Q* output = at<Q>(p.output, s.query_batch, s.query_row + row, head);
  for (int d = threadIdx.x; d < p.value_head_dim; d += kThreads) {
    float total = shared[d];
    for (int g = 1; g < groups; ++g) total += shared[g * p.value_head_dim + d];
    output[d] = kfa::from_float<Q>(total * inverse);
  }
  if (p.lse && threadIdx.x == 0) {
    const float lse = sum == 0 ? -INFINITY : max + logf(sum);
    p.lse[s.query_batch * p.lse_strides[0] + head * p.lse_strides[1] +
          (s.query_row + row) * p.lse_strides[2]] = p.lse_base2 ? lse * kfa::LOG2_E : lse;
  }
}

template <class Q, class KV>
__device__ __forceinline__ void standard_mha(const StandardParams& params) {
  if (is_plain(params.problem)) {
    attend_row<Q, KV, true>(params);
  } else {
    attend_row<Q, KV, false>(params);
  }
}

}  // namespace

#define KFA_STANDARD_MHA(name, Q, KV)                                                \
  extern "C" __global__ void __launch_bounds__(kThreads, 2)                           \
      kfa_standard_mha_##name(const __grid_constant__ StandardParams params) {       \
    standard_mha<Q, KV>(params);                                                     \
  }
KFA_STANDARD_MHA(f32_f32, float, float)
KFA_STANDARD_MHA(f16_f16, __half, __half)
KFA_STANDARD_MHA(bf16_bf16, __nv_bfloat16, __nv_bfloat16)
KFA_STANDARD_MHA(f32_f16, float, __half)
KFA_STANDARD_MHA(f32_bf16, float, __nv_bfloat16)
