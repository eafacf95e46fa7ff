#include "flash_decode_fma.cuh"

#define KFA_FLASH_DECODE_MIXED(type, T)   \
  KFA_FLASH_DECODE_FMA(type, T, 64, 1)    \
  KFA_FLASH_DECODE_FMA(type, T, 64, 4)    \
  KFA_FLASH_DECODE_FMA(type, T, 64, 8)    \
  KFA_FLASH_DECODE_FMA(type, T, 128, 1)   \
  KFA_FLASH_DECODE_FMA(type, T, 128, 4)   \
  KFA_FLASH_DECODE_FMA(type, T, 128, 8)   \
  KFA_FLASH_DECODE_FMA(type, T, 256, 1)   \
  KFA_FLASH_DECODE_FMA(type, T, 256, 4)   \
  KFA_FLASH_DECODE_FMA(type, T, 512, 4)
KFA_FLASH_DECODE_MIXED(f32_f16, __half)
KFA_FLASH_DECODE_MIXED(f32_bf16, __nv_bfloat16)
