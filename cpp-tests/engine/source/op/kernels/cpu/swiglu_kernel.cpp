#include <cmath>

#include "op/kernels/cpu/cpu_kernels.h"

namespace kernel {
void swiglu_kernel_cpu(const tensor::Tensor& input1, const tensor::Tensor& input2,
                       const tensor::Tensor& output, cudaStream_t) {
  const float* gate = input1.ptr<float>();
  const float* up = input2.ptr<float>();
  float* out = const_cast<float*>(output.ptr<float>());
  for (size_t i = 0; i < output.size(); ++i) {
    out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  }
}
}  // namespace kernel
