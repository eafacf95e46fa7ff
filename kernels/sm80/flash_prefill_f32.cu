// Flash prefill, fp32 in split halves: the shapes of src/cuda/arch/sm80.rs.
#include "sm80/flash_prefill_split.cuh"

#define ENTRY(NAME, ...)                                                              \
  extern "C" __global__ void __launch_bounds__(kfa::SplitShape<__VA_ARGS__>::THREADS, \
                                               kfa::SplitShape<__VA_ARGS__>::BLOCKS)  \
  kfa_flash_prefill_f32_##NAME(const __grid_constant__ KfaAttentionParams p) {        \
    kfa::flash_prefill_split<kfa::SplitShape<__VA_ARGS__>>(p);                        \
  }

// head_dim class, keys, warps, atoms, blocks per multiprocessor
ENTRY(d64, 64, 64, 4, 2, 2)
ENTRY(d128, 128, 64, 8, 1, 1)
// For devices with less than 128 KB of shared memory per block.
ENTRY(d128_small, 128, 32, 4, 2, 2)
ENTRY(d256, 256, 32, 8, 1, 1)
