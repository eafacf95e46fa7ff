#include "op/kernels/kernels_interfaces.h"

#include "op/kernels/cpu/cpu_kernels.h"
#include "op/kernels/cpu/mha_kernel.h"
#ifdef KUIPER_USE_FLASH_ATTENTION
#include "op/kernels/cuda/mha_kernel.h"
#include "op/kernels/flash_attention_kernel.h"
#endif

namespace kernel {
namespace {
template <typename Kernel>
Kernel* on_cpu(base::DeviceType device_type, Kernel* cpu_kernel) {
  return device_type == base::DeviceType::kDeviceCPU ? cpu_kernel : nullptr;
}
}  // namespace

AddKernel get_add_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, add_kernel_cpu);
}

EmbeddingKernel get_emb_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, emb_kernel_cpu);
}

MatmulKernel get_matmul_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, matmul_kernel_cpu);
}

RMSNormKernel get_rmsnorm_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, rmsnorm_kernel_cpu);
}

RoPEKernel get_rope_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, rope_kernel_cpu);
}

RoPECacheKernel get_rope_cache_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, rope_cache_kernel_cpu);
}

SwigluKernel get_swiglu_kernel(base::DeviceType device_type) {
  return on_cpu(device_type, swiglu_kernel_cpu);
}

MHAKernel get_mha_kernel(base::DeviceType device_type) {
#ifdef KUIPER_USE_FLASH_ATTENTION
  if (device_type == base::DeviceType::kDeviceCUDA) return mha_kernel_cu;
#endif
  return on_cpu(device_type, mha_kernel);
}

#ifdef KUIPER_USE_FLASH_ATTENTION
FlashAttentionKernel get_flash_attention_kernel(base::DeviceType device_type) {
  // One function serves both devices.
  return device_type == base::DeviceType::kDeviceUnknown ? nullptr : flash_attention_kernel;
}
#endif
}  // namespace kernel
