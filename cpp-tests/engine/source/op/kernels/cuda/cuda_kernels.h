#ifndef KUIPER_OP_KERNELS_CUDA_KERNELS_H_
#define KUIPER_OP_KERNELS_CUDA_KERNELS_H_
#include <cstddef>

#include "base/cuda_config.h"
#include "tensor/tensor.h"

// The CUDA kernels behind the getters of kernels_interfaces.h, which documents the types; the
// layers have checked the tensors. Each has the arithmetic of its CPU sibling, and sums in an order
// that depends on the row's length alone: the same input gives the same bits, in any chunk.
namespace kernel {
#ifdef KUIPER_USE_CUDA
void add_kernel_cu(const tensor::Tensor& input1, const tensor::Tensor& input2,
                   const tensor::Tensor& output, cudaStream_t stream);

void argmax_kernel_cu(const tensor::Tensor& input, const tensor::Tensor& output,
                      cudaStream_t stream);

void emb_kernel_cu(const tensor::Tensor& tokens, const tensor::Tensor& weight,
                   const tensor::Tensor& output, cudaStream_t stream);

void matmul_kernel_cu(const tensor::Tensor& input, const tensor::Tensor& weight,
                      const tensor::Tensor& output, cudaStream_t stream);

void rmsnorm_kernel_cu(const tensor::Tensor& input, const tensor::Tensor& weight,
                       const tensor::Tensor& output, cudaStream_t stream);

void rope_kernel_cu(int32_t dim, int32_t kv_dim, int32_t head_size, const tensor::Tensor& query,
                    const tensor::Tensor& key, const tensor::Tensor& pos,
                    const tensor::Tensor& sin_cache, const tensor::Tensor& cos_cache,
                    cudaStream_t stream);

void swiglu_kernel_cu(const tensor::Tensor& input1, const tensor::Tensor& input2,
                      const tensor::Tensor& output, cudaStream_t stream);
#else
// A build without CUDA has none.
constexpr std::nullptr_t add_kernel_cu{}, argmax_kernel_cu{}, emb_kernel_cu{}, matmul_kernel_cu{},
    rmsnorm_kernel_cu{}, rope_kernel_cu{}, swiglu_kernel_cu{};
#endif
}  // namespace kernel
#endif  // KUIPER_OP_KERNELS_CUDA_KERNELS_H_
