#ifndef KUIPER_OP_KERNELS_CUDA_LAUNCH_CUH_
#define KUIPER_OP_KERNELS_CUDA_LAUNCH_CUH_
#include "tensor/tensor.h"

// What the kernels share: one thread per element, and sums over a warp.
namespace kernel {
constexpr int kThreads = 256;
constexpr int kWarp = 32;

inline unsigned blocks_for(size_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

// Outputs are passed as const, too.
inline float* writable(const tensor::Tensor& tensor) {
  return const_cast<float*>(tensor.ptr<float>());
}

__device__ inline size_t global_index() { return size_t{blockIdx.x} * blockDim.x + threadIdx.x; }

// Every lane has the sum.
__device__ inline float warp_sum(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, offset);
  }
  return value;
}
}  // namespace kernel
#endif  // KUIPER_OP_KERNELS_CUDA_LAUNCH_CUH_
