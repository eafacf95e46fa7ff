#include "flash_decode_fma.cuh"

#define KFA_DECODE_MIXED(...)                                \
  KFA_FLASH_DECODE(f32_f16, FmaCore, __half, __VA_ARGS__)    \
  KFA_FLASH_DECODE(f32_bf16, FmaCore, __nv_bfloat16, __VA_ARGS__)
#include "flash_decode.list"
