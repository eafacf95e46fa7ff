#include "flash_decode_mma.cuh"

#define KFA_DECODE_HALF(...) KFA_FLASH_DECODE(f16_f16, MmaCore, __half, __VA_ARGS__)
#include "flash_decode.list"
