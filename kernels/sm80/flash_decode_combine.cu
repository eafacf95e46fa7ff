// Merges what the clusters of flash decode left in the workspace: one block per output row.
#include "flash_decode.cuh"

namespace kfa::decode {
namespace {

constexpr int THREADS = 128;

/// `splits` here counts the parts per row.
template <class T>
__device__ __forceinline__ void combine(const KfaAttentionParams& p) {
  const int64_t row = blockIdx.x;
  const int position = row % p.q_len;
  const int head = row / p.q_len % p.heads;
  const int64_t batch = row / p.q_len / p.heads;
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.q_len;
  const float* sums = p.workspace + row * p.splits * p.head_dim;
  const float2 none = {-INFINITY, 0.f};
  const float* statistics = p.workspace + rows * p.splits * p.head_dim + row * p.splits * 2;
  wait_for_predecessor();
  release_successor();

  // A lane per part, so that all parts' statistics arrive at once.
  const int lane = threadIdx.x % 32;
  float max = none.x;
  for (int part = lane; part < p.splits; part += 32) max = fmaxf(max, statistics[part * 2]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    max = fmaxf(max, __shfl_xor_sync(0xffffffff, max, offset));
  }
  for (int d = threadIdx.x; d < p.head_dim; d += THREADS) {
    float sum = 0;
    float denominator = 0;
#pragma unroll 4
    for (int part = 0; part < p.splits; part++) {
      const float weight = rescale(statistics[part * 2], max);
      const float x = sums[part * p.head_dim + d];
      sum += weight == 0.f ? 0.f : weight * x;
      denominator += weight * statistics[part * 2 + 1];
    }
    T* to = static_cast<T*>(p.output.data) + batch * p.output.batch_stride +
            position * p.output.row_stride + head * p.output.head_stride;
    to[d] = from_float<T>(denominator == 0.f ? 0.f : sum / denominator);
    if (d == 0 && p.lse) {
      p.lse[row] = denominator == 0.f ? -INFINITY : (max + log2f(denominator)) * LN_2;
    }
  }
}

}  // namespace
}  // namespace kfa::decode

#define KFA_FLASH_DECODE_COMBINE(type, T)                            \
  extern "C" __global__ void __launch_bounds__(kfa::decode::THREADS) \
      kfa_flash_decode_combine_##type(const __grid_constant__ KfaAttentionParams p) { \
    kfa::decode::combine<T>(p);                                      \
  }
KFA_FLASH_DECODE_COMBINE(f32, float)
KFA_FLASH_DECODE_COMBINE(f16, __half)
KFA_FLASH_DECODE_COMBINE(bf16, __nv_bfloat16)
