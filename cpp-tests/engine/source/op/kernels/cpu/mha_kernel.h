#ifndef KUIPER_OP_KERNELS_CPU_MHA_KERNEL_H_
#define KUIPER_OP_KERNELS_CPU_MHA_KERNEL_H_
#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace kernel {
// Defined by mha_kernel.cpp, or by the KuiperFlashAttention adapter where that is linked.
void mha_kernel(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len, int32_t kv_dim,
                int32_t kv_mul, int32_t head_size, const tensor::Tensor& mha_out,
                const tensor::Tensor& query, const tensor::Tensor& score,
                const tensor::Tensor& key_cache, const tensor::Tensor& value_cache,
                base::DeviceType device_type, CudaConfig* config);
}  // namespace kernel
#endif  // KUIPER_OP_KERNELS_CPU_MHA_KERNEL_H_
