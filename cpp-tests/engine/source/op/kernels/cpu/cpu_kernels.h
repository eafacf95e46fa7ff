#ifndef KUIPER_OP_KERNELS_CPU_KERNELS_H_
#define KUIPER_OP_KERNELS_CPU_KERNELS_H_
#include "base/cuda_config.h"
#include "tensor/tensor.h"

// The CPU kernels behind the getters of kernels_interfaces.h, which documents the types; the
// layers have checked the tensors. Attention is apart, because a library may bring its own.
namespace kernel {
void add_kernel_cpu(const tensor::Tensor& input1, const tensor::Tensor& input2,
                    const tensor::Tensor& output, cudaStream_t stream);

void argmax_kernel_cpu(const tensor::Tensor& input, const tensor::Tensor& output,
                       cudaStream_t stream);

void emb_kernel_cpu(const tensor::Tensor& tokens, const tensor::Tensor& weight,
                    const tensor::Tensor& output, cudaStream_t stream);

void matmul_kernel_cpu(const tensor::Tensor& input, const tensor::Tensor& weight,
                       const tensor::Tensor& output, cudaStream_t stream);

void rmsnorm_kernel_cpu(const tensor::Tensor& input, const tensor::Tensor& weight,
                        const tensor::Tensor& output, cudaStream_t stream);

void rope_kernel_cpu(int32_t dim, int32_t kv_dim, int32_t head_size, const tensor::Tensor& query,
                     const tensor::Tensor& key, const tensor::Tensor& pos,
                     const tensor::Tensor& sin_cache, const tensor::Tensor& cos_cache,
                     cudaStream_t stream);

void rope_cache_kernel_cpu(int32_t head_size, int32_t seq_len, const tensor::Tensor& sin_cache,
                           const tensor::Tensor& cos_cache);

void swiglu_kernel_cpu(const tensor::Tensor& input1, const tensor::Tensor& input2,
                       const tensor::Tensor& output, cudaStream_t stream);
}  // namespace kernel
#endif  // KUIPER_OP_KERNELS_CPU_KERNELS_H_
