// README's steps delete this file.
#include "flash_attention_kernel.cuh"

namespace kernel {
void flash_attention_prefill_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                int32_t, int32_t, const tensor::Tensor&, const tensor::Tensor&,
                                const tensor::Tensor&, const tensor::Tensor&, CudaConfig*) {
  LOG(FATAL) << "the engine's own kernel ran";
}
void flash_attention_prefill_fp16_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                     int32_t, int32_t, const tensor::Tensor&,
                                     const tensor::Tensor&, const tensor::Tensor&,
                                     const tensor::Tensor&, CudaConfig*) {
  LOG(FATAL) << "the engine's own kernel ran";
}
void flash_attention_decode_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                               int32_t, const tensor::Tensor&, const tensor::Tensor&,
                               const tensor::Tensor&, const tensor::Tensor&, CudaConfig*) {
  LOG(FATAL) << "the engine's own kernel ran";
}
void flash_attention_decode_fp16_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                    int32_t, const tensor::Tensor&, const tensor::Tensor&,
                                    const tensor::Tensor&, const tensor::Tensor&, CudaConfig*) {
  LOG(FATAL) << "the engine's own kernel ran";
}
void flash_attention_decode_fp16_gpu_pos_cu(const int32_t*, int32_t, int32_t, int32_t, int32_t,
                                            int32_t, int32_t, int32_t, const tensor::Tensor&,
                                            const tensor::Tensor&, const tensor::Tensor&,
                                            const tensor::Tensor&, CudaConfig*) {
  LOG(FATAL) << "the engine's own kernel ran";
}
}  // namespace kernel
