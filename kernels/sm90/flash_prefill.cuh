// Flash prefill for fp16 and bf16 on Hopper: docs/cuda-hopper.md tells how and why.
#pragma once

#include "common/copy.cuh"
#include "common/listed.cuh"
#include "sm90/attend_row.cuh"
#include "sm90/movers.cuh"
#include "sm90/softmax.cuh"
#include "sm90/wgmma.cuh"

namespace kfa {

/// How a block is cut: `GROUPS` warpgroups of 64 query rows each, and one more that moves data.
template <int HEAD_DIM_, int ROWS_, int THREADS_, int SHARED_, int KEYS_, int QUERY_STAGES_, int KEY_STAGES_,
          int VALUE_STAGES_, int EARLY_>
struct WarpgroupTile {
  static constexpr int HEAD_DIM = HEAD_DIM_;
  static constexpr int ROWS = ROWS_;
  static constexpr int GROUPS = ROWS / 64;
  static constexpr int THREADS = THREADS_;
  static constexpr int KEYS = KEYS_;
  static constexpr int QUERY_STAGES = QUERY_STAGES_;
  static constexpr int KEY_STAGES = KEY_STAGES_;
  static constexpr int VALUE_STAGES = VALUE_STAGES_;
  /// Sixteens of keys that are weighed before the product of the block before is waited for.
  static constexpr int EARLY = EARLY_;

  static constexpr int STEPS = KEYS / 16;
  static constexpr int PANELS = HEAD_DIM / 64;
  static constexpr int QUERY_BYTES = ROWS * HEAD_DIM * 2;
  static constexpr int BLOCK_BYTES = KEYS * HEAD_DIM * 2;
  /// Registers of a thread: all that the launch gave, moved from the warps that need few.
  static constexpr int MATH_REGISTERS = GROUPS == 2 ? 240 : 160;
  static constexpr int MOVE_REGISTERS = GROUPS == 2 ? 24 : 32;

  // Shared memory.
  static constexpr int KEY_OFFSET = QUERY_STAGES * QUERY_BYTES;
  static constexpr int VALUE_OFFSET = KEY_OFFSET + KEY_STAGES * BLOCK_BYTES;
  static constexpr int BARRIER_OFFSET = VALUE_OFFSET + VALUE_STAGES * BLOCK_BYTES;
  static constexpr int QUERY_FULL = BARRIER_OFFSET;
  static constexpr int QUERY_EMPTY = QUERY_FULL + 8 * QUERY_STAGES;
  static constexpr int KEY_FULL = QUERY_EMPTY + 8 * QUERY_STAGES;
  static constexpr int KEY_EMPTY = KEY_FULL + 8 * KEY_STAGES;
  static constexpr int VALUE_FULL = KEY_EMPTY + 8 * KEY_STAGES;
  static constexpr int VALUE_EMPTY = VALUE_FULL + 8 * VALUE_STAGES;
  static constexpr int VALUE_RAGGED = VALUE_EMPTY + 8 * VALUE_STAGES;
  static constexpr int OUTPUT_FULL = VALUE_RAGGED + 8;  // per warpgroup and query stage
  static constexpr int TILE_BOARD = (OUTPUT_FULL + 8 * GROUPS * QUERY_STAGES + 15) / 16 * 16;
  /// With what it takes to align the start.
  static constexpr int SHARED_BYTES = TILE_BOARD + BOARD_BYTES + 1024;

  static_assert(THREADS == 128 * (GROUPS + 1));
  static_assert(Listed<SHARED_BYTES, SHARED_>::OK);
  static_assert(SHARED_BYTES <= 232448);
};

template <class Shape>
__device__ __forceinline__ void init_barriers(uint32_t shared) {
  const auto init = [&](int offset, int count, int arrivals) {
    for (int i = 0; i < count; i++) barrier_init(shared + offset + 8 * i, arrivals);
  };
  constexpr int WARPS = 4 * Shape::GROUPS;
  init(Shape::QUERY_FULL, Shape::QUERY_STAGES, 1);
  init(Shape::QUERY_EMPTY, Shape::QUERY_STAGES, 1);
  init(Shape::KEY_FULL, Shape::KEY_STAGES, 1);
  init(Shape::KEY_EMPTY, Shape::KEY_STAGES, WARPS);
  init(Shape::VALUE_FULL, Shape::VALUE_STAGES, 1);
  init(Shape::VALUE_EMPTY, Shape::VALUE_STAGES, WARPS);
  init(Shape::VALUE_RAGGED, 1, 1);
  init(Shape::OUTPUT_FULL, Shape::GROUPS * Shape::QUERY_STAGES, 4);
  init(Shape::TILE_BOARD + TILE_FULL, 2, 1);
  init(Shape::TILE_BOARD + TILE_EMPTY, 2, 3 + WARPS);
  fence_barriers();
}

/// One warpgroup's 64 rows of each tile.
template <class T, class Shape>
struct Attention {
  static constexpr int STEPS = Shape::STEPS, SCORES = Shape::KEYS / 2, OUTPUTS = Shape::HEAD_DIM / 2;

  const KfaAttentionParams& p;
  const KfaPrefillSchedule& schedule;
  const uint32_t shared;
  const int group;
  const uint64_t query_descriptor, key_descriptor, value_descriptor;
  TileReader tiles;
  Ring<Shape::QUERY_STAGES> query_ring;
  Ring<Shape::KEY_STAGES> key_ring;
  Ring<Shape::VALUE_STAGES> value_ring;
  float output[OUTPUTS];
  /// The weights of the block before, which the tensor cores multiply while the next are computed.
  uint32_t weights[STEPS][4];

  __device__ __forceinline__ Attention(
      const KfaAttentionParams& p, const KfaPrefillSchedule& schedule, uint32_t shared, int warp,
      const TileReader& tiles)
      : p(p), schedule(schedule), shared(shared), group(warp / 4 - 1),
        query_descriptor(rows_descriptor(shared + group * 64 * 128)),
        key_descriptor(rows_descriptor(shared + Shape::KEY_OFFSET)),
        value_descriptor(columns_descriptor(shared + Shape::VALUE_OFFSET, Shape::KEYS * 128)), tiles(tiles) {}

  // Read anew wherever they are used, which is seldom: in a register all along they cost spills.
  __device__ __forceinline__ static int lane() {
    int lane;
    asm volatile("mov.u32 %0, %%laneid;\n" : "=r"(lane));
    return lane;
  }
  __device__ __forceinline__ static int warp() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
    return thread / 32 % 4;
  }

  __device__ __forceinline__ int row_of(const Tile& tile) const {
    return tile.index * Shape::ROWS + group * 64 + warp() * 16 + lane() / 4;
  }
  __device__ __forceinline__ int visible(int row) const { return Keys(p).visible(row >> schedule.pack_shift); }

  /// Blocks from this one on hide keys from some row, or are the last that its first row sees any of:
  /// so every row meets its first visible key in one of them.
  __device__ __forceinline__ int first_masked(const Tile& tile) const {
    const int seen = visible(tile.index * Shape::ROWS + group * 64);
    return __shfl_sync(~0u, (max(seen, 1) - 1) / Shape::KEYS, 0);
  }

  __device__ __forceinline__ void mask(float (&scores)[SCORES], const Tile& tile, int block) const {
    const int first = block * Shape::KEYS + lane() % 4 * 2;
    const int row = row_of(tile);
    hide(scores, visible(row) - first, visible(row + 8) - first);
  }

  __device__ __forceinline__ void multiply_keys(float (&scores)[SCORES]) const {
    const uint64_t a = query_descriptor + query_ring.stage() * (Shape::QUERY_BYTES / 16);
    const uint64_t b = key_descriptor + key_ring.stage() * (Shape::BLOCK_BYTES / 16);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Shape::HEAD_DIM / 16; k++) {
      // 16 elements are 32 bytes of a row, four of them a panel.
      wgmma_shared(T(), scores, a + k % 4 * 2 + k / 4 * (Shape::ROWS * 128 / 16),
                   b + k % 4 * 2 + k / 4 * (Shape::KEYS * 128 / 16), k != 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void multiply_values() {
    const uint64_t b = value_descriptor + value_ring.stage() * (Shape::BLOCK_BYTES / 16);
    pin(output);
    pin(weights);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
      wgmma_registers(T(), output, weights[k], b + k * (16 * 128 / 16), 1);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void wait_for_keys(const Ring<Shape::KEY_STAGES>& ring) const {
    barrier_wait(shared + Shape::KEY_FULL + 8 * ring.stage(), ring.parity());
  }
  __device__ __forceinline__ void wait_for_values(const Ring<Shape::VALUE_STAGES>& ring) const {
    barrier_wait(shared + Shape::VALUE_FULL + 8 * ring.stage(), ring.parity());
  }
  __device__ __forceinline__ void release_keys() const {
    if (lane() == 0) barrier_arrive(shared + Shape::KEY_EMPTY + 8 * key_ring.stage());
  }
  __device__ __forceinline__ void free_values() {
    if (lane() == 0) barrier_arrive(shared + Shape::VALUE_EMPTY + 8 * value_ring.stage());
    value_ring.advance();
  }

  /// The scores of the rows asked for once more, by the warp's own matrix instruction.
  __device__ __forceinline__ void score_again(float (&scores)[SCORES], const bool (&again)[2]) const {
    const int lane = Attention::lane(), warp = Attention::warp();
    const uint32_t query = shared + query_ring.stage() * Shape::QUERY_BYTES + group * 64 * 128 + warp * 16 * 128;
    const uint32_t key = shared + Shape::KEY_OFFSET + key_ring.stage() * Shape::BLOCK_BYTES;
    const int query_row = lane % 16, key_row = lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      float sums[2][4] = {};
#pragma unroll 1
      for (int k = 0; k < Shape::HEAD_DIM / 16; k++) {
        uint32_t a[4], b[4];
        const int query_chunk = (k % 4 * 2 + lane / 16) ^ query_row % 8;
        const int key_chunk = (k % 4 * 2 + lane / 8 % 2) ^ key_row % 8;
        load_matrices(a, query + k / 4 * (Shape::ROWS * 128) + query_row * 128 + query_chunk * 16);
        load_matrices(b, key + k / 4 * (Shape::KEYS * 128) + (16 * i + key_row) * 128 + key_chunk * 16);
        mma<T>(sums[0], a, b[0], b[1]);
        mma<T>(sums[1], a, b[2], b[3]);
      }
#pragma unroll
      for (int j = 0; j < 8; j++) {
        if (again[j % 4 / 2]) scores[8 * i + j] = sums[j / 4][j % 4];
      }
    }
  }

  /// Whether a row of this warp's has weights beyond what its shift may stand, or NaN.
  __device__ __forceinline__ static bool beyond(const float (&sum)[2]) {
    return __any_sync(~0u, !(sum[0] <= MOST_WEIGHT<T>) || !(sum[1] <= MOST_WEIGHT<T>));
  }

  /// Which of a thread's rows; all four lanes of a row decide alike. Only they change: a row's bits do not
  /// depend on its neighbours.
  __device__ __forceinline__ void rows_beyond(bool (&again)[2], const float (&sum)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const uint32_t lanes = __ballot_sync(~0u, !(sum[r] <= MOST_WEIGHT<T>));
      again[r] = lanes >> lane() / 4 * 4 & 15;
    }
  }

  /// Puts the weights of such rows right, from their scores, computed once more.
  __device__ __forceinline__ void weigh_again(
      float (&scores)[SCORES], float (&sum)[2], RowPair& rows, const Tile& tile, int block, bool masked) {
    bool again[2];
    rows_beyond(again, sum);
    score_again(scores, again);
    if (masked) {
      const int first = block * Shape::KEYS + lane() % 4 * 2;
      const int row = row_of(tile);
      hide(scores, again[0] ? visible(row) - first : Shape::KEYS, again[1] ? visible(row + 8) - first : Shape::KEYS);
    }
    new_shift(rows, again, scores, output, schedule.scale);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      if (!again[r]) continue;
      const float shift = finite_shift(rows.shift[r]);
      sum[r] = 0.f;
#pragma unroll
      for (int i = 0; i < SCORES / 4; i++) {
        sum[r] += weigh_pair<T>(scores[4 * i + 2 * r], scores[4 * i + 2 * r + 1], shift, schedule.scale);
      }
    }
  }

  /// A tile's first block: nothing to overlap with yet.
  __device__ __forceinline__ void first_block(RowPair& rows, const Tile& tile) {
    const int block = tile.blocks - 1;
    float scores[SCORES];
    wait_for_keys(key_ring);
    multiply_keys(scores);
    wgmma_wait<0>();
    pin(scores);
    release_keys();
    key_ring.advance();
    if (block >= first_masked(tile)) mask(scores, tile, block);
    first_shift(rows, scores, schedule.scale);
    const float shift[2] = {finite_shift(rows.shift[0]), finite_shift(rows.shift[1])};
    weigh<T, 0, STEPS>(scores, rows.sum, shift, schedule.scale);
    round_weights<T, 0, STEPS>(weights, scores);
    if (block > 0) wait_for_keys(key_ring);
    wait_for_values(value_ring);
  }

  /// Scores of a block, and under their softmax the values of the block before: the tensor cores hold
  /// both products from the start. Keys and values are there; those of the next step are waited for.
  template <bool MASKED>
  __device__ __forceinline__ void step(RowPair& rows, const Tile& tile, int block) {
    float scores[SCORES];
    // Warpgroups take turns to issue, so that one's softmax runs under the others' products.
    named_sync(1 + group, 256);
    multiply_keys(scores);
    multiply_values();
    named_arrive(1 + (group + 1) % Shape::GROUPS, 256);
    wgmma_wait<1>();
    pin(scores);
    const Ring<Shape::KEY_STAGES> next_keys = key_ring.next();
    float shift[2] = {rows.shift[0], rows.shift[1]};
    if constexpr (MASKED) {
      mask(scores, tile, block);
      first_shift(rows, scores, schedule.scale);
#pragma unroll
      for (int r = 0; r < 2; r++) shift[r] = finite_shift(rows.shift[r]);
    }
    const Ring<Shape::VALUE_STAGES> next_values = value_ring.next();
    bool ready = barrier_test(shared + Shape::VALUE_FULL + 8 * next_values.stage(), next_values.parity());
    if (block > 0) ready &= barrier_test(shared + Shape::KEY_FULL + 8 * next_keys.stage(), next_keys.parity());
    float sum[2] = {0.f, 0.f};
    weigh<T, 0, Shape::EARLY>(scores, sum, shift, schedule.scale);
    pin(scores);
    // Where all weights are known by now, the keys need not wait for the values' product.
    constexpr bool ALL = Shape::EARLY == STEPS;
    bool again = false;
    if constexpr (ALL) {
      again = beyond(sum);
      if (!again) release_keys();
    }
    // A branch, and as such a wall: in one basic block with the softmax, the wait below is moved above
    // it, and nothing overlaps.
    if (!ready) {
      wait_for_values(next_values);
      if (block > 0) wait_for_keys(next_keys);
    }
    wgmma_wait<0>();
    pin(output);
    pin(weights);
    free_values();
    round_weights<T, 0, Shape::EARLY>(weights, scores);
    weigh<T, Shape::EARLY, STEPS>(scores, sum, shift, schedule.scale);
    round_weights<T, Shape::EARLY, STEPS>(weights, scores);
    if constexpr (!ALL) again = beyond(sum);
    if (again) {
      weigh_again(scores, sum, rows, tile, block, MASKED);
      round_weights<T, 0, STEPS>(weights, scores);
    }
    if (!ALL || again) release_keys();
    key_ring.advance();
    rows.sum[0] += sum[0];
    rows.sum[1] += sum[1];
  }

  /// Normalises the output and stages it in the warpgroup's own query rows, which nobody reads any more.
  __device__ __forceinline__ void finish(const RowPair& rows, const Tile& tile) {
    const int lane = Attention::lane(), warp = Attention::warp();
    const int row = row_of(tile);
    const int rows_end = p.q_len << schedule.pack_shift;
    float inverse[2];
    bool empty[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float sum = rows.sum[r];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      empty[r] = sum == 0.f;
      inverse[r] = empty[r] ? 0.f : __fdividef(1.f, sum);
      if (p.lse && lane % 4 == 0 && row + 8 * r < rows_end) {
        *lse_of(tile, row + 8 * r) = empty[r] ? -INFINITY : (rows.shift[r] + __log2f(sum)) * LN_2;
      }
    }
    named_sync(1 + Shape::GROUPS + group, 128);  // all four warps have read their queries
    const uint32_t stage = shared + query_ring.stage() * Shape::QUERY_BYTES + group * 64 * 128;
    const int lane_row = warp * 16 + lane / 8 % 2 * 8 + lane % 8;  // that this lane names to stmatrix
    uint32_t poisoned[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < Shape::HEAD_DIM / 8; i += 2) {
      uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        pairs[j] = pack<T>(output[4 * i + 2 * j] * inverse[j % 2], output[4 * i + 2 * j + 1] * inverse[j % 2]);
        poisoned[j % 2] = poison<T>(poisoned[j % 2], pairs[j]);
      }
      const int chunk = (i % 8 + lane / 16) ^ lane_row % 8;
      store_matrices(stage + i / 8 * (Shape::ROWS * 128) + lane_row * 128 + chunk * 16, pairs);
    }
    __syncwarp();
    // A row may have come out NaN by the fault of keys that it does not see.
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool lost = (p.causal || empty[r]) && row + 8 * r < rows_end && poisoned[r] != 0;
      uint32_t lanes = __ballot_sync(~0u, lost);
#pragma unroll 1
      while (lanes) {
        const int of_warp = (__ffs(lanes) - 1) / 4;
        lanes &= ~(15u << of_warp * 4);
        redo_row(tile, stage, warp * 16 + r * 8 + of_warp);
      }
    }
    fence_async_proxy();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(shared + Shape::OUTPUT_FULL + 8 * (group * Shape::QUERY_STAGES + query_ring.stage()));
    }
    query_ring.advance();
  }

  __device__ __forceinline__ float* lse_of(const Tile& tile, int row) const {
    const int batch = tile.unit / schedule.packs, pack = tile.unit % schedule.packs;
    const int head = (pack << schedule.pack_shift) + (row & (1 << schedule.pack_shift) - 1);
    return p.lse + (int64_t(batch) * p.heads + head) * p.q_len + (row >> schedule.pack_shift);
  }

  __device__ __forceinline__ void redo_row(const Tile& tile, uint32_t stage, int of_group) const {
    const int lane = Attention::lane();
    const int row = tile.index * Shape::ROWS + group * 64 + of_group;
    const int batch = tile.unit / schedule.packs, pack = tile.unit % schedule.packs;
    const int head = (pack << schedule.pack_shift) + (row & (1 << schedule.pack_shift) - 1);
    const int position = row >> schedule.pack_shift;
    float columns[Shape::HEAD_DIM / 32];
    const float lse = attend_row<T, Shape::HEAD_DIM>(columns, p, batch, head, position, Keys(p).visible(position));
#pragma unroll
    for (int i = 0; i < Shape::HEAD_DIM / 32; i++) {
      const int chunk = (i % 2 * 4 + lane / 8) ^ of_group % 8;
      const T rounded = from_float<T>(columns[i]);
      asm volatile("st.shared.b16 [%0], %1;\n" ::"r"(stage + i / 2 * (Shape::ROWS * 128) + of_group * 128 +
                                                     chunk * 16 + lane % 8 * 2),
                   "h"(reinterpret_cast<const unsigned short&>(rounded))
                   : "memory");
    }
    if (p.lse && lane == 0) *lse_of(tile, row) = lse;
  }

  __device__ __forceinline__ void run() {
    // The first turn is the first warpgroup's.
    if (group == Shape::GROUPS - 1) named_arrive(1, 256);
#pragma unroll 1
    for (Tile tile = tiles.next(); tile.blocks >= 0;) {
      RowPair rows;
      barrier_wait(shared + Shape::QUERY_FULL + 8 * query_ring.stage(), query_ring.parity());
#pragma unroll
      for (int i = 0; i < OUTPUTS; i++) output[i] = 0.f;
      if (tile.blocks == 0) {
        finish(rows, tile);
        tile = tiles.next();
        continue;
      }
      query_ring.make_uniform();
      key_ring.make_uniform();
      value_ring.make_uniform();
      first_block(rows, tile);
      const int masked = first_masked(tile);
      int block = tile.blocks - 2;
#pragma unroll 1
      for (; block >= masked; block--) step<true>(rows, tile, block);
#pragma unroll 1
      for (; block >= 0; block--) step<false>(rows, tile, block);
      const Tile next = tiles.next();
      multiply_values();
      wgmma_wait<0>();
      pin(output);
      free_values();
      finish(rows, tile);
      tile = next;
    }
  }
};

template <class T, class Shape>
__device__ __forceinline__ void flash_prefill(
    const KfaAttentionParams& p, const KfaPrefillSchedule& schedule, const CUtensorMap& query_map,
    const CUtensorMap& key_map, const CUtensorMap& value_map, const CUtensorMap& output_map) {
  extern __shared__ uint8_t memory[];
  const uint32_t shared = (shared_address(memory) + 1023) & ~1023u;
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // shuffled, to look uniform
  if (threadIdx.x == 0) init_barriers<Shape>(shared);
  __syncthreads();

  const Keys keys(p);
  const TileReader tiles{shared + Shape::TILE_BOARD, {}};
  if (warp >= 4) {
    take_registers<Shape::MATH_REGISTERS>();
    Attention<T, Shape>(p, schedule, shared, warp, tiles).run();
    return;
  }
  give_registers<Shape::MOVE_REGISTERS>();
  if (warp == 0) {
    load_queries_and_keys<Shape>(p, schedule, query_map, key_map, shared, tiles);
  } else if (warp == 1) {
    load_values<Shape>(p, schedule, value_map, keys.count, shared, tiles);
  } else if (warp == 2) {
    store_outputs<Shape>(schedule, output_map, shared, tiles);
  } else if (threadIdx.x % 32 == 0) {
    hand_out_tiles<Shape::ROWS, Shape::KEYS>(p, schedule, keys, tiles.board);
  }
}

}  // namespace kfa
