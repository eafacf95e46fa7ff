#include "flash_decode_fma.cuh"

#define KFA_DECODE_F32(...) KFA_FLASH_DECODE(f32_f32, FmaCore, float, __VA_ARGS__)
#include "flash_decode.list"
