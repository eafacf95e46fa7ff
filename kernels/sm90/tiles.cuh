// Which tile of rows comes next, and which keys its rows see.
#pragma once

#include "common/visible.cuh"
#include "params.h"
#include "sm90/barrier.cuh"
#include "sm90/schedule.h"

namespace kfa {

/// One unit's tile: `blocks` of keys are visible to its last row; -1 past the last tile.
struct Tile {
  int index, unit, blocks;
};

/// The keys of a problem, and which of them a position sees.
struct Keys {
  int count;
  /// A position sees keys below position + shift; where not causal, all.
  int shift;

  __device__ __forceinline__ explicit Keys(const KfaAttentionParams& p) {
    count = kfa::valid_keys(p);
    shift = p.causal ? count - p.q_len + 1 : 1 << 30;
  }
  __device__ __forceinline__ int visible(int position) const { return max(min(position + shift, count), 0); }
};

/// Units of a section take turns, the tiles that see most keys first.
template <int ROWS, int KEYS>
__device__ __forceinline__ Tile tile_at(
    int turn, const KfaAttentionParams& p, const KfaPrefillSchedule& schedule, const Keys& keys) {
  if (turn >= schedule.tiles) return {0, 0, -1};
  const int per_section = schedule.section * schedule.unit_tiles;
  const int section = turn / per_section;
  const int rest = turn - section * per_section;
  const int units = p.batch * schedule.packs;
  const int here = min(schedule.section, units - section * schedule.section);
  const int round = rest / here;
  Tile tile;
  tile.unit = section * schedule.section + rest - round * here;
  tile.index = schedule.unit_tiles - 1 - round;
  const int last = min((tile.index + 1) * ROWS, p.q_len << schedule.pack_shift) - 1;
  tile.blocks = (keys.visible(last >> schedule.pack_shift) + KEYS - 1) / KEYS;
  return tile;
}

/// The board that tiles are written on, two slots of 16 bytes, and its barriers.
constexpr int TILE_FULL = 32;
constexpr int TILE_EMPTY = 48;
constexpr int BOARD_BYTES = 64;

/// Hands the tiles to the block's other warps, one ahead of their need: the turns come from a counter
/// that all blocks share, or else are dealt, there and back, so that who gets a long one gets a short one.
template <int ROWS, int KEYS>
__device__ __forceinline__ void hand_out_tiles(
    const KfaAttentionParams& p, const KfaPrefillSchedule& schedule, const Keys& keys, uint32_t board) {
  const uint32_t full = board + TILE_FULL, empty = board + TILE_EMPTY;
  Ring<2> ring;
  int turn = blockIdx.x;
  for (int round = 1;; round++) {
    barrier_wait(empty + 8 * ring.stage(), ring.parity() ^ 1);
    const Tile tile = tile_at<ROWS, KEYS>(turn, p, schedule, keys);
    asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, 0};\n" ::"r"(board + 16 * ring.stage()), "r"(tile.index),
                 "r"(tile.unit), "r"(tile.blocks)
                 : "memory");
    barrier_arrive(full + 8 * ring.stage());
    if (tile.blocks < 0) break;
    // Not before all have taken this one: a turn claimed early is work that an idle block cannot take.
    barrier_wait(empty + 8 * ring.stage(), ring.parity());
    ring.advance();
    if (schedule.counters) {
      turn = gridDim.x + atomicAdd(schedule.counters, 1);
    } else {
      turn = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    }
  }
  if (schedule.counters && atomicAdd(schedule.counters + 1, 1) == gridDim.x - 1) {
    schedule.counters[0] = 0;
    schedule.counters[1] = 0;
  }
}

/// Where the other warps read them.
struct TileReader {
  uint32_t board;
  Ring<2> ring;

  /// By whole warps; one lane arrives.
  __device__ __forceinline__ Tile next() {
    barrier_wait(board + TILE_FULL + 8 * ring.stage(), ring.parity());
    Tile tile;
    asm volatile("{\n.reg .s32 unused;\nld.shared.v4.s32 {%0, %1, %2, unused}, [%3];\n}\n"
                 : "=r"(tile.index), "=r"(tile.unit), "=r"(tile.blocks)
                 : "r"(board + 16 * ring.stage())
                 : "memory");
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(board + TILE_EMPTY + 8 * ring.stage());
    ring.advance();
    // Shuffled, so that loop bounds look uniform.
    tile.blocks = __shfl_sync(~0u, tile.blocks, 0);
    return tile;
  }
};

}  // namespace kfa
