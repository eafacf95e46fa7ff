// Flash prefill, fp32 in split halves.
#include "sm80/flash_prefill_split.cuh"

#define KFA_PREFILL_F32(NAME, ...)                                                    \
  extern "C" __global__ void __launch_bounds__(kfa::SplitShape<__VA_ARGS__>::THREADS, \
                                               kfa::SplitShape<__VA_ARGS__>::BLOCKS)  \
  kfa_flash_prefill_f32_##NAME(const __grid_constant__ KfaAttentionParams p) {        \
    kfa::flash_prefill_split<kfa::SplitShape<__VA_ARGS__>>(p);                        \
  }
#define KFA_PREFILL_F32_SMALL(...) KFA_PREFILL_F32(__VA_ARGS__)
#include "sm80/flash_prefill.list"
