// Flash decode: a few query rows against a long cache, at the speed of memory.
//
// A unit is up to `Core::ROWS` query rows (q_len x the heads that share a KV head) of one sequence:
// they read each key and value once, together. Its keys are cut into tiles, dealt in turn to all
// warps of all blocks of the unit. A warp streams its tiles through its own ring in shared memory
// and never waits for another warp until its tiles are done: no barrier stands between memory and
// arithmetic. Then the states (maximum, sum, weighted values) meet in a fixed order: the warps of a
// block in shared memory, the blocks of a cluster through each other's shared memory, clusters
// through the workspace and a second kernel (flash_decode_combine.cu).
// docs/cuda-decode.md has the reasons and the numbers.
#pragma once

#include <cmath>

#include "common/cluster.cuh"
#include "common/copy.cuh"
#include "common/dtype.cuh"
#include "common/listed.cuh"
#include "common/softmax.cuh"
#include "common/visible.cuh"
#include "params.h"

namespace kfa::decode {

/// Tiles under way per warp: one being used, the others in flight.
constexpr int STAGES = 2;
constexpr int MAX_WARPS = 8;
constexpr int MAX_CLUSTER = 16;

/// The factor that brings sums taken under maximum `from` to maximum `to`; no keys at all give 0.
__device__ __forceinline__ float rescale(float from, float to) {
  return from == -INFINITY ? 0.f : exp2_approx(from - to);
}

/// What a block works on.
struct Unit {
  int batch;
  int kv_head;
  /// Of the q_len x group rows that share the KV head, the first one here, and how many.
  int first_row;
  int rows;
  int group;
  float inverse_group;
  /// Valid keys of the sequence.
  int keys;
  /// Keys that every row sees.
  int common_keys;
  /// Per row, the keys that it sees; rows of padding see what the last one sees.
  const int* limits;
  const KfaAttentionParams* p;

  __device__ __forceinline__ int position(int row) const {
    // (first_row + row) / group in few instructions: exact, as rows are far fewer than 2^20.
    return static_cast<int>((first_row + row + 0.5f) * inverse_group);
  }
  __device__ __forceinline__ int head(int row) const {
    return kv_head * group + first_row + row - position(row) * group;
  }
  /// Keys that the rows of a query position see; may be negative.
  __device__ __forceinline__ int limit_at(int position) const {
    return p->causal ? keys - (p->q_len - 1) + position : keys;
  }
  template <class T>
  __device__ __forceinline__ T* at(const KfaView& view, int row) const {
    return static_cast<T*>(view.data) + batch * view.batch_stride +
           position(row) * view.row_stride + head(row) * view.head_stride;
  }
};

/// One warp's copies of tiles of `KEYS` rows of `DIM` elements, each row on `PITCH` bytes: an odd
/// number of 16-byte chunks, so that a column of 8 rows lies in distinct banks.
template <class T, int DIM, int KEYS>
struct Stream {
  static constexpr int VECTOR = 16 / sizeof(T);
  static constexpr int CHUNKS = DIM / VECTOR;
  static constexpr int PITCH = (CHUNKS + 1) * 16;
  static constexpr int BYTES = KEYS * PITCH;
  /// Lanes that share a row, a power of two.
  static constexpr int LANES = CHUNKS > 16 ? 32 : CHUNKS > 8 ? 16 : 8;
  static constexpr int PASS_ROWS = 32 / LANES;
  static constexpr int PASS_CHUNKS = (CHUNKS + LANES - 1) / LANES;
  static_assert(CHUNKS % 2 == 0 && KEYS % PASS_ROWS == 0, "a pass of the warp copies whole rows");

  const T* head;
  int64_t row_stride;
  int head_dim;
  bool aligned;

  __device__ __forceinline__ Stream(const KfaView& view, const Unit& unit)
      : head(static_cast<const T*>(view.data) + unit.batch * view.batch_stride +
             unit.kv_head * view.head_stride),
        row_stride(view.row_stride),
        head_dim(unit.p->head_dim) {
    aligned = (reinterpret_cast<uintptr_t>(head) | row_stride * sizeof(T) | head_dim * sizeof(T)) %
                  16 == 0;
  }

  /// Starts the copy of the rows from `key` on; rows from `keys` on become zero. What lies in
  /// columns past head_dim stays.
  __device__ __forceinline__ void copy(uint32_t to, int key, int keys) const {
    const int left = keys - key;
    if (left <= 0) return;
    const int lane = threadIdx.x % 32;
    const T* from = head + key * row_stride;
    if (!aligned) {
      copy_elements(to, from, row_stride, head_dim, left);
      return;
    }
    const int row = lane / LANES;
    const int chunk = lane % LANES;
    from += row * row_stride + chunk * VECTOR;
    to += row * PITCH + chunk * 16;
    const int64_t step = PASS_ROWS * row_stride;
    const int columns = head_dim - chunk * VECTOR;
    if (left >= KEYS) {
#pragma unroll
      for (int pass = 0; pass < KEYS / PASS_ROWS; pass++, from += step) {
#pragma unroll
        for (int i = 0; i < PASS_CHUNKS; i++) {
          if (columns > i * LANES * VECTOR) {
            copy_chunk(to + pass * PASS_ROWS * PITCH + i * LANES * 16, from + i * LANES * VECTOR);
          }
        }
      }
    } else {
#pragma unroll 1
      for (int at = row; at < KEYS; at += PASS_ROWS, from += step, to += PASS_ROWS * PITCH) {
#pragma unroll
        for (int i = 0; i < PASS_CHUNKS; i++) {
          if (columns <= i * LANES * VECTOR) continue;
          if (at < left) {
            copy_chunk(to + i * LANES * 16, from + i * LANES * VECTOR);
          } else {
            clear(to + i * LANES * 16);
          }
        }
      }
    }
  }

  __device__ static __forceinline__ void copy_chunk(uint32_t to, const T* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n" ::"r"(to), "l"(from)
                 : "memory");
  }

  /// Element by element: any address will do.
  __device__ static __noinline__ void copy_elements(
      uint32_t to, const T* from, int64_t row_stride, int head_dim, int left) {
    T* const tile = static_cast<T*>(__cvta_shared_to_generic(to));
    // Enough loads in flight, in little code.
#pragma unroll(DIM > 128 ? 1 : 4)
    for (int row = 0; row < KEYS; row++) {
#pragma unroll
      for (int i = 0; i < DIM / 32; i++) {
        const int d = threadIdx.x % 32 + i * 32;
        if (d >= head_dim) continue;
        tile[row * (PITCH / sizeof(T)) + d] =
            row < left ? from[row * row_stride + d] : from_float<T>(0.f);
      }
    }
  }

  __device__ static __forceinline__ void clear(uint32_t at) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};\n" ::"r"(at), "r"(0) : "memory");
  }
};

/// Where a warp leaves its state for the block: rows of sums, then maxima, then denominators.
template <int ROWS, int DIM>
struct State {
  static constexpr int PITCH = DIM + 4;
  static constexpr int BYTES = (ROWS * PITCH + 2 * ROWS) * 4;
  float* base;
  __device__ __forceinline__ float* sums(int row) const { return base + row * PITCH; }
  __device__ __forceinline__ float& max(int row) const { return base[ROWS * PITCH + row]; }
  __device__ __forceinline__ float& denominator(int row) const {
    return base[ROWS * PITCH + ROWS + row];
  }
};

/// Shared memory of a block: rings (later states) of the warps, queries, limits, what cluster peers send.
template <class Core>
struct Layout {
  using Keys = typename Core::Keys;
  static constexpr int RING = 2 * STAGES * Keys::BYTES;
  static constexpr int WARP = RING > Core::StateView::BYTES ? RING : Core::StateView::BYTES;
  static constexpr int QUERY = Core::ROWS * Core::QUERY_PITCH * sizeof(typename Core::Query);
  static constexpr int LIMITS = (Core::ROWS + 3) / 4 * 16;
  static constexpr int INBOX = Core::ROWS * Core::DIM * 4 + MAX_CLUSTER * Core::ROWS * 8;
  static_assert(WARP % 16 == 0 && QUERY % 16 == 0, "every part starts on 16 bytes");
};

/// Writes four columns of a row: to the output, or to the workspace if clusters remain to merge.
template <class Query>
__device__ __forceinline__ void emit(
    const Unit& unit, int row, int column, float4 sums, float max, float denominator, int part, int parts) {
  const KfaAttentionParams& p = *unit.p;
  const int columns = min(p.head_dim - column, 4);
  const float x[4] = {sums.x, sums.y, sums.z, sums.w};
  if (parts > 1) {
    const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.q_len;
    const int64_t index =
        ((static_cast<int64_t>(unit.batch) * p.heads + unit.head(row)) * p.q_len + unit.position(row)) * parts + part;
    float* to = p.workspace + index * p.head_dim + column;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i < columns) to[i] = x[i];
    }
    if (column == 0) {
      float* statistics = p.workspace + rows * parts * p.head_dim + index * 2;
      statistics[0] = max;
      statistics[1] = denominator;
    }
    return;
  }
  const float inverse = denominator == 0.f ? 0.f : 1.f / denominator;
  Query* to = unit.at<Query>(p.output, row) + column;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (i < columns) to[i] = from_float<Query>(x[i] * inverse);
  }
  if (column == 0 && p.lse) {
    p.lse[(static_cast<int64_t>(unit.batch) * p.heads + unit.head(row)) * p.q_len + unit.position(row)] =
        denominator == 0.f ? -INFINITY : (max + log2f(denominator)) * LN_2;
  }
}

/// Merges the states of the block's warps, then of the cluster's blocks, and writes the result.
template <class Core>
__device__ __forceinline__ void merge(const Unit& unit, unsigned char* shared, int split) {
  using View = typename Core::StateView;
  constexpr int QUADS = Core::DIM / 4;
  constexpr int ELEMENTS = Core::ROWS * QUADS;
  const int warps = blockDim.x / 32;
  const int cluster = cluster_size();
  const int rank = cluster_rank();
  const int parts = unit.p->splits / cluster;
  const int part = split / cluster;
  const auto state = [&](int warp) {
    return View{reinterpret_cast<float*>(shared + warp * Layout<Core>::WARP)};
  };
  unsigned char* inbox = shared + warps * Layout<Core>::WARP + Layout<Core>::QUERY + Layout<Core>::LIMITS;
  float4* inbox_sums = reinterpret_cast<float4*>(inbox);
  float2* inbox_statistics = reinterpret_cast<float2*>(inbox + ELEMENTS * 16);
  // The block of each rank finishes its own share of the unit's elements.
  const int share = ELEMENTS / cluster;

  __syncthreads();  // every warp has left its state
  cluster_wait();
#pragma unroll 1
  for (int i = threadIdx.x; i < ELEMENTS; i += blockDim.x) {
    const int row = i / QUADS;
    const int column = i % QUADS * 4;
    if (row >= unit.rows || column >= unit.p->head_dim) continue;
    float max = state(0).max(row);
    for (int w = 1; w < warps; w++) max = fmaxf(max, state(w).max(row));
    float4 sums = {0, 0, 0, 0};
    float denominator = 0;
#pragma unroll 4
    for (int w = 0; w < warps; w++) {
      const float weight = rescale(state(w).max(row), max);
      const float4 x = *reinterpret_cast<const float4*>(state(w).sums(row) + column);
      sums.x += weight * x.x;
      sums.y += weight * x.y;
      sums.z += weight * x.z;
      sums.w += weight * x.w;
      denominator += weight * state(w).denominator(row);
    }
    if (cluster == 1) {
      emit<typename Core::Output>(unit, row, column, sums, max, denominator, part, parts);
    } else {
      const int owner = i * cluster / ELEMENTS;
      const uint32_t to = shared_address(inbox_sums + rank * share + i - owner * share);
      store_to_peer(peer_address(to, owner), sums);
      if (column == 0) {
        const uint32_t statistics = shared_address(inbox_statistics + rank * Core::ROWS + row);
#pragma unroll 1
        for (int peer = 0; peer < cluster; peer++) {
          store_to_peer(peer_address(statistics, peer), float2{max, denominator});
        }
      }
    }
  }
  if (cluster == 1) return;
  release_successor();

  cluster_arrive();
  cluster_wait();
#pragma unroll 1
  for (int i = threadIdx.x; i < share; i += blockDim.x) {
    const int row = (rank * share + i) / QUADS;
    const int column = (rank * share + i) % QUADS * 4;
    if (row >= unit.rows || column >= unit.p->head_dim) continue;
    float max = -INFINITY;
    for (int peer = 0; peer < cluster; peer++) {
      max = fmaxf(max, inbox_statistics[peer * Core::ROWS + row].x);
    }
    float4 sums = {0, 0, 0, 0};
    float denominator = 0;
#pragma unroll 4
    for (int peer = 0; peer < cluster; peer++) {
      const float2 statistics = inbox_statistics[peer * Core::ROWS + row];
      const float weight = rescale(statistics.x, max);
      const float4 x = inbox_sums[peer * share + i];
      sums.x += weight * x.x;
      sums.y += weight * x.y;
      sums.z += weight * x.z;
      sums.w += weight * x.w;
      denominator += weight * statistics.y;
    }
    emit<typename Core::Output>(unit, row, column, sums, max, denominator, part, parts);
  }
}

/// A block's query rows on their way from global to shared memory: eight columns per thread, padded
/// with zeros. In two steps, so that they are asked for before the flood of keys, which they would
/// otherwise wait behind, and stored after it is under way.
template <class Core>
struct QueryLoad {
  using T = typename Core::Output;
  static constexpr int PIECES = Core::ROWS * Core::DIM / 8;
  T first[8];

  __device__ __forceinline__ static void load(T (&to)[8], const Unit& unit, int piece) {
    const int row = piece / (Core::DIM / 8);
    const int column = piece % (Core::DIM / 8) * 8;
    const int columns = row < unit.rows ? unit.p->head_dim - column : 0;
    const T* from = unit.at<T>(unit.p->query, min(row, unit.rows - 1)) + column;
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = i < columns ? from[i] : from_float<T>(0.f);
  }

  __device__ __forceinline__ static void store(T* query, const T (&from)[8], int piece) {
    T* to = query + piece / (Core::DIM / 8) * Core::QUERY_PITCH + piece % (Core::DIM / 8) * 8;
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = from[i];
  }

  __device__ __forceinline__ void start(const Unit& unit) {
    if (threadIdx.x < PIECES) load(first, unit, threadIdx.x);
  }

  __device__ __forceinline__ void finish(const Unit& unit, T* query) const {
    if (threadIdx.x < PIECES) store(query, first, threadIdx.x);
#pragma unroll 1
    for (int piece = threadIdx.x + blockDim.x; piece < PIECES; piece += blockDim.x) {
      T next[8];
      load(next, unit, piece);
      store(query, next, piece);
    }
  }
};

/// The whole kernel. Grid: splits (in whole clusters), KV heads x tiles of rows, batch.
template <class Core>
__device__ __forceinline__ void run(const KfaAttentionParams& p) {
  using Keys = typename Core::Keys;
  using Sizes = Layout<Core>;
  extern __shared__ __align__(16) unsigned char shared[];
  // Through a shuffle, so that the compiler knows it to be the same in the whole warp.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const int warps = blockDim.x / 32;
  const int split = blockIdx.x;

  cluster_arrive();  // nothing may be sent to a peer before it runs
  Unit unit;
  unit.p = &p;
  // An integer, so rounding repairs the approximate division.
  unit.group = static_cast<int>(__fdividef(p.heads, p.kv_heads) + 0.5f);
  unit.inverse_group = __fdividef(1.f, unit.group);
  const int all_rows = p.q_len * unit.group;
  const int row_tiles = (all_rows + Core::ROWS - 1) / Core::ROWS;
  unit.batch = blockIdx.z;
  unit.kv_head = row_tiles == 1 ? blockIdx.y : blockIdx.y / row_tiles;
  unit.first_row = (blockIdx.y - unit.kv_head * row_tiles) * Core::ROWS;
  unit.rows = min(all_rows - unit.first_row, Core::ROWS);
  const Keys keys(p.key, unit);
  const Keys values(p.value, unit);
  const uint32_t ring = shared_address(shared) + warp * Sizes::WARP;
  typename Core::Query* query = reinterpret_cast<typename Core::Query*>(shared + warps * Sizes::WARP);
  int* limits = reinterpret_cast<int*>(shared + warps * Sizes::WARP + Sizes::QUERY);
  unit.limits = limits;
  if (p.head_dim < Core::DIM) {
    // Columns past head_dim are never copied to, but multiplied: clear them once.
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < Sizes::RING / 16; i += 32) Keys::clear(ring + i * 16);
    __syncwarp();
  }

  // Tiles are dealt to all warps of all splits in turn, so that together they read one moving
  // window of memory, and share whatever number of keys turns out to be valid.
  const int stride = p.splits * warps * Core::KEYS;
  int key = (split * warps + warp) * Core::KEYS;
  wait_for_predecessor();
  // The successor's blocks may take their places as ours leave them, ready to start at our end.
  // Clusters must not: they would be packed into what room is left, unevenly.
  if (cluster_size() == 1) release_successor();
  QueryLoad<Core> query_load;
  query_load.start(unit);
  unit.keys = valid_keys(p);
  unit.common_keys = unit.limit_at(unit.position(0));
  int next = key;
  int stage = 0;
  Core core(unit, query);
  // The first STAGES rounds only start copies: one code for both, as a short kernel's time goes
  // into fetching instructions.
#pragma unroll 1
  for (int round = 0;; round++) {
    const uint32_t tile = ring + stage * 2 * Keys::BYTES;
    if (round == STAGES) {
      query_load.finish(unit, query);
      if (threadIdx.x < Core::ROWS) {
        const int row = min(static_cast<int>(threadIdx.x), unit.rows - 1);
        limits[threadIdx.x] = unit.limit_at(unit.position(row));
      }
      __syncthreads();
      core.take_query();
    }
    if (round >= STAGES) {
      if (key >= unit.keys) break;
      copy_wait<2 * STAGES - 1>();
      __syncwarp();
      core.score(tile, key);
      __syncwarp();
    }
    keys.copy(tile, next, unit.keys);
    copy_commit();
    if (round >= STAGES) {
      core.weigh(key);
      copy_wait<2 * STAGES - 1>();
      __syncwarp();
      core.accumulate(tile + Keys::BYTES, key);
      __syncwarp();
      key += stride;
    }
    values.copy(tile + Keys::BYTES, next, unit.keys);
    copy_commit();
    next += stride;
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
  core.leave(typename Core::StateView{reinterpret_cast<float*>(shared + warp * Sizes::WARP)});
  merge<Core>(unit, shared, split);
}

}  // namespace kfa::decode

/// A kernel of flash_decode.list; rR: query rows that share a KV head, per block.
#define KFA_FLASH_DECODE(types, Core, T, dim, rows, keys, warp, block, peer)                      \
  extern "C" __global__ void __launch_bounds__(32 * kfa::decode::MAX_WARPS)                       \
      kfa_flash_decode_##types##_d##dim##_r##rows(const __grid_constant__ KfaAttentionParams p) { \
    using Tile = kfa::decode::Core<T, dim, rows, keys>;                                           \
    using Sizes = kfa::decode::Layout<Tile>;                                                      \
    static_assert(kfa::Listed<Sizes::WARP, warp>::OK);                                            \
    static_assert(kfa::Listed<Sizes::QUERY + Sizes::LIMITS, block>::OK);                          \
    static_assert(kfa::Listed<Sizes::INBOX, peer>::OK);                                           \
    kfa::decode::run<Tile>(p);                                                                    \
  }
