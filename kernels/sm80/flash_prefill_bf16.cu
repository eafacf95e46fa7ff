#include "sm80/flash_prefill.cuh"

#define KFA_PREFILL_HALF(NAME, ...)                                                    \
  extern "C" __global__ void __launch_bounds__(kfa::PrefillShape<__VA_ARGS__>::THREADS, \
                                               kfa::PrefillShape<__VA_ARGS__>::BLOCKS)  \
  kfa_flash_prefill_bf16_##NAME(const __grid_constant__ KfaAttentionParams p) {          \
    kfa::flash_prefill<__nv_bfloat16, kfa::PrefillShape<__VA_ARGS__>>(p);                        \
  }
#include "sm80/flash_prefill.list"
