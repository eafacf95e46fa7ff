// What a prefill launch tells besides the problem: mirrors `Schedule` of
// src/cuda/flash_prefill_sm90.rs; both sides assert the size.
#pragma once

#include <cstdint>

/// The problem's rows as tiles. A row is `position * pack + head of the pack`: so many query heads of a
/// group share a tile. A unit is a sequence and a pack.
struct KfaPrefillSchedule {
  /// Two zeros, which the kernel leaves zero: tiles handed out, blocks done. Null: tiles are dealt.
  int32_t* counters;
  /// log2 of the pack, and packs per sequence.
  int32_t pack_shift;
  int32_t packs;
  /// Tiles of a unit, and of all units.
  int32_t unit_tiles;
  int32_t tiles;
  /// Units that are walked together, their keys and values sharing the L2 cache.
  int32_t section;
  /// The factor of scores, in powers of two: not negative.
  float scale;
};

static_assert(sizeof(KfaPrefillSchedule) == 32, "keep in step with src/cuda/flash_prefill_sm90.rs");
