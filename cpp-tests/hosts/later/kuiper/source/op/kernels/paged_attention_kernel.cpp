// Stays: paged caches are served by the engine. Here each call is only counted.
#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace kernel {
int paged_calls = 0;

void paged_flash_attention_decode_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                     int32_t, int32_t, const tensor::Tensor&,
                                     const tensor::Tensor&, const void*, const void*,
                                     const int32_t*, CudaConfig*) {
  ++paged_calls;
}
void paged_flash_attention_decode_fp16_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                          int32_t, int32_t, int32_t, const tensor::Tensor&,
                                          const tensor::Tensor&, const void*, const void*,
                                          const int32_t*, CudaConfig*) {
  ++paged_calls;
}
void paged_flash_attention_decode_fp16_gpu_pos_cu(const int32_t*, int32_t, int32_t, int32_t,
                                                  int32_t, int32_t, int32_t, int32_t, int32_t,
                                                  const tensor::Tensor&, const tensor::Tensor&,
                                                  const void*, const void*, const int32_t*,
                                                  CudaConfig*) {
  ++paged_calls;
}
void paged_flash_attention_prefill_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                      int32_t, int32_t, int32_t, int32_t, const tensor::Tensor&,
                                      const tensor::Tensor&, const void*, const void*,
                                      const int32_t*, CudaConfig*) {
  ++paged_calls;
}
void paged_flash_attention_prefill_fp16_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                           int32_t, int32_t, int32_t, int32_t,
                                           const tensor::Tensor&, const tensor::Tensor&,
                                           const void*, const void*, const int32_t*, CudaConfig*) {
  ++paged_calls;
}
}  // namespace kernel
