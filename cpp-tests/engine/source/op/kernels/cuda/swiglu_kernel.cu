#include "op/kernels/cuda/cuda_kernels.h"
#include "op/kernels/cuda/launch.cuh"

namespace kernel {
namespace {
__global__ void swiglu(const float* gate, const float* up, float* out, size_t size) {
  const size_t i = global_index();
  if (i < size) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}
}  // namespace

void swiglu_kernel_cu(const tensor::Tensor& input1, const tensor::Tensor& input2,
                      const tensor::Tensor& output, cudaStream_t stream) {
  swiglu<<<blocks_for(output.size()), kThreads, 0, stream>>>(
      input1.ptr<float>(), input2.ptr<float>(), writable(output), output.size());
}
}  // namespace kernel
