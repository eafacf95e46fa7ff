// Standard multi-head attention, the baseline: one block computes one row of one head. Scores of
// all visible keys go to global memory, the block normalises them there, then sums the values.
// That score memory, and every head reading its own keys and values, is what flash attention saves.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "params.h"

/// Mirrors StandardParams in src/cuda/standard_mha.rs.
struct StandardParams {
  KfaAttentionParams problem;
  /// First query row in flight, and how many are: the workspace holds their scores.
  int32_t first_row;
  int32_t rows;
};
static_assert(sizeof(StandardParams) == 200, "keep in step with src/cuda/standard_mha.rs");

namespace {

#define KFA_STANDARD_MHA(threads) constexpr int kThreads = threads;
#include "smxx/standard_mha.list"
constexpr int kWarps = kThreads / 32;
/// Keys that a warp scores together, so that their loads are in flight at once.
constexpr int kKeys = 4;

__device__ float to_float(float x) { return x; }
__device__ float to_float(__half x) { return __half2float(x); }
__device__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void store(float* to, float x) { *to = x; }
__device__ void store(__half* to, float x) { *to = __float2half_rn(x); }
__device__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

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

template <class Q, class KV>
__device__ void standard_mha(const StandardParams& params) {
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

  const int keys = p.pos ? min(max(*p.pos, -1), p.kv_len - 1) + 1 : p.kv_len;
  const int visible = p.causal ? max(keys - (p.q_len - 1 - row), 0) : keys;
  float* scores = p.workspace + block * p.kv_len;

  // The scaled query row, later the partial sums of the values.
  extern __shared__ float shared[];
  const Q* query = at<Q>(p.query, batch, row, head);
  for (int d = threadIdx.x; d < p.head_dim; d += kThreads) shared[d] = to_float(query[d]) * p.scale;
  __syncthreads();

  const KV* key = at<KV>(p.key, batch, 0, kv_head);
  float max = -INFINITY;
  for (int first = warp * kKeys; first < visible; first += kWarps * kKeys) {
    // The last keys of a row repeat its newest one, which is valid, instead of branching.
    const KV* elements[kKeys];
    float dots[kKeys] = {};
#pragma unroll
    for (int k = 0; k < kKeys; ++k) elements[k] = key + min(first + k, visible - 1) * p.key.row_stride;
    for (int d = lane; d < p.head_dim; d += 32) {
#pragma unroll
      for (int k = 0; k < kKeys; ++k) dots[k] += shared[d] * to_float(elements[k][d]);
    }
#pragma unroll
    for (int k = 0; k < kKeys; ++k) {
      dots[k] = reduce_warp<Sum>(dots[k]);
      if (lane == 0 && first + k < visible) scores[first + k] = dots[k];
      max = fmaxf(max, dots[k]);
    }
  }
  max = reduce_block<Max>(max);  // its barriers also publish the scores to the block

  float sum = 0;
  for (int k = threadIdx.x; k < visible; k += kThreads) {
    const float weight = expf(scores[k] - max);
    scores[k] = weight;
    sum += weight;
  }
  sum = reduce_block<Sum>(sum);
  const float inverse = visible > 0 ? 1.0f / sum : 0.0f;

  // Each group of threads takes every groups-th key; a thread owns one column of the values, or
  // more where the head is wider than the block.
  const int columns = min((p.head_dim + 31) / 32 * 32, kThreads);
  const int groups = kThreads / columns;
  const int group = threadIdx.x / columns;
  const KV* value = at<KV>(p.value, batch, 0, kv_head);
  if (group < groups) {
    for (int d = threadIdx.x % columns; d < p.head_dim; d += columns) {
      float total = 0;
#pragma unroll 8
      for (int k = group; k < visible; k += groups) {
        total += scores[k] * to_float(value[k * p.value.row_stride + d]);
      }
      shared[group * p.head_dim + d] = total;
    }
  }
  __syncthreads();
  Q* output = at<Q>(p.output, batch, row, head);
  for (int d = threadIdx.x; d < p.head_dim; d += kThreads) {
    float total = shared[d];
    for (int g = 1; g < groups; ++g) total += shared[g * p.head_dim + d];
    store(output + d, total * inverse);
  }
  if (p.lse && threadIdx.x == 0) {
    p.lse[(static_cast<int64_t>(batch) * p.heads + head) * p.q_len + row] =
        visible > 0 ? max + logf(sum) : -INFINITY;
  }
}

}  // namespace

#define KFA_STANDARD_MHA(name, Q, KV)                                                \
  extern "C" __global__ void __launch_bounds__(kThreads)                             \
      kfa_standard_mha_##name(const __grid_constant__ StandardParams params) {       \
    standard_mha<Q, KV>(params);                                                     \
  }
KFA_STANDARD_MHA(f32_f32, float, float)
KFA_STANDARD_MHA(f16_f16, __half, __half)
KFA_STANDARD_MHA(bf16_bf16, __nv_bfloat16, __nv_bfloat16)
KFA_STANDARD_MHA(f32_f16, float, __half)
KFA_STANDARD_MHA(f32_bf16, float, __nv_bfloat16)
