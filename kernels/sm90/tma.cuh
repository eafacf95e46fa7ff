// Boxes of tensors, to and from shared memory by the tensor memory accelerator.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace kfa {

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}

/// What the L2 cache shall do with what is loaded.
__device__ __forceinline__ uint64_t keep_in_l2() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ uint64_t read_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}

/// Loads the box at coordinates (column, a, b, c); `barrier` counts its bytes.
__device__ __forceinline__ void tma_load(
    uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int a, int b, int c, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;\n" ::"r"(to), "l"(&map), "r"(barrier), "r"(column), "r"(a),
      "r"(b), "r"(c), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void tma_load(
    uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int a, int b, int c, int d, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;\n" ::"r"(to), "l"(&map), "r"(barrier), "r"(column),
      "r"(a), "r"(b), "r"(c), "r"(d), "l"(policy)
      : "memory");
}

/// Stores a box; what lies past the tensor's ends is not written.
__device__ __forceinline__ void tma_store(
    const CUtensorMap& map, uint32_t from, int column, int a, int b, int c, int d) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];\n" ::"l"(&map),
      "r"(from), "r"(column), "r"(a), "r"(b), "r"(c), "r"(d)
      : "memory");
}

__device__ __forceinline__ void tma_commit() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }

/// Waits until the sources of all committed stores have been read.
__device__ __forceinline__ void tma_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}

/// Makes this thread's ordinary writes to shared memory visible to TMA and wgmma; before a barrier.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

}  // namespace kfa
