// Which keys a row sees: always one contiguous range. src/problem/visible.rs has the same formulas;
// visible_cases.inc has the cases that both are tested with.
#pragma once

#include "params.h"

#ifdef __CUDACC__
#define KFA_BOTH __host__ __device__ __forceinline__
#else
#define KFA_BOTH inline
#endif

namespace kfa {

KFA_BOTH int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
KFA_BOTH int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/// Keys of a sequence that are valid: those up to the newest row's position, wherever that is told.
/// Positions outside the cache count as its ends: no key, or all.
KFA_BOTH int valid_keys(const KfaAttentionParams& p) {
  return p.pos ? static_cast<int>(least(most(*p.pos, -1), p.kv_len - 1)) + 1 : p.kv_len;
}

/// One sequence of a batch, its lengths resolved.
struct Sequence {
  /// The query's batch entry, and the row of it that holds row 0.
  int query_batch, query_row, q_len;
  /// The cache's batch entry, negative if there is none, and the row of it that holds key 0.
  int cache_batch, cache_row;
  /// The valid keys: kv_first to kv_end - 1.
  int kv_first, kv_end;
  /// Row 0's place among all query rows of the call.
  int64_t span_row;
};

/// Numbers that the description's bounds forbid count as the bounds: nothing outside is ever touched.
KFA_BOTH Sequence sequence_of(const KfaAttentionParams& p, int batch) {
  const KfaLengths& l = p.lengths;
  const auto within = [](int64_t x, int64_t bound) { return static_cast<int>(most(least(x, bound), 0)); };
  Sequence s;
  s.query_batch = l.query_offsets ? 0 : batch;
  s.query_row = l.query_offsets ? l.query_offsets[batch] : 0;
  s.cache_row = l.kv_offsets ? l.kv_offsets[batch] : 0;
  int64_t q_len = p.q_len, keys = valid_keys(p);
  if (l.query_offsets) {
    q_len = least(q_len, int64_t(l.query_offsets[batch + 1]) - s.query_row);
    q_len = s.query_row < 0 ? 0 : least(q_len, l.query_rows - int64_t(s.query_row));
  }
  if (l.kv_offsets) keys = least(keys, int64_t(l.kv_offsets[batch + 1]) - s.cache_row);
  s.q_len = within(l.q_lens ? l.q_lens[batch] : q_len, q_len);
  s.kv_end = within(l.kv_lens ? l.kv_lens[batch] : keys, keys);
  s.kv_first = within(l.kv_starts ? l.kv_starts[batch] : 0, s.kv_end);
  s.cache_batch = l.kv_offsets ? 0 : l.cache_index ? l.cache_index[batch] : batch;
  if (l.cache_index && s.cache_batch >= l.cache_batch) s.cache_batch = -1;
  s.span_row = l.query_offsets ? s.query_row : int64_t(batch) * p.q_len;
  return s;
}

struct Range {
  int first, end;
};

/// The position of a row: the index of its own key.
KFA_BOTH int64_t position_of(const KfaVisible& v, const Sequence& s, int row) {
  return v.causal == 2 ? row : int64_t(s.kv_end) - s.q_len + row;
}

/// The keys that a row sees whose span ends there.
KFA_BOTH Range row_range(const KfaVisible& v, const Sequence& s, int row, int64_t span_end) {
  const int64_t own = position_of(v, s, row);
  int64_t first = s.kv_first, end = s.kv_end;
  if (v.causal) {
    end = least(end, most(span_end, own + 1));
  } else if (v.window_right > 0) {
    end = least(end, own + 1 + v.window_right);
  }
  if (v.window > 0) first = most(first, own + 1 - v.window);
  if (v.chunk > 0) {
    const int64_t into = own % v.chunk;
    const int64_t chunk = own - (into < 0 ? into + v.chunk : into);
    first = most(first, chunk);
    end = least(end, chunk + v.chunk);
  }
  first = least(first, s.kv_end);
  return {static_cast<int>(first), static_cast<int>(most(first, end))};
}

/// The keys that a row sees.
KFA_BOTH Range row_range(const KfaVisible& v, const Sequence& s, int row) {
  return row_range(v, s, row, v.span_ends ? v.span_ends[s.span_row + row] : 0);
}

}  // namespace kfa
