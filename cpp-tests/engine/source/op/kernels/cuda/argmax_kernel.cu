#include "op/kernels/cuda/cuda_kernels.h"
#include "op/kernels/cuda/launch.cuh"

namespace kernel {
namespace {
struct Best {
  float value;
  int index;
};

// The larger value, or of equal ones the first.
__device__ Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

// One block for all.
__global__ void argmax(const float* x, int size, int* output) {
  __shared__ Best bests[kThreads];
  Best best = {x[0], 0};
  for (int i = threadIdx.x; i < size; i += kThreads) best = better(best, {x[i], i});
  bests[threadIdx.x] = best;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      bests[threadIdx.x] = better(bests[threadIdx.x], bests[threadIdx.x + half]);
    }
  }
  if (threadIdx.x == 0) *output = bests[0].index;
}
}  // namespace

void argmax_kernel_cu(const tensor::Tensor& input, const tensor::Tensor& output,
                      cudaStream_t stream) {
  argmax<<<1, kThreads, 0, stream>>>(input.ptr<float>(), static_cast<int>(input.size()),
                                     const_cast<int32_t*>(output.ptr<int32_t>()));
}
}  // namespace kernel
