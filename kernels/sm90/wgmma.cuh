// Warpgroup matrix instructions: descriptors of operands in shared memory, and order.
#pragma once

#include "sm90/wgmma_ops.cuh"

namespace kfa {

constexpr uint64_t SWIZZLE_128 = 1ull << 62;

/// Rows of 64 elements, 128 bytes apart and swizzled, groups of 8 rows 1024 bytes apart: how queries
/// and keys lie.
__device__ __forceinline__ uint64_t rows_descriptor(uint32_t address) {
  return SWIZZLE_128 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 16 | (address & 0x3ffff) >> 4;
}

/// The same memory read as columns, panels of 64 of them `panel_bytes` apart: how values lie.
__device__ __forceinline__ uint64_t columns_descriptor(uint32_t address, int panel_bytes) {
  return SWIZZLE_128 | uint64_t(1024 >> 4) << 32 | uint64_t(panel_bytes >> 4) << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/// Waits until at most `LEFT` committed groups are under way.
template <int LEFT>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
}

/// Four 8x8 matrices from fragments to the rows of shared memory that the lanes name.
__device__ __forceinline__ void store_matrices(uint32_t to, const uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(from[0]),
               "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

/// Keeps ordinary uses of registers on their side of a fence or a wait: the compiler does not know
/// that the matrix unit reads and writes them between the two.
template <int COUNT>
__device__ __forceinline__ void pin(float (&registers)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(registers[i])::"memory");
}

template <int COUNT>
__device__ __forceinline__ void pin(uint32_t (&registers)[COUNT][4]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) asm volatile("" : "+r"(registers[i][j])::"memory");
  }
}

}  // namespace kfa
