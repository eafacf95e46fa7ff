// Flash prefill for fp16 and bf16 on tensor cores: docs/cuda-prefill.md tells how and why.
#pragma once

#include <type_traits>

#include "common/copy.cuh"
#include "common/listed.cuh"
#include "common/mma.cuh"
#include "params.h"
#include "sm80/prefill_rows.cuh"

namespace kfa {

/// How a block is cut: a line of flash_prefill.list.
template <int HEAD_DIM_, int ROWS_, int THREADS_, int SHARED, int KEYS_, int STAGES_, int BLOCKS_>
struct PrefillShape {
  static constexpr int HEAD_DIM = HEAD_DIM_;
  static constexpr int ROWS = ROWS_;
  static constexpr int THREADS = THREADS_;
  static constexpr int KEYS = KEYS_;
  /// Of keys and values in shared memory.
  static constexpr int STAGES = STAGES_;
  /// Blocks that should share a multiprocessor.
  static constexpr int BLOCKS = BLOCKS_;
  static constexpr int WARP_ROWS = ROWS / (THREADS / 32);
  /// Matrix rows of 16 per warp.
  static constexpr int ATOMS = WARP_ROWS / 16;
  using QueryTile = SharedTile<ROWS, HEAD_DIM>;
  using KeyTile = SharedTile<KEYS, HEAD_DIM>;
  static_assert(ATOMS * 16 * (THREADS / 32) == ROWS, "warps share the rows evenly");
  static_assert(Listed<QueryTile::BYTES + 2 * STAGES * KeyTile::BYTES, SHARED>::OK);
};

/// A row's maximum is followed only when it grows by more than this (in powers of two): weights then
/// reach 2^8 instead of 1, which costs no precision and saves rescaling the sums.
constexpr float LAZY_GROWTH = 8.f;

template <class T, class Shape>
__device__ __forceinline__ void flash_prefill(const KfaAttentionParams& p) {
  constexpr int D = Shape::HEAD_DIM, KEYS = Shape::KEYS, ATOMS = Shape::ATOMS;
  constexpr int THREADS = Shape::THREADS, STAGES = Shape::STAGES;
  using QueryTile = typename Shape::QueryTile;
  using KeyTile = typename Shape::KeyTile;

  RowTile tile;
  if (!tile.init<Shape::ROWS>(p)) return;

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t queries = shared_address(shared);
  const uint32_t keys = queries + QueryTile::BYTES;
  const uint32_t values = keys + STAGES * KeyTile::BYTES;

  const T* query = static_cast<const T*>(p.query.data);
  const T* key = static_cast<const T*>(p.key.data) + tile.kv_offset(p.key);
  const T* value = static_cast<const T*>(p.value.data) + tile.kv_offset(p.value);
  const bool key_aligned = rows_aligned<T>(p.key);
  const bool value_aligned = rows_aligned<T>(p.value);

  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x / 32 * Shape::WARP_ROWS;
  // This lane's rows in matrix fragments: row_of(atom, half).
  const auto row_of = [&](int atom, int half) { return warp_row + atom * 16 + half * 8 + lane / 4; };

  // Blocks of keys that some row sees, and how many of them every row sees whole.
  const int seen = tile.visible(tile.rows - 1);
  const int blocks = (seen + KEYS - 1) / KEYS;
  const int whole_blocks = tile.visible(0) / KEYS;

  // `rows` is KEYS wherever the block is known to be whole, which then costs no test.
  const auto copy_block = [&](const T* from, const KfaView& view, bool is_aligned, uint32_t to, int block, int rows) {
    from += int64_t(block) * KEYS * view.row_stride;
    const int row_stride = static_cast<int>(view.row_stride);
    copy_tile<KeyTile, THREADS, T>(to, rows, p.head_dim, is_aligned,
                                   [&](int row) { return from + int64_t(row) * row_stride; });
  };
  const auto copy_keys = [&](int block, int stage, int rows) {
    copy_block(key, p.key, key_aligned, keys + stage * KeyTile::BYTES, block, rows);
  };
  const auto copy_values = [&](int block, int stage, int rows) {
    copy_block(value, p.value, value_aligned, values + stage * KeyTile::BYTES, block, rows);
  };

  copy_tile<QueryTile, THREADS, T>(queries, tile.rows, p.head_dim, rows_aligned<T>(p.query),
                                   [&](int row) { return query + tile.offset(p.query, row); });
  if (blocks > 0) {
    const int rows = tile.keys - (blocks - 1) * KEYS;
    copy_keys(blocks - 1, 0, rows);
    if constexpr (STAGES == 2) copy_values(blocks - 1, 0, rows);
  }
  copy_commit();

  float output[ATOMS][D / 8][4];
  float max[ATOMS][2], sum[ATOMS][2];
#pragma unroll
  for (int a = 0; a < ATOMS; a++) {
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) output[a][n][i] = 0.f;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      max[a][h] = -INFINITY;
      sum[a][h] = 0.f;
    }
  }

  // Where this lane reads matrix rows: queries and keys as they lie, values transposed.
  const uint32_t query_lane = queries + QueryTile::offset(warp_row + lane % 16, 0, lane / 16);
  const uint32_t key_lane = KeyTile::offset(lane % 8 + lane / 16 * 8, 0, lane / 8 % 2);
  const uint32_t value_lane = KeyTile::offset(lane % 16, 0, lane / 16);

  // Scores are compared unscaled; a negative scale is a positive one with negated queries.
  const float scale = fabsf(p.scale) * LOG2_E;
  if (p.scale < 0.f) {
    copy_wait<0>();
    __syncthreads();
    for (int i = threadIdx.x; i < QueryTile::BYTES / 4; i += THREADS) {
      reinterpret_cast<uint32_t*>(shared)[i] ^= 0x80008000u;
    }
  }

  const auto attend = [&](auto masked, int block) {
    constexpr bool MASKED = decltype(masked)::value;
    const int stage = STAGES == 2 ? (blocks - 1 - block) % 2 : 0;
    const uint32_t key_tile = keys + stage * KeyTile::BYTES;
    const uint32_t value_tile = values + stage * KeyTile::BYTES;
    copy_wait<0>();
    __syncthreads();
    if constexpr (STAGES == 2) {
      if (block > 0) {
        copy_keys(block - 1, stage ^ 1, KEYS);
        copy_values(block - 1, stage ^ 1, KEYS);
      }
    } else {
      copy_values(block, 0, MASKED ? tile.keys - block * KEYS : KEYS);
    }
    copy_commit();

    float score[ATOMS][KEYS / 8][4];
#pragma unroll
    for (int a = 0; a < ATOMS; a++) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) score[a][n][i] = 0.f;
      }
    }
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      uint32_t a_fragment[ATOMS][4];
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
        load_matrices(a_fragment[a], QueryTile::step(query_lane, step) + a * 16 * QueryTile::ROW_BYTES);
      }
#pragma unroll
      for (int n = 0; n < KEYS / 16; n++) {
        uint32_t b[4];
        load_matrices(b, key_tile + KeyTile::step(key_lane, step) + n * 16 * KeyTile::ROW_BYTES);
#pragma unroll
        for (int a = 0; a < ATOMS; a++) {
          mma<T>(score[a][2 * n], a_fragment[a], b[0], b[1]);
          mma<T>(score[a][2 * n + 1], a_fragment[a], b[2], b[3]);
        }
      }
    }

    if constexpr (STAGES == 1) {
      copy_wait<0>();
      __syncthreads();
      if (block > 0) copy_keys(block - 1, 0, KEYS);
      copy_commit();
    }

    if constexpr (MASKED) {
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int visible = tile.visible(row_of(a, h)) - block * KEYS - lane % 4 * 2;
#pragma unroll
          for (int n = 0; n < KEYS / 8; n++) {
            if (n * 8 >= visible) score[a][n][2 * h] = -INFINITY;
            if (n * 8 + 1 >= visible) score[a][n][2 * h + 1] = -INFINITY;
          }
        }
      }
    }

    // Maxima of the block; the running ones follow only where they grow much.
    float larger[ATOMS][2];
    bool grows = false;
#pragma unroll
    for (int a = 0; a < ATOMS; a++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float m = score[a][0][2 * h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) m = fmaxf(m, fmaxf(score[a][n][2 * h], score[a][n][2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        const bool row_grows = m * scale > max[a][h] * scale + LAZY_GROWTH;
        larger[a][h] = row_grows ? m : max[a][h];
        grows |= row_grows;
      }
    }
    if (__any_sync(~0u, grows)) {
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          // Rows of the warp that did not grow keep their sums bit for bit.
          const float factor =
              larger[a][h] == max[a][h] ? 1.f : exp2_approx((max[a][h] - larger[a][h]) * scale);
          max[a][h] = larger[a][h];
          sum[a][h] *= factor;
#pragma unroll
          for (int n = 0; n < D / 8; n++) {
            output[a][n][2 * h] *= factor;
            output[a][n][2 * h + 1] *= factor;
          }
        }
      }
    }
#pragma unroll
    for (int a = 0; a < ATOMS; a++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float shift = max[a][h] == -INFINITY ? 0.f : max[a][h] * scale;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; i++) {
            score[a][n][i] = exp2_approx(score[a][n][i] * scale - shift);
            sum[a][h] += score[a][n][i];
          }
        }
      }
    }

#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      uint32_t weights[ATOMS][4];
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float* pair = &score[a][2 * step + i / 2][i % 2 * 2];
          weights[a][i] = pack<T>(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        load_matrices_transposed(b, value_tile + KeyTile::step(value_lane, n) + step * 16 * KeyTile::ROW_BYTES);
#pragma unroll
        for (int a = 0; a < ATOMS; a++) {
          mma<T>(output[a][2 * n], weights[a], b[0], b[1]);
          mma<T>(output[a][2 * n + 1], weights[a], b[2], b[3]);
        }
      }
    }
  };

  int block = blocks - 1;
  for (; block >= whole_blocks; block--) attend(std::true_type{}, block);
  for (; block >= 0; block--) attend(std::false_type{}, block);

  // Each warp turns its rows around in its own rows of the query tile.
  copy_wait<0>();
  if (blocks == 0) __syncthreads();
  __syncwarp();
  // Rows of the warp that came out NaN, which may be the fault of keys that they do not see.
  uint32_t lost_rows = 0;
#pragma unroll
  for (int a = 0; a < ATOMS; a++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float total = sum[a][h];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      const float inverse = total == 0.f ? 0.f : 1.f / total;
      const int row = row_of(a, h);
      uint32_t poisoned = 0;
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        const uint32_t pair = pack<T>(output[a][n][2 * h] * inverse, output[a][n][2 * h + 1] * inverse);
        poisoned = poison<T>(poisoned, pair);
        const uint32_t to =
            QueryTile::offset(row, n * 8 / QueryTile::WIDTH, n % QueryTile::CHUNKS) + lane % 4 * 4;
        *reinterpret_cast<uint32_t*>(shared + to) = pair;
      }
      if (p.lse && lane % 4 == 0 && row < tile.rows) {
        p.lse[tile.lse_index(p, row)] = total == 0.f ? -INFINITY : max[a][h] * scale * LN_2 + logf(total);
      }
      const bool lost = tile.causal && row < tile.rows && poisoned != 0;
      lost_rows |= rows_of_lanes(__ballot_sync(~0u, lost)) << (a * 16 + h * 8);
    }
  }
  __syncwarp();

  const bool output_aligned = rows_aligned<T>(p.output);
  constexpr int LANES = QueryTile::CHUNKS;
#pragma unroll 4
  for (int i = 0; i < Shape::WARP_ROWS * LANES / 32; i++) {
    const int warp_offset = i * (32 / LANES) + lane / LANES;
    const int row = warp_row + warp_offset;
    if (row >= tile.rows || lost_rows >> warp_offset & 1) continue;
    T* to = static_cast<T*>(p.output.data) + tile.offset(p.output, row);
#pragma unroll
    for (int panel = 0; panel < QueryTile::PANELS; panel++) {
      const int column = panel * QueryTile::WIDTH + lane % LANES * 8;
      const uint8_t* from = shared + QueryTile::offset(row, panel, lane % LANES);
      if (output_aligned && column + 8 <= p.head_dim) {
        // Nobody reads the output soon: leave the L2 cache to keys and values.
        __stcs(reinterpret_cast<uint4*>(to + column), *reinterpret_cast<const uint4*>(from));
      } else {
#pragma unroll 1
        for (int j = 0; j < min(p.head_dim - column, 8); j++) {
          to[column + j] = reinterpret_cast<const T*>(from)[j];
        }
      }
    }
  }
  for (; lost_rows; lost_rows &= lost_rows - 1) {
    attend_row<T, Shape::ROWS>(p, warp_row + __ffs(lost_rows) - 1);
  }
}

}  // namespace kfa
