#include "op/kernels/cuda/cuda_kernels.h"
#include "op/kernels/cuda/launch.cuh"

namespace kernel {
namespace {
// One block per row.
__global__ void rmsnorm(const float* input, const float* weight, float* output, int dim) {
  constexpr float kEpsilon = 1e-5f;
  __shared__ float warp_sums[kThreads / kWarp];
  const float* x = input + size_t{blockIdx.x} * dim;
  float* out = output + size_t{blockIdx.x} * dim;

  float square_sum = 0.0f;
  for (int i = threadIdx.x; i < dim; i += kThreads) square_sum += x[i] * x[i];
  square_sum = warp_sum(square_sum);
  if (threadIdx.x % kWarp == 0) warp_sums[threadIdx.x / kWarp] = square_sum;
  __syncthreads();
  square_sum = 0.0f;
  for (float sum : warp_sums) square_sum += sum;

  const float scale = 1.0f / sqrtf(square_sum / static_cast<float>(dim) + kEpsilon);
  for (int i = threadIdx.x; i < dim; i += kThreads) out[i] = weight[i] * (scale * x[i]);
}
}  // namespace

void rmsnorm_kernel_cu(const tensor::Tensor& input, const tensor::Tensor& weight,
                       const tensor::Tensor& output, cudaStream_t stream) {
  const int dim = static_cast<int>(weight.size());
  const auto rows = static_cast<unsigned>(input.size() / dim);
  rmsnorm<<<rows, kThreads, 0, stream>>>(input.ptr<float>(), weight.ptr<float>(), writable(output),
                                         dim);
}
}  // namespace kernel
