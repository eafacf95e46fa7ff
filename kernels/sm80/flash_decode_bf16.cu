#include "flash_decode_mma.cuh"

#define KFA_DECODE_HALF(...) KFA_FLASH_DECODE(bf16_bf16, MmaCore, __nv_bfloat16, __VA_ARGS__)
#include "flash_decode.list"
