#include "flash_decode_mma.cuh"

KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 64, 8)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 64, 32)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 96, 8)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 96, 32)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 128, 8)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 128, 32)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 256, 8)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 256, 16)
KFA_FLASH_DECODE_MMA(bf16_bf16, __nv_bfloat16, 512, 8)
