#include "sm90/flash_prefill.cuh"

#define KFA_PREFILL_WARPGROUP(NAME, ...)                                                                       \
  extern "C" __global__ void __launch_bounds__(kfa::WarpgroupTile<__VA_ARGS__>::THREADS, 1)                     \
  kfa_flash_prefill_sm90_bf16_##NAME(                                                                          \
      const __grid_constant__ KfaAttentionParams p, const __grid_constant__ KfaPrefillSchedule schedule,        \
      const __grid_constant__ CUtensorMap query, const __grid_constant__ CUtensorMap key,                       \
      const __grid_constant__ CUtensorMap value, const __grid_constant__ CUtensorMap output) {                  \
    kfa::flash_prefill<__nv_bfloat16, kfa::WarpgroupTile<__VA_ARGS__>>(p, schedule, query, key, value, output);     \
  }
#include "sm90/flash_prefill.list"
