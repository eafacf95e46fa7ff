// Moving tiles of 16-bit elements: global memory -> swizzled shared memory -> matrix fragments.
#pragma once

#include <cstdint>

namespace kfa {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Starts a copy of `bytes` (0..16) from a 16-byte-aligned address; the rest of the 16 becomes zero.
__device__ __forceinline__ void copy_async_16(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes));
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;\n" ::); }

/// Waits until at most `LEFT` of this thread's committed groups are still under way.
template <int LEFT>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT));
}

/// Four 8x8 matrices; lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from));
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from));
}

/// A tile of `ROWS` x `COLUMNS` 16-bit elements in shared memory, cut into panels of 64 (or 32)
/// columns. Inside a panel the 16-byte chunks of a row are permuted by the row's number, so that
/// both a row's chunks (copies) and a column's chunks of 8 rows (ldmatrix) lie in distinct banks.
template <int ROWS_, int COLUMNS_>
struct SharedTile {
  static constexpr int ROWS = ROWS_;
  static constexpr int COLUMNS = COLUMNS_;
  static constexpr int WIDTH = COLUMNS % 64 == 0 ? 64 : 32;
  static constexpr int PANELS = COLUMNS / WIDTH;
  static constexpr int CHUNKS = WIDTH / 8;
  static constexpr int ROW_BYTES = WIDTH * 2;
  static constexpr int PANEL_BYTES = ROWS * ROW_BYTES;
  static constexpr int BYTES = PANELS * PANEL_BYTES;
  static_assert(COLUMNS % 32 == 0, "a panel is 32 or 64 columns wide");

  /// Where a chunk lies. Repeats every 8 rows, so rows a multiple of 8 apart differ by a constant.
  __device__ static __forceinline__ uint32_t offset(int row, int panel, int chunk) {
    const int permuted = chunk ^ (CHUNKS == 8 ? row & 7 : row >> 1 & 3);
    return panel * PANEL_BYTES + row * ROW_BYTES + permuted * 16;
  }

  /// The offset of chunk `2 * step + chunk(lane)` of a lane's row, from that of chunk(lane).
  __device__ static __forceinline__ uint32_t step(uint32_t lane_offset, int step) {
    constexpr int STEPS = CHUNKS / 2;
    return (lane_offset ^ (step % STEPS * 32)) + step / STEPS * PANEL_BYTES;
  }
};

/// Copies `rows` rows (of `head_dim` elements, from the address that `source(row)` gives) into a
/// tile by all threads of the block; rows and columns past the end become zero, whatever lies there.
/// Complete after the copies are waited for and the block synchronised.
template <class Tile, int THREADS, class T, class Source>
__device__ __forceinline__ void copy_tile(
    uint32_t tile, int rows, int head_dim, bool aligned, const Source& source) {
  constexpr int STRIDE = THREADS / Tile::CHUNKS;
  static_assert(Tile::ROWS % STRIDE == 0, "every pass of the block copies whole rows");
  const int chunk = threadIdx.x % Tile::CHUNKS;
  const int first_row = threadIdx.x / Tile::CHUNKS;
  const uint32_t to = tile + Tile::offset(first_row, 0, chunk);
  if (aligned) {
#pragma unroll
    for (int i = 0; i < Tile::ROWS / STRIDE; i++) {
      const int row = first_row + i * STRIDE;
      const T* from = source(row) + chunk * 8;
      const int columns = row < rows ? head_dim - chunk * 8 : 0;
#pragma unroll
      for (int panel = 0; panel < Tile::PANELS; panel++) {
        // STRIDE is a multiple of 8: the permutation is that of the first row.
        const uint32_t at = to + panel * Tile::PANEL_BYTES + i * STRIDE * Tile::ROW_BYTES;
        const int bytes = 2 * min(max(columns - panel * Tile::WIDTH, 0), 8);
        copy_async_16(at, from + panel * Tile::WIDTH, bytes);
      }
    }
  } else {
    // Element by element: any address will do.
#pragma unroll 1
    for (int i = 0; i < Tile::ROWS / STRIDE * Tile::PANELS; i++) {
      const int row = first_row + i / Tile::PANELS * STRIDE;
      const int panel = i % Tile::PANELS;
      const int column = panel * Tile::WIDTH + chunk * 8;
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const unsigned short* from =
            reinterpret_cast<const unsigned short*>(source(row)) + column + 2 * j;
        const int left = row < rows ? head_dim - column - 2 * j : 0;
        const uint32_t low = left > 0 ? from[0] : 0;
        const uint32_t high = left > 1 ? from[1] : 0;
        words[j] = low | high << 16;
      }
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(
                       to + panel * Tile::PANEL_BYTES + i / Tile::PANELS * STRIDE * Tile::ROW_BYTES),
                   "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    }
  }
}

}  // namespace kfa
