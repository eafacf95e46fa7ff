// README's steps delete this file.
#include "mha_kernel.h"

namespace kernel {
void mha_kernel(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, const tensor::Tensor&,
                const tensor::Tensor&, const tensor::Tensor&, const tensor::Tensor&,
                const tensor::Tensor&, base::DeviceType, CudaConfig*) {
  LOG(FATAL) << "the engine's own mha_kernel ran";
}
}  // namespace kernel
