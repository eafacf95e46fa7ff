#include <cmath>

#include "op/kernels/cpu/cpu_kernels.h"

namespace kernel {
void rmsnorm_kernel_cpu(const tensor::Tensor& input, const tensor::Tensor& weight,
                        const tensor::Tensor& output, cudaStream_t) {
  constexpr float kEpsilon = 1e-5f;
  const size_t dim = weight.size();
  const float* w = weight.ptr<float>();
  for (size_t start = 0; start < input.size(); start += dim) {
    const float* x = input.ptr<float>() + start;
    float* out = const_cast<float*>(output.ptr<float>()) + start;
    float square_sum = 0.0f;
    for (size_t i = 0; i < dim; ++i) square_sum += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(square_sum / static_cast<float>(dim) + kEpsilon);
    for (size_t i = 0; i < dim; ++i) out[i] = w[i] * (scale * x[i]);
  }
}
}  // namespace kernel
