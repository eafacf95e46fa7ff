// Barriers in shared memory, named barriers, and positions in a ring of stages.
#pragma once

#include <cstdint>

namespace kfa {

/// An mbarrier that takes `arrivals` per phase. Initialised by one thread, before fence_barriers().
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

/// Arrives, and holds the phase open until so many bytes have been copied in.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier), "r"(parity)
      : "memory");
}

/// Whether a phase is over. Never suspends the thread, as a try_wait may.
__device__ __forceinline__ bool barrier_test(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n}\n"
      : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  return done;
}

/// Named barriers of the block: `threads` of them take part, arriving only or waiting too.
__device__ __forceinline__ void named_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

/// A place in a ring of stages, and the parity of the present pass over it. One register where the number
/// of stages allows.
template <int STAGES, bool POWER_OF_2 = (STAGES & STAGES - 1) == 0>
struct Ring {
  int at = 0;

  __device__ __forceinline__ int stage() const { return at % unsigned(STAGES); }
  __device__ __forceinline__ uint32_t parity() const { return at / unsigned(STAGES) & 1; }
  __device__ __forceinline__ void advance() { at++; }
  __device__ __forceinline__ Ring next() const { return {at + 1}; }
  /// Shuffled, so that the compiler sees that all lanes agree and keeps descriptors in uniform
  /// registers; else every wgmma costs three moves.
  __device__ __forceinline__ void make_uniform() { at = __shfl_sync(~0u, at, 0); }
};

template <int STAGES>
struct Ring<STAGES, false> {
  int at = 0;
  uint32_t pass = 0;

  __device__ __forceinline__ int stage() const { return at; }
  __device__ __forceinline__ uint32_t parity() const { return pass; }
  __device__ __forceinline__ void advance() {
    if (++at == STAGES) {
      at = 0;
      pass ^= 1;
    }
  }
  __device__ __forceinline__ Ring next() const {
    Ring ring = *this;
    ring.advance();
    return ring;
  }
  __device__ __forceinline__ void make_uniform() {
    at = __shfl_sync(~0u, at, 0);
    pass = __shfl_sync(~0u, pass, 0);
  }
};

template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(REGISTERS));
}

template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(REGISTERS));
}

}  // namespace kfa
