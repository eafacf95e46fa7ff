#include <algorithm>

#include "op/kernels/cpu/cpu_kernels.h"

namespace kernel {
void argmax_kernel_cpu(const tensor::Tensor& input, const tensor::Tensor& output, cudaStream_t) {
  const float* x = input.ptr<float>();
  *const_cast<int32_t*>(output.ptr<int32_t>()) =
      static_cast<int32_t>(std::max_element(x, x + input.size()) - x);
}
}  // namespace kernel
