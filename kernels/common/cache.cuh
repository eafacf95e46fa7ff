// Where a key lies: in a dense cache, a packed one, or a page. Offsets are 64-bit throughout.
#pragma once

#include "common/visible.cuh"

namespace kfa {

/// Finds the rows of one sequence's keys, or values, of one head.
struct CacheRows {
  KfaView view;
  int64_t head_offset;
  /// Null without pages.
  const int32_t* table;
  int page_size, pages;
  int cache_batch, cache_row, kv_rows;

  __device__ CacheRows(const KfaAttentionParams& p, const KfaView& view, const int32_t* table,
                       const Sequence& s, int batch, int head)
      : view(view),
        head_offset(head * view.head_stride),
        table(table),
        page_size(p.pages.size),
        pages(p.pages.count),
        cache_batch(s.cache_batch),
        cache_row(s.cache_row),
        kv_rows(p.lengths.kv_offsets ? p.lengths.kv_rows : 0) {
    if (table) this->table += p.pages.offsets ? p.pages.offsets[batch] : batch * p.pages.stride;
  }

  /// Elements from the cache's first to the key's first one; negative if the key has no place, as where
  /// an entry of the table names no page.
  __device__ __forceinline__ int64_t offset(int key) const {
    if (table) {
      const int page = table[key / page_size];
      if (page < 0 || page >= pages) return -1;
      return page * view.batch_stride + key % page_size * view.row_stride + head_offset;
    }
    const int64_t row = int64_t(cache_row) + key;
    if (cache_batch < 0 || row < 0 || (kv_rows && row >= kv_rows)) return -1;
    return cache_batch * view.batch_stride + row * view.row_stride + head_offset;
  }
};

}  // namespace kfa
