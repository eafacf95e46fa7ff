// The warps of a block that move its data; `Shape` is a WarpgroupTile.
#pragma once

#include "sm90/tiles.cuh"
#include "sm90/tma.cuh"

namespace kfa {

template <class Shape>
__device__ __forceinline__ void load_queries_and_keys(
    const KfaAttentionParams& p, const KfaPrefillSchedule& schedule, const CUtensorMap& queries,
    const CUtensorMap& keys, uint32_t shared, TileReader tiles) {
  const bool leader = threadIdx.x % 32 == 0;
  const uint64_t keep = keep_in_l2(), once = read_once();
  const int pack_groups = p.heads / p.kv_heads >> schedule.pack_shift;
  Ring<Shape::QUERY_STAGES> query_ring;
  Ring<Shape::KEY_STAGES> ring;
#pragma unroll 1
  for (Tile tile = tiles.next(); tile.blocks >= 0; tile = tiles.next()) {
    const int batch = tile.unit / schedule.packs, pack = tile.unit % schedule.packs;
    barrier_wait(shared + Shape::QUERY_EMPTY + 8 * query_ring.stage(), query_ring.parity() ^ 1);
    if (leader) {
      const uint32_t full = shared + Shape::QUERY_FULL + 8 * query_ring.stage();
      barrier_expect(full, Shape::QUERY_BYTES);
#pragma unroll
      for (int i = 0; i < Shape::PANELS; i++) {
        tma_load(shared + query_ring.stage() * Shape::QUERY_BYTES + i * Shape::ROWS * 128, queries, full, 64 * i, 0,
                 tile.index * Shape::ROWS >> schedule.pack_shift, pack, batch, once);
      }
    }
    query_ring.advance();
#pragma unroll 1
    for (int block = tile.blocks - 1; block >= 0; block--) {
      barrier_wait(shared + Shape::KEY_EMPTY + 8 * ring.stage(), ring.parity() ^ 1);
      if (leader) {
        const uint32_t full = shared + Shape::KEY_FULL + 8 * ring.stage();
        barrier_expect(full, Shape::BLOCK_BYTES);
#pragma unroll
        for (int i = 0; i < Shape::PANELS; i++) {
          tma_load(shared + Shape::KEY_OFFSET + ring.stage() * Shape::BLOCK_BYTES + i * Shape::KEYS * 128, keys, full,
                   64 * i, block * Shape::KEYS, pack / pack_groups, batch, keep);
        }
      }
      ring.advance();
    }
  }
}

/// Rows from `keys` to the end of its block lie in the cache but are no keys: they may hold anything,
/// and zero times anything must be zero.
template <class Shape>
__device__ __forceinline__ void load_values(
    const KfaAttentionParams& p, const KfaPrefillSchedule& schedule, const CUtensorMap& values, int keys,
    uint32_t shared, TileReader tiles) {
  const int lane = threadIdx.x % 32;
  const uint64_t keep = keep_in_l2();
  const int pack_groups = p.heads / p.kv_heads >> schedule.pack_shift;
  Ring<Shape::VALUE_STAGES> ring;
  Ring<1> ragged_ring;
#pragma unroll 1
  for (Tile tile = tiles.next(); tile.blocks >= 0; tile = tiles.next()) {
    const int batch = tile.unit / schedule.packs, pack = tile.unit % schedule.packs;
#pragma unroll 1
    for (int block = tile.blocks - 1; block >= 0; block--) {
      barrier_wait(shared + Shape::VALUE_EMPTY + 8 * ring.stage(), ring.parity() ^ 1);
      const uint32_t stage = shared + Shape::VALUE_OFFSET + ring.stage() * Shape::BLOCK_BYTES;
      const uint32_t full = shared + Shape::VALUE_FULL + 8 * ring.stage();
      const bool ragged = p.pos && (block + 1) * Shape::KEYS > keys;
      if (lane == 0) {
        const uint32_t loaded = ragged ? shared + Shape::VALUE_RAGGED : full;
        barrier_expect(loaded, Shape::BLOCK_BYTES);
#pragma unroll
        for (int i = 0; i < Shape::PANELS; i++) {
          tma_load(stage + i * Shape::KEYS * 128, values, loaded, 64 * i, block * Shape::KEYS, pack / pack_groups,
                   batch, keep);
        }
      }
      if (ragged) {
        barrier_wait(shared + Shape::VALUE_RAGGED, ragged_ring.parity());
        ragged_ring.advance();
        const int first = keys - block * Shape::KEYS;
#pragma unroll 1
        for (int i = 0; i < Shape::PANELS; i++) {
#pragma unroll 1
          for (int at = first * 128 + lane * 16; at < Shape::KEYS * 128; at += 512) {
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};\n" ::"r"(stage + i * Shape::KEYS * 128 + at),
                         "r"(0)
                         : "memory");
          }
        }
        fence_async_proxy();
        __syncwarp();
        if (lane == 0) barrier_arrive(full);
      }
      ring.advance();
    }
  }
}

template <class Shape>
__device__ __forceinline__ void store_outputs(
    const KfaPrefillSchedule& schedule, const CUtensorMap& outputs, uint32_t shared, TileReader tiles) {
  const bool leader = threadIdx.x % 32 == 0;
  Ring<Shape::QUERY_STAGES> ring;
#pragma unroll 1
  for (Tile tile = tiles.next(); tile.blocks >= 0; tile = tiles.next()) {
    const int batch = tile.unit / schedule.packs, pack = tile.unit % schedule.packs;
    const uint32_t stage = shared + ring.stage() * Shape::QUERY_BYTES;
#pragma unroll 1
    for (int group = 0; group < Shape::GROUPS; group++) {
      barrier_wait(shared + Shape::OUTPUT_FULL + 8 * (group * Shape::QUERY_STAGES + ring.stage()), ring.parity());
      if (leader) {
#pragma unroll
        for (int i = 0; i < Shape::PANELS; i++) {
          tma_store(outputs, stage + i * Shape::ROWS * 128 + group * 64 * 128, 64 * i, 0,
                    tile.index * Shape::ROWS + group * 64 >> schedule.pack_shift, pack, batch);
        }
        tma_commit();
      }
    }
    if (leader) {
      tma_wait_read();
      barrier_arrive(shared + Shape::QUERY_EMPTY + 8 * ring.stage());
    }
    ring.advance();
  }
}

}  // namespace kfa
