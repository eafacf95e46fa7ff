// Thread-block clusters and programmatic dependent launch: instructions of compute capability 9.0
// that mean "a cluster of one" and "nothing to wait for" before it, so that one kernel serves both.
#pragma once

#include <cstdint>

namespace kfa {

__device__ __forceinline__ uint32_t cluster_size() {
  uint32_t size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;\n" : "=r"(size));
#endif
  return size;
}

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
#endif
  return rank;
}

/// Says that this thread's earlier writes, to its peers' shared memory too, are done.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
#endif
}

/// Waits until every thread of the cluster has arrived, and sees what it wrote before.
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#endif
}

/// The address, in a peer's shared memory, of what lies at `address` in one's own.
__device__ __forceinline__ uint32_t peer_address(uint32_t address, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %0, %1;\n" : "+r"(address) : "r"(rank));
#endif
  return address;
}

__device__ __forceinline__ void store_to_peer(uint32_t address, const float4& x) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"r"(address), "f"(x.x),
               "f"(x.y), "f"(x.z), "f"(x.w)
               : "memory");
#endif
}

__device__ __forceinline__ void store_to_peer(uint32_t address, const float2& x) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};\n" ::"r"(address), "f"(x.x), "f"(x.y)
               : "memory");
#endif
}

/// Waits until the kernels before this one in the stream are done and their writes visible.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/// Lets a dependent kernel's blocks start where there is room; it still waits for our end.
__device__ __forceinline__ void release_successor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

}  // namespace kfa
