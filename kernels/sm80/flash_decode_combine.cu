// Merges what the clusters of flash decode left in the workspace: one block per output row.
#include "flash_decode.cuh"

namespace kfa::decode {
namespace {

/// Each column of a row is summed by this many threads, each over every GROUPS-th part, so that the
/// sums of up to 32 parts are all asked for at once.
#define KFA_DECODE_COMBINE(groups, columns) \
  constexpr int GROUPS = groups;            \
  constexpr int MAX_COLUMNS = columns;
#include "flash_decode.list"
constexpr int BATCH = 32 / GROUPS;

/// `splits` here counts the parts per row. Block: head_dim threads in whole warps, up to the
/// limit, times GROUPS.
template <class T>
__device__ __forceinline__ void combine(const KfaAttentionParams& p) {
  __shared__ float shared[GROUPS][MAX_COLUMNS];
  const int64_t row = blockIdx.x;
  const int position = row % p.q_len;
  const int head = row / p.q_len % p.heads;
  const int64_t batch = row / p.q_len / p.heads;
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.q_len;
  const int parts = p.splits;
  const int columns = blockDim.x / GROUPS;
  const int lane = threadIdx.x % 32;
  const int group = threadIdx.x / columns;
  const int column = threadIdx.x - group * columns;
  const float* sums = p.workspace + row * parts * p.head_dim;
  // Maximum and denominator of each part.
  const float* statistics = p.workspace + (rows * p.head_dim + row * 2) * parts;
  T* to = static_cast<T*>(p.output.data) + batch * p.output.batch_stride +
          position * p.output.row_stride + head * p.output.head_stride;
  // Before the wait: the next launch's blocks then take the places that the splits leave. They too
  // wait, for our end, which comes after that of the splits.
  release_successor();
  wait_for_predecessor();

#pragma unroll 1
  for (int first = 0; first < p.head_dim; first += columns) {
    const int d = first + column;
    float sum = 0;
    float max = -INFINITY;
    float denominator = 0;
#pragma unroll 1
    for (int base = 0; base < parts; base += 32) {
      float x[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        const int part = base + group + i * GROUPS;
        x[i] = part < parts && d < p.head_dim ? sums[part * p.head_dim + d] : 0.f;
      }
      if (base == 0) {
        for (int part = lane; part < parts; part += 32) max = fmaxf(max, statistics[part * 2]);
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
          max = fmaxf(max, __shfl_xor_sync(0xffffffff, max, offset));
        }
      }
      // A lane per part.
      float weight = 0;
      if (base + lane < parts) {
        weight = rescale(statistics[(base + lane) * 2], max);
        denominator += weight * statistics[(base + lane) * 2 + 1];
      }
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        sum += __shfl_sync(0xffffffff, weight, group + i * GROUPS) * x[i];
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      denominator += __shfl_xor_sync(0xffffffff, denominator, offset);
    }
    shared[group][column] = sum;
    __syncthreads();
    if (group == 0 && d < p.head_dim) {
#pragma unroll
      for (int g = 1; g < GROUPS; g++) sum += shared[g][column];
      to[d] = from_float<T>(denominator == 0.f ? 0.f : sum / denominator);
    }
    __syncthreads();
    if (threadIdx.x == 0 && first == 0 && p.lse) {
      p.lse[row] = denominator == 0.f ? -INFINITY : (max + log2f(denominator)) * LN_2;
    }
  }
}

}  // namespace
}  // namespace kfa::decode

#define KFA_FLASH_DECODE_COMBINE(type, T)                            \
  extern "C" __global__ void __launch_bounds__(kfa::decode::GROUPS * kfa::decode::MAX_COLUMNS) \
      kfa_flash_decode_combine_##type(const __grid_constant__ KfaAttentionParams p) { \
    kfa::decode::combine<T>(p);                                      \
  }
KFA_FLASH_DECODE_COMBINE(f32, float)
KFA_FLASH_DECODE_COMBINE(f16, __half)
KFA_FLASH_DECODE_COMBINE(bf16, __nv_bfloat16)
