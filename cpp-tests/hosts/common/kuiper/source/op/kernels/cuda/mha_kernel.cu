// README's steps delete this file.
#include "mha_kernel.cuh"

namespace kernel {
void mha_kernel_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, const tensor::Tensor&,
                   const tensor::Tensor&, const tensor::Tensor&, const tensor::Tensor&,
                   const tensor::Tensor&, base::DeviceType, CudaConfig*) {
  LOG(FATAL) << "the engine's own mha_kernel_cu ran";
}
}  // namespace kernel
