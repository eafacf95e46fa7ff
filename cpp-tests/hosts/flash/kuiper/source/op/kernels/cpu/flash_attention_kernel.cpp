// README's steps delete this file.
#include "flash_attention_kernel.h"

namespace kernel {
void flash_attention_kernel(const tensor::Tensor&, const tensor::Tensor&, const tensor::Tensor&,
                            const tensor::Tensor&, int32_t, int32_t, int32_t, int32_t, int32_t,
                            int32_t, float, bool, base::DeviceType, CudaConfig*) {
  LOG(FATAL) << "the engine's own flash_attention_kernel ran";
}
}  // namespace kernel
