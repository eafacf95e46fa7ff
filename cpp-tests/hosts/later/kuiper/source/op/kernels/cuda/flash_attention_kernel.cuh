// The later branch's flash attention kernels.
#ifndef HOSTS_FLASH_ATTENTION_KERNEL_CUH_
#define HOSTS_FLASH_ATTENTION_KERNEL_CUH_
#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace kernel {
void flash_attention_prefill_cu(int32_t start_pos, int32_t seq_len, int32_t head_num,
                                int32_t kv_head_num, int32_t head_size, int32_t kv_mul,
                                int32_t layer_index, int32_t max_seq_len, int32_t kv_dim,
                                const tensor::Tensor& query, const tensor::Tensor& output,
                                const tensor::Tensor& key_cache, const tensor::Tensor& value_cache,
                                CudaConfig* config);
void flash_attention_prefill_fp16_cu(int32_t start_pos, int32_t seq_len, int32_t head_num,
                                     int32_t kv_head_num, int32_t head_size, int32_t kv_mul,
                                     int32_t layer_index, int32_t max_seq_len, int32_t kv_dim,
                                     const tensor::Tensor& query, const tensor::Tensor& output,
                                     const tensor::Tensor& key_cache,
                                     const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention_decode_cu(int32_t pos, int32_t head_num, int32_t kv_head_num,
                               int32_t head_size, int32_t kv_mul, int32_t layer_index,
                               int32_t max_seq_len, int32_t kv_dim, const tensor::Tensor& query,
                               const tensor::Tensor& output, const tensor::Tensor& key_cache,
                               const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention_decode_fp16_cu(int32_t pos, int32_t head_num, int32_t kv_head_num,
                                    int32_t head_size, int32_t kv_mul, int32_t layer_index,
                                    int32_t max_seq_len, int32_t kv_dim,
                                    const tensor::Tensor& query, const tensor::Tensor& output,
                                    const tensor::Tensor& key_cache,
                                    const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention_decode_fp16_gpu_pos_cu(const int32_t* pos_ptr, int32_t head_num,
                                            int32_t kv_head_num, int32_t head_size, int32_t kv_mul,
                                            int32_t layer_index, int32_t max_seq_len,
                                            int32_t kv_dim, const tensor::Tensor& query,
                                            const tensor::Tensor& output,
                                            const tensor::Tensor& key_cache,
                                            const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention2_prefill_cu(int32_t start_pos, int32_t seq_len, int32_t head_num,
                                 int32_t kv_head_num, int32_t head_size, int32_t kv_mul,
                                 int32_t layer_index, int32_t max_seq_len, int32_t kv_dim,
                                 const tensor::Tensor& query, const tensor::Tensor& output,
                                 const tensor::Tensor& key_cache,
                                 const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention2_prefill_fp16_cu(int32_t start_pos, int32_t seq_len, int32_t head_num,
                                      int32_t kv_head_num, int32_t head_size, int32_t kv_mul,
                                      int32_t layer_index, int32_t max_seq_len, int32_t kv_dim,
                                      const tensor::Tensor& query, const tensor::Tensor& output,
                                      const tensor::Tensor& key_cache,
                                      const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention2_decode_cu(int32_t pos, int32_t head_num, int32_t kv_head_num,
                                int32_t head_size, int32_t kv_mul, int32_t layer_index,
                                int32_t max_seq_len, int32_t kv_dim, const tensor::Tensor& query,
                                const tensor::Tensor& output, const tensor::Tensor& key_cache,
                                const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention2_decode_fp16_cu(int32_t pos, int32_t head_num, int32_t kv_head_num,
                                     int32_t head_size, int32_t kv_mul, int32_t layer_index,
                                     int32_t max_seq_len, int32_t kv_dim,
                                     const tensor::Tensor& query, const tensor::Tensor& output,
                                     const tensor::Tensor& key_cache,
                                     const tensor::Tensor& value_cache, CudaConfig* config);
void flash_attention2_decode_fp16_gpu_pos_cu(const int32_t* pos_ptr, int32_t head_num,
                                             int32_t kv_head_num, int32_t head_size,
                                             int32_t kv_mul, int32_t layer_index,
                                             int32_t max_seq_len, int32_t kv_dim,
                                             const tensor::Tensor& query,
                                             const tensor::Tensor& output,
                                             const tensor::Tensor& key_cache,
                                             const tensor::Tensor& value_cache,
                                             CudaConfig* config);
}  // namespace kernel
#endif  // HOSTS_FLASH_ATTENTION_KERNEL_CUH_
