// Flash prefill, fp16: the shapes of src/cuda/arch/sm80.rs.
#include "sm80/flash_prefill.cuh"

#define ENTRY(CLASS, ...)                                                                     \
  extern "C" __global__ void __launch_bounds__(kfa::PrefillShape<CLASS, __VA_ARGS__>::THREADS, \
                                               kfa::PrefillShape<CLASS, __VA_ARGS__>::BLOCKS)  \
  kfa_flash_prefill_f16_d##CLASS(const __grid_constant__ KfaAttentionParams p) {             \
    kfa::flash_prefill<__half, kfa::PrefillShape<CLASS, __VA_ARGS__>>(p);                        \
  }

// head_dim class, keys, warps, atoms, stages, blocks per multiprocessor
ENTRY(64, 128, 4, 2, 1, 2)
ENTRY(96, 64, 4, 2, 2, 2)
ENTRY(128, 32, 4, 2, 2, 2)
ENTRY(256, 64, 4, 1, 1, 2)
