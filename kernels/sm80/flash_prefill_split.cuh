// Flash prefill for fp32 on 16-bit tensor cores: every operand is the sum of two scaled halves, and
// every product three products of halves. docs/cuda-prefill.md tells why this is float32's accuracy.
#pragma once

#include <type_traits>

#include "common/copy.cuh"
#include "common/listed.cuh"
#include "common/mma.cuh"
#include "params.h"
#include "sm80/prefill_rows.cuh"

namespace kfa {

/// How a block is cut: a line of flash_prefill.list.
template <int HEAD_DIM_, int ROWS_, int THREADS_, int SHARED, int KEYS_, int BLOCKS_>
struct SplitShape {
  static constexpr int HEAD_DIM = HEAD_DIM_;
  static constexpr int ROWS = ROWS_;
  static constexpr int THREADS = THREADS_;
  static constexpr int KEYS = KEYS_;
  static constexpr int BLOCKS = BLOCKS_;
  static constexpr int WARP_ROWS = ROWS / (THREADS / 32);
  static constexpr int ATOMS = WARP_ROWS / 16;
  using QueryTile = SharedTile<ROWS, HEAD_DIM>;
  using KeyTile = SharedTile<KEYS, HEAD_DIM>;
  static_assert(ATOMS * 16 * (THREADS / 32) == ROWS, "warps share the rows evenly");
  /// High and low halves of queries, keys, values; a factor per query; three factors per key.
  static_assert(
      Listed<2 * QueryTile::BYTES + 4 * KeyTile::BYTES + 4 * ROWS + 3 * 4 * KEYS, SHARED>::OK);
};

/// Rows are scaled by a power of two to a largest element in [2^14, 2^15): the low half of anything
/// down to 2^-15 of that element then keeps its 11 bits, and below, what is lost is 2^-39 of it.
constexpr int HALF_EXPONENT = 14;
/// Weights of at most 2^12 leave the low half of small weights its bits.
constexpr float WEIGHT_EXPONENT = 12.f;
/// Exponents of keys and queries whose scale is still a normal float32.
constexpr int MAX_EXPONENT = 112;
/// Exponents of value rows, relative to that of key 0, that the weights can carry.
constexpr int MIN_VALUE_EXPONENT = -50, MAX_VALUE_EXPONENT = 60;
/// Exponents of key 0 with which their scales are still normal float32.
constexpr int MIN_REFERENCE = -60, MAX_REFERENCE = 100;

__device__ __forceinline__ float power_of_two(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

/// floor(log2(x)) for normal numbers; 0 for zero, which needs no scale; 128 for infinity and NaN.
__device__ __forceinline__ int exponent_of(float x) {
  return x == 0.f ? 0 : int(__float_as_uint(x) >> 23) - 127;
}

struct Halves {
  uint32_t high, low;
};

/// Two numbers as packed halves: high + low is each number to 22 bits. An infinite number, or one
/// too large for a half, gives a NaN in the sum.
__device__ __forceinline__ Halves split(float x, float y) {
  const __half2 high = __floats2half2_rn(x, y);
  const float2 rounded = __half22float2(high);
  return {reinterpret_cast<const uint32_t&>(high), pack<__half>(x - rounded.x, y - rounded.y)};
}

/// The two small products of c += a . b; low . low is below fp32's accuracy. Scores gather them before
/// or beside the big one: the matrix unit cuts every product at the last bit of the sum so far, and
/// cutting 2/3 of the products at the last bit of a small sum halves the error.
__device__ __forceinline__ void mma_small(float (&c)[4], const uint32_t (&high)[4],
                                          const uint32_t (&low)[4], const uint32_t* b,
                                          const uint32_t* b_low) {
  mma<__half>(c, low, b[0], b[1]);
  mma<__half>(c, high, b_low[0], b_low[1]);
}

/// Eight lanes hold a row: lane l its chunks l, l + 8, ... of eight elements.
constexpr int ROW_LANES = 8;

template <int D>
struct RowPart {
  float x[D / 64][8];

  /// Loads a row's part; rows and columns past the end become zero, whatever lies there.
  __device__ __forceinline__ void load(const float* row, bool inside, int head_dim, bool vectors) {
    const int lane = threadIdx.x % ROW_LANES;
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
      const int column = i * 64 + lane * 8;
      if (vectors) {
        const bool whole = inside && column < head_dim;
        const float4* from = reinterpret_cast<const float4*>(row + column);
        const float4 zero = {0.f, 0.f, 0.f, 0.f};
        reinterpret_cast<float4&>(x[i][0]) = whole ? from[0] : zero;
        reinterpret_cast<float4&>(x[i][4]) = whole ? from[1] : zero;
      } else {
#pragma unroll
        for (int j = 0; j < 8; j++) {
          x[i][j] = inside && column + j < head_dim ? row[column + j] : 0.f;
        }
      }
    }
  }

  __device__ __forceinline__ void multiply(float factor) {
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) x[i][j] *= factor;
    }
  }

  /// The largest magnitude of the whole row.
  __device__ __forceinline__ float magnitude() const {
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) largest = fmaxf(largest, fabsf(x[i][j]));
    }
#pragma unroll
    for (int distance = 1; distance < ROW_LANES; distance *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
    }
    return largest;
  }

  /// Stores the row times `factor` as halves into a tile and its neighbour of low halves.
  template <class Tile>
  __device__ __forceinline__ void store(uint8_t* tile, int row, float factor) const {
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
      uint4 high, low;
      uint32_t* highs = reinterpret_cast<uint32_t*>(&high);
      uint32_t* lows = reinterpret_cast<uint32_t*>(&low);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const Halves pair = split(x[i][2 * j] * factor, x[i][2 * j + 1] * factor);
        highs[j] = pair.high;
        lows[j] = pair.low;
      }
      uint8_t* to = tile + Tile::offset(row, i, threadIdx.x % ROW_LANES);
      *reinterpret_cast<uint4*>(to) = high;
      *reinterpret_cast<uint4*>(to + Tile::BYTES) = low;
    }
  }
};

template <class Shape>
__device__ __forceinline__ void flash_prefill_split(const KfaAttentionParams& p) {
  constexpr int D = Shape::HEAD_DIM, KEYS = Shape::KEYS, ATOMS = Shape::ATOMS;
  using QueryTile = typename Shape::QueryTile;
  using KeyTile = typename Shape::KeyTile;
  constexpr int PASS = Shape::THREADS / ROW_LANES;  // rows that the block converts at once
  static_assert(KEYS % PASS == 0 && Shape::ROWS % PASS == 0, "passes convert whole tiles");

  RowTile tile;
  if (!tile.init<Shape::ROWS>(p)) return;

  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const key_tile = shared + 2 * QueryTile::BYTES;
  uint8_t* const value_tile = key_tile + 2 * KeyTile::BYTES;
  float* const query_factor = reinterpret_cast<float*>(value_tile + 2 * KeyTile::BYTES);
  float* const key_factor = query_factor + Shape::ROWS;
  float* const value_exponent = key_factor + KEYS;
  float* const value_factor = value_exponent + KEYS;

  const float* query = static_cast<const float*>(p.query.data);
  const float* key = static_cast<const float*>(p.key.data) + tile.kv_offset(p.key);
  const float* value = static_cast<const float*>(p.value.data) + tile.kv_offset(p.value);
  const bool whole_chunks = p.head_dim % 8 == 0;
  const bool key_vectors = whole_chunks && rows_aligned<float>(p.key);
  const bool value_vectors = whole_chunks && rows_aligned<float>(p.value);

  const int lane = threadIdx.x % 32;
  const int warp_row = threadIdx.x / 32 * Shape::WARP_ROWS;
  const int pass_row = threadIdx.x / ROW_LANES;
  const auto row_of = [&](int atom, int half) { return warp_row + atom * 16 + half * 8 + lane / 4; };

  const int seen = tile.visible(tile.rows - 1);
  const int blocks = (seen + KEYS - 1) / KEYS;
  const int whole_blocks = tile.visible(0) / KEYS;

  // Keys and values wait in registers between their load and the moment their tile is free.
  RowPart<D> part[KEYS / PASS];
  const auto load = [&](const float* from, const KfaView& view, bool vectors, int block) {
    from += (int64_t(block) * KEYS + pass_row) * view.row_stride;
#pragma unroll
    for (int i = 0; i < KEYS / PASS; i++) {
      const bool inside = block * KEYS + pass_row + i * PASS < tile.keys;
      part[i].load(from + i * PASS * view.row_stride, inside, p.head_dim, vectors);
    }
  };
  const auto store_keys = [&] {
#pragma unroll
    for (int i = 0; i < KEYS / PASS; i++) {
      const int row = pass_row + i * PASS;
      const int exponent = min(max(exponent_of(part[i].magnitude()), -MAX_EXPONENT), MAX_EXPONENT);
      part[i].template store<KeyTile>(key_tile, row, power_of_two(HALF_EXPONENT - exponent));
      if (threadIdx.x % ROW_LANES == 0) key_factor[row] = power_of_two(exponent - HALF_EXPONENT);
    }
  };

  // Value rows are scaled one by one, and their weights the other way, so that a small row next to a
  // large one keeps its precision where it has the weight. Exponents count from that of key 0, so
  // that they do not eat into the precision of the scores they are added to.
  int reference = 0;
  if (blocks > 0) {
    float largest = 0.f;
    for (int column = lane; column < p.head_dim; column += 32) largest = fmaxf(largest, fabsf(value[column]));
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
    }
    reference = min(max(exponent_of(largest), MIN_REFERENCE), MAX_REFERENCE);
  }
  const auto store_values = [&] {
#pragma unroll
    for (int i = 0; i < KEYS / PASS; i++) {
      const int row = pass_row + i * PASS;
      const float magnitude = part[i].magnitude();
      const int relative = magnitude == 0.f ? 0 : exponent_of(magnitude) - reference;
      const int exponent = min(max(relative, MIN_VALUE_EXPONENT), MAX_VALUE_EXPONENT);
      part[i].template store<KeyTile>(value_tile, row, power_of_two(HALF_EXPONENT - reference - exponent));
      if (threadIdx.x % ROW_LANES == 0) {
        value_exponent[row] = exponent;
        value_factor[row] = power_of_two(-exponent);
      }
    }
  };

  {
    const bool vectors = whole_chunks && rows_aligned<float>(p.query);
#pragma unroll 2
    for (int row = pass_row; row < Shape::ROWS; row += PASS) {
      RowPart<D> part;
      part.load(query + tile.offset(p.query, row), row < tile.rows, p.head_dim, vectors);
      part.multiply(p.scale * LOG2_E);
      const int exponent = min(max(exponent_of(part.magnitude()), -MAX_EXPONENT), MAX_EXPONENT);
      part.template store<QueryTile>(shared, row, power_of_two(HALF_EXPONENT - exponent));
      if (threadIdx.x % ROW_LANES == 0) query_factor[row] = power_of_two(exponent - HALF_EXPONENT);
    }
  }
  if (blocks > 0) {
    load(key, p.key, key_vectors, blocks - 1);
    store_keys();
  }
  __syncthreads();

  float output[ATOMS][D / 8][4];
  float max[ATOMS][2], sum[ATOMS][2], factor_of_row[ATOMS][2];
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
      factor_of_row[a][h] = query_factor[row_of(a, h)];
    }
  }

  const uint32_t query_lane = shared_address(shared) + QueryTile::offset(warp_row + lane % 16, 0, lane / 16);
  const uint32_t key_lane = shared_address(key_tile) + KeyTile::offset(lane % 8 + lane / 16 * 8, 0, lane / 8 % 2);
  const uint32_t value_lane = shared_address(value_tile) + KeyTile::offset(lane % 16, 0, lane / 16);

  const auto attend = [&](auto masked, int block) {
    constexpr bool MASKED = decltype(masked)::value;
    load(value, p.value, value_vectors, block);
    __syncthreads();  // the keys are there, and nobody reads the last block's values any more

    float score[ATOMS][KEYS / 8][4] = {};
    const auto multiply = [&](auto with_small, auto with_big, auto& small) {
      constexpr bool SMALL = decltype(with_small)::value, BIG = decltype(with_big)::value;
#pragma unroll
      for (int step = 0; step < D / 16; step++) {
        uint32_t high[ATOMS][4], low[ATOMS][4];
#pragma unroll
        for (int a = 0; a < ATOMS; a++) {
          const uint32_t from = QueryTile::step(query_lane, step) + a * 16 * QueryTile::ROW_BYTES;
          load_matrices(high[a], from);
          if constexpr (SMALL) load_matrices(low[a], from + QueryTile::BYTES);
        }
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
          const uint32_t from = KeyTile::step(key_lane, step) + n * 16 * KeyTile::ROW_BYTES;
          uint32_t b[4], b_low[4];
          load_matrices(b, from);
          if constexpr (SMALL) load_matrices(b_low, from + KeyTile::BYTES);
#pragma unroll
          for (int a = 0; a < ATOMS; a++) {
            if constexpr (SMALL) {
              mma_small(small[a][2 * n], high[a], low[a], b, b_low);
              mma_small(small[a][2 * n + 1], high[a], low[a], b + 2, b_low + 2);
            }
            if constexpr (BIG) {
              mma<__half>(score[a][2 * n], high[a], b[0], b[1]);
              mma<__half>(score[a][2 * n + 1], high[a], b[2], b[3]);
            }
          }
        }
      }
    };
    if constexpr (ATOMS == 1) {
      float small[ATOMS][KEYS / 8][4] = {};
      multiply(std::true_type{}, std::true_type{}, small);
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) score[0][n][i] += small[0][n][i];
      }
    } else {
      // No registers for sums of their own: a second reading of the tiles instead. The barrier keeps
      // the compiler from holding what it has just read until then.
      multiply(std::true_type{}, std::false_type{}, score);
      __syncwarp();
      multiply(std::false_type{}, std::true_type{}, score);
    }

    store_values();
    if (block > 0) load(key, p.key, key_vectors, block - 1);
    // Scores in powers of two, plus the exponent of the key's value.
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
      const float2 factor = *reinterpret_cast<const float2*>(key_factor + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          score[a][n][i] *= (i % 2 ? factor.y : factor.x) * factor_of_row[a][i / 2];
        }
      }
    }
    __syncthreads();  // the values are there, and nobody reads the keys any more
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
      const float2 exponent = *reinterpret_cast<const float2*>(value_exponent + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int i = 0; i < 4; i++) score[a][n][i] += i % 2 ? exponent.y : exponent.x;
      }
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

    float factor[ATOMS][2], shift[ATOMS][2];
#pragma unroll
    for (int a = 0; a < ATOMS; a++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float m = max[a][h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) m = fmaxf(m, fmaxf(score[a][n][2 * h], score[a][n][2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        shift[a][h] = m == -INFINITY ? 0.f : m - WEIGHT_EXPONENT;
        factor[a][h] = m == max[a][h] ? 1.f : exp2_approx(max[a][h] - m);
        max[a][h] = m;
        sum[a][h] *= factor[a][h];
      }
    }
    uint32_t high[ATOMS][KEYS / 16][4], low[ATOMS][KEYS / 16][4];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
      const float2 unscale = *reinterpret_cast<const float2*>(value_factor + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float x = exp2_approx(score[a][n][2 * h] - shift[a][h]);
          const float y = exp2_approx(score[a][n][2 * h + 1] - shift[a][h]);
          sum[a][h] += x * unscale.x;
          sum[a][h] += y * unscale.y;
          const Halves pair = split(x, y);
          high[a][n / 2][n % 2 * 2 + h] = pair.high;
          low[a][n / 2][n % 2 * 2 + h] = pair.low;
        }
      }
    }

    // A block's products gather by themselves and join the sums in one rounded addition, which also
    // rescales them: the matrix unit truncates, and over a long row that would add up.
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      float gathered[ATOMS][2][4];
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int i = 0; i < 8; i++) gathered[a][i / 4][i % 4] = 0.f;
      }
#pragma unroll
      for (int step = 0; step < KEYS / 16; step++) {
        const uint32_t from = KeyTile::step(value_lane, n) + step * 16 * KeyTile::ROW_BYTES;
        uint32_t b[4], b_low[4];
        load_matrices_transposed(b, from);
        load_matrices_transposed(b_low, from + KeyTile::BYTES);
#pragma unroll
        for (int a = 0; a < ATOMS; a++) {
          mma_small(gathered[a][0], high[a][step], low[a][step], b, b_low);
          mma_small(gathered[a][1], high[a][step], low[a][step], b + 2, b_low + 2);
          mma<__half>(gathered[a][0], high[a][step], b[0], b[1]);
          mma<__half>(gathered[a][1], high[a][step], b[2], b[3]);
        }
      }
#pragma unroll
      for (int a = 0; a < ATOMS; a++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          float& o = output[a][2 * n + i / 4][i % 4];
          o = o * factor[a][i % 4 / 2] + gathered[a][i / 4][i % 4];
        }
      }
    }
    if (block > 0) store_keys();
  };

  int block = blocks - 1;
  for (; block >= whole_blocks; block--) attend(std::true_type{}, block);
  for (; block >= 0; block--) attend(std::false_type{}, block);

  const bool pairs_aligned =
      p.head_dim % 2 == 0 &&
      (reinterpret_cast<uint64_t>(p.output.data) |
       4 * (p.output.batch_stride | p.output.row_stride | p.output.head_stride)) % 8 == 0;
  uint32_t lost_rows = 0;
#pragma unroll
  for (int a = 0; a < ATOMS; a++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float total = sum[a][h];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      const float inverse = total == 0.f ? 0.f : power_of_two(reference - HALF_EXPONENT) / total;
      const int row = row_of(a, h);
      float poisoned = 0.f;
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        poisoned = fmaf(output[a][n][2 * h] *= inverse, 0.f, poisoned);
        poisoned = fmaf(output[a][n][2 * h + 1] *= inverse, 0.f, poisoned);
      }
      const bool lost = row < tile.rows && poisoned != 0.f;
      const uint32_t lost_here = rows_of_lanes(__ballot_sync(~0u, lost));
      lost_rows |= lost_here << (a * 16 + h * 8);
      if (row >= tile.rows || lost_here >> lane / 4 & 1) continue;
      float* to = static_cast<float*>(p.output.data) + tile.offset(p.output, row) + lane % 4 * 2;
      const int columns = p.head_dim - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        if (pairs_aligned) {
          if (n * 8 < columns) {
            *reinterpret_cast<float2*>(to + n * 8) = {output[a][n][2 * h], output[a][n][2 * h + 1]};
          }
        } else {
          if (n * 8 < columns) to[n * 8] = output[a][n][2 * h];
          if (n * 8 + 1 < columns) to[n * 8 + 1] = output[a][n][2 * h + 1];
        }
      }
      if (p.lse && lane % 4 == 0) {
        p.lse[tile.lse_index(p, row)] =
            total == 0.f ? -INFINITY : (max[a][h] - WEIGHT_EXPONENT) * LN_2 + logf(total);
      }
    }
  }
  __syncwarp();
  for (; lost_rows; lost_rows &= lost_rows - 1) {
    attend_row<float, Shape::ROWS>(p, warp_row + __ffs(lost_rows) - 1);
  }
}

}  // namespace kfa
