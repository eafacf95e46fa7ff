#include "sm80/flash_prefill_plain.cuh"

#define ENTRY(TYPES, QUERY, KEY, NAME, ...)                                           \
  extern "C" __global__ void __launch_bounds__(kfa::PlainShape<__VA_ARGS__>::THREADS) \
  kfa_flash_prefill_plain_##TYPES##_##NAME(const __grid_constant__ KfaAttentionParams p) { \
    kfa::flash_prefill_plain<QUERY, KEY, kfa::PlainShape<__VA_ARGS__>>(p);            \
  }
#define KFA_PREFILL_PLAIN(...) ENTRY(f32, float, float, __VA_ARGS__)
#define KFA_PREFILL_PLAIN_MIXED(...)          \
  ENTRY(f32_f16, float, __half, __VA_ARGS__)  \
  ENTRY(f32_bf16, float, __nv_bfloat16, __VA_ARGS__)
#define KFA_PREFILL_PLAIN_HALF(...)        \
  ENTRY(f16, __half, __half, __VA_ARGS__)  \
  ENTRY(bf16, __nv_bfloat16, __nv_bfloat16, __VA_ARGS__)
#include "sm80/flash_prefill.list"
