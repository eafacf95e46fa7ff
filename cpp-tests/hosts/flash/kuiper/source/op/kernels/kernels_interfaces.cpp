#include "kernels_interface.h"

#include "cpu/flash_attention_kernel.h"
#include "cpu/mha_kernel.h"
#include "cuda/mha_kernel.cuh"

namespace kernel {
MHAKernel get_mha_kernel(base::DeviceType device_type) {
  return device_type == base::DeviceType::kDeviceCPU ? mha_kernel : mha_kernel_cu;
}

FlashAttentionKernel get_flash_attention_kernel(base::DeviceType) { return flash_attention_kernel; }
}  // namespace kernel
