#ifndef HOSTS_CUDA_MHA_KERNEL_H_
#define HOSTS_CUDA_MHA_KERNEL_H_
#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace kernel {
void mha_kernel_cu(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len,
                   int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                   const tensor::Tensor& mha_out, const tensor::Tensor& query_tensor,
                   const tensor::Tensor& score_tensor, const tensor::Tensor& key_cache_tensor,
                   const tensor::Tensor& value_cache_tensor, base::DeviceType device_type,
                   CudaConfig* config);
void mha_kernel_cu_gpu_pos(const int32_t* pos_ptr, int32_t head_num, int32_t layer_index,
                           int32_t seq_len, int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                           const tensor::Tensor& mha_out, const tensor::Tensor& query_tensor,
                           const tensor::Tensor& score_tensor,
                           const tensor::Tensor& key_cache_tensor,
                           const tensor::Tensor& value_cache_tensor, base::DeviceType device_type,
                           CudaConfig* config);
void batched_mha_kernel_cu(int32_t start_pos, int32_t seq_len, int32_t head_num,
                           int32_t layer_index, int32_t max_seq_len, int32_t dim, int32_t kv_dim,
                           int32_t kv_mul, int32_t head_size, const tensor::Tensor& mha_out,
                           const tensor::Tensor& query_tensor, const tensor::Tensor& score_tensor,
                           const tensor::Tensor& key_cache_tensor,
                           const tensor::Tensor& value_cache_tensor, base::DeviceType device_type,
                           CudaConfig* config);
}  // namespace kernel
#endif  // HOSTS_CUDA_MHA_KERNEL_H_
