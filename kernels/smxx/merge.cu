// Merges partial attention results over disjoint key sets: one block per row of one head.
#include <cmath>
#include <cstdint>

constexpr int kMaxParts = 64;

/// Mirrors MergeParams in src/cuda/merge.rs.
struct MergeParams {
  const float* outputs[kMaxParts];
  const float* lses[kMaxParts];
  float* output;
  float* lse;
  int32_t parts;
  int32_t q_len;
  int32_t heads;
  int32_t head_dim;
};
static_assert(sizeof(MergeParams) == 1056, "keep in step with src/cuda/merge.rs");

extern "C" __global__ void __launch_bounds__(128) kfa_merge(const __grid_constant__ MergeParams p) {
  // LSE is [batch, heads, q_len], outputs are [batch, q_len, heads, head_dim].
  const int64_t row = blockIdx.x;
  const int64_t position = row % p.q_len;
  const int64_t head = row / p.q_len % p.heads;
  const int64_t batch = row / p.q_len / p.heads;
  const int64_t start = ((batch * p.q_len + position) * p.heads + head) * p.head_dim;

  __shared__ float weights[kMaxParts];
  if (threadIdx.x < p.parts) weights[threadIdx.x] = p.lses[threadIdx.x][row];
  __syncthreads();
  float max = -INFINITY;
  // No sum of exponentials has the logarithm NaN or +infinity: such a part spoils the row, visibly.
  bool spoilt = false;
  for (int part = 0; part < p.parts; ++part) {
    max = fmaxf(max, weights[part]);
    spoilt |= !(weights[part] < INFINITY);
  }
  float sum = spoilt ? NAN : 0.0f;
  if (max > -INFINITY) {
    for (int part = 0; part < p.parts; ++part) sum += expf(weights[part] - max);
  }
  for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x) {
    float total = 0;
    for (int part = 0; part < p.parts; ++part) {
      // A part that saw no key may hold anything.
      if (weights[part] > -INFINITY) {
        total += expf(weights[part] - max) * p.outputs[part][start + d];
      }
    }
    p.output[start + d] = sum == 0 ? 0.0f : total / sum;
  }
  // The LSE may be one of the parts': all of this row's were read above.
  if (p.lse && threadIdx.x == 0) p.lse[row] = sum == 0 ? -INFINITY : max + logf(sum);
}
