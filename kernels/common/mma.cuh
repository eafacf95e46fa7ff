// The matrix instruction of compute capability 8.0: 16x8 += 16x16 . 16x8, 16-bit in, float32 out.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace kfa {

/// c += a . b. Lane l holds of c: rows l/4 and l/4 + 8, columns 2 * (l % 4) and the next.
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<__half>(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two numbers rounded to 16 bits, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

/// Zero, or NaN if `sum` or one of the two packed numbers is not finite.
template <class T>
__device__ __forceinline__ uint32_t poison(uint32_t sum, uint32_t pair);

template <>
__device__ __forceinline__ uint32_t poison<__half>(uint32_t sum, uint32_t pair) {
  const __half2 next = __hfma2(
      reinterpret_cast<const __half2&>(pair), __float2half2_rn(0.f), reinterpret_cast<const __half2&>(sum));
  return reinterpret_cast<const uint32_t&>(next);
}

template <>
__device__ __forceinline__ uint32_t poison<__nv_bfloat16>(uint32_t sum, uint32_t pair) {
  const __nv_bfloat162 next = __hfma2(reinterpret_cast<const __nv_bfloat162&>(pair),
                                      __float2bfloat162_rn(0.f),
                                      reinterpret_cast<const __nv_bfloat162&>(sum));
  return reinterpret_cast<const uint32_t&>(next);
}

}  // namespace kfa
