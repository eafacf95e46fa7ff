// Flash prefill in plain FMA: the shapes of src/cuda/arch/sm80.rs.
#include "sm80/flash_prefill_plain.cuh"

#define ENTRY(NAME, QUERY, KEY, ...)                                                   \
  extern "C" __global__ void __launch_bounds__(kfa::PlainShape<__VA_ARGS__>::THREADS)  \
  kfa_flash_prefill_plain_##NAME(const __grid_constant__ KfaAttentionParams p) {       \
    kfa::flash_prefill_plain<QUERY, KEY, kfa::PlainShape<__VA_ARGS__>>(p);             \
  }

// query, key and value, head_dim class, rows, keys
ENTRY(f32_d64, float, float, 64, 64, 32)
ENTRY(f32_d128, float, float, 128, 64, 32)
ENTRY(f32_d256, float, float, 256, 32, 32)
ENTRY(f32_d512, float, float, 512, 16, 16)
ENTRY(f32_f16_d128, float, __half, 128, 64, 32)
ENTRY(f32_f16_d512, float, __half, 512, 16, 16)
ENTRY(f32_bf16_d128, float, __nv_bfloat16, 128, 64, 32)
ENTRY(f32_bf16_d512, float, __nv_bfloat16, 512, 16, 16)
ENTRY(f16_d512, __half, __half, 512, 16, 16)
ENTRY(bf16_d512, __nv_bfloat16, __nv_bfloat16, 512, 16, 16)
