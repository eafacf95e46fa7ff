#include "op/kernels/kernels_interfaces.h"

#include "op/kernels/cpu/cpu_kernels.h"
#include "op/kernels/cpu/mha_kernel.h"
#include "op/kernels/cuda/cuda_kernels.h"
#ifdef KUIPER_USE_FLASH_ATTENTION
#include "op/kernels/cuda/mha_kernel.h"
#include "op/kernels/flash_attention_kernel.h"
#endif

namespace kernel {
namespace {
template <typename Kernel>
Kernel choose(base::DeviceType device_type, Kernel cpu_kernel, Kernel cuda_kernel) {
  switch (device_type) {
    case base::DeviceType::kDeviceCPU:
      return cpu_kernel;
    case base::DeviceType::kDeviceCUDA:
      return cuda_kernel;
    default:
      return nullptr;
  }
}
}  // namespace

AddKernel get_add_kernel(base::DeviceType device_type) {
  return choose<AddKernel>(device_type, add_kernel_cpu, add_kernel_cu);
}

ArgmaxKernel get_argmax_kernel(base::DeviceType device_type) {
  return choose<ArgmaxKernel>(device_type, argmax_kernel_cpu, argmax_kernel_cu);
}

EmbeddingKernel get_emb_kernel(base::DeviceType device_type) {
  return choose<EmbeddingKernel>(device_type, emb_kernel_cpu, emb_kernel_cu);
}

MatmulKernel get_matmul_kernel(base::DeviceType device_type) {
  return choose<MatmulKernel>(device_type, matmul_kernel_cpu, matmul_kernel_cu);
}

RMSNormKernel get_rmsnorm_kernel(base::DeviceType device_type) {
  return choose<RMSNormKernel>(device_type, rmsnorm_kernel_cpu, rmsnorm_kernel_cu);
}

RoPEKernel get_rope_kernel(base::DeviceType device_type) {
  return choose<RoPEKernel>(device_type, rope_kernel_cpu, rope_kernel_cu);
}

RoPECacheKernel get_rope_cache_kernel(base::DeviceType device_type) {
  return choose<RoPECacheKernel>(device_type, rope_cache_kernel_cpu, nullptr);
}

SwigluKernel get_swiglu_kernel(base::DeviceType device_type) {
  return choose<SwigluKernel>(device_type, swiglu_kernel_cpu, swiglu_kernel_cu);
}

MHAKernel get_mha_kernel(base::DeviceType device_type) {
#ifdef KUIPER_USE_FLASH_ATTENTION
  return choose<MHAKernel>(device_type, mha_kernel, mha_kernel_cu);
#else
  return choose<MHAKernel>(device_type, mha_kernel, nullptr);
#endif
}

#ifdef KUIPER_USE_FLASH_ATTENTION
FlashAttentionKernel get_flash_attention_kernel(base::DeviceType device_type) {
  // One function serves both devices.
  return device_type == base::DeviceType::kDeviceUnknown ? nullptr : flash_attention_kernel;
}
#endif
}  // namespace kernel
