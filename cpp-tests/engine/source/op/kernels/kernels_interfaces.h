#ifndef KUIPER_OP_KERNELS_INTERFACES_H_
#define KUIPER_OP_KERNELS_INTERFACES_H_
#include "base/cuda_config.h"
#include "tensor/tensor.h"

// One getter per operation: the kernel for a device, or nullptr where the engine has none. On CUDA
// kernels are enqueued on the stream; on the CPU there is none.
namespace kernel {
typedef void (*AddKernel)(const tensor::Tensor& input1, const tensor::Tensor& input2,
                          const tensor::Tensor& output, cudaStream_t stream);

// `output` is one int32 on the device of the input: the index of the first of the largest.
typedef void (*ArgmaxKernel)(const tensor::Tensor& input, const tensor::Tensor& output,
                             cudaStream_t stream);

typedef void (*EmbeddingKernel)(const tensor::Tensor& tokens, const tensor::Tensor& weight,
                                const tensor::Tensor& output, cudaStream_t stream);

typedef void (*MatmulKernel)(const tensor::Tensor& input, const tensor::Tensor& weight,
                             const tensor::Tensor& output, cudaStream_t stream);

typedef void (*RMSNormKernel)(const tensor::Tensor& input, const tensor::Tensor& weight,
                              const tensor::Tensor& output, cudaStream_t stream);

typedef void (*RoPEKernel)(int32_t dim, int32_t kv_dim, int32_t head_size,
                           const tensor::Tensor& query, const tensor::Tensor& key,
                           const tensor::Tensor& pos, const tensor::Tensor& sin_cache,
                           const tensor::Tensor& cos_cache, cudaStream_t stream);

// Tables are computed on the CPU and copied to where they are needed.
typedef void (*RoPECacheKernel)(int32_t head_size, int32_t seq_len, const tensor::Tensor& sin_cache,
                                const tensor::Tensor& cos_cache);

typedef void (*SwigluKernel)(const tensor::Tensor& input1, const tensor::Tensor& input2,
                             const tensor::Tensor& output, cudaStream_t stream);

typedef void (*MHAKernel)(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len,
                          int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                          const tensor::Tensor& mha_out, const tensor::Tensor& query,
                          const tensor::Tensor& score, const tensor::Tensor& key_cache,
                          const tensor::Tensor& value_cache, base::DeviceType device_type,
                          CudaConfig* config);

AddKernel get_add_kernel(base::DeviceType device_type);
ArgmaxKernel get_argmax_kernel(base::DeviceType device_type);
EmbeddingKernel get_emb_kernel(base::DeviceType device_type);
MatmulKernel get_matmul_kernel(base::DeviceType device_type);
RMSNormKernel get_rmsnorm_kernel(base::DeviceType device_type);
RoPEKernel get_rope_kernel(base::DeviceType device_type);
RoPECacheKernel get_rope_cache_kernel(base::DeviceType device_type);
SwigluKernel get_swiglu_kernel(base::DeviceType device_type);
MHAKernel get_mha_kernel(base::DeviceType device_type);

#ifdef KUIPER_USE_FLASH_ATTENTION
typedef void (*FlashAttentionKernel)(const tensor::Tensor& query, const tensor::Tensor& key,
                                     const tensor::Tensor& value, const tensor::Tensor& output,
                                     int32_t head_num, int32_t kv_head_num, int32_t head_size,
                                     int32_t seq_len, int32_t pos, int32_t layer_idx,
                                     float softmax_scale, bool is_causal,
                                     base::DeviceType device_type, CudaConfig* config);

FlashAttentionKernel get_flash_attention_kernel(base::DeviceType device_type);
#endif
}  // namespace kernel
#endif  // KUIPER_OP_KERNELS_INTERFACES_H_
