// The device's side of what a row sees, as host code, against the cases of both sides.
#include "common/visible.cuh"

#include <cstdio>

static int cases = 0, failures = 0;

static void check(const KfaVisible& visible, long span_end, const kfa::Sequence& sequence, int row, int first, int end) {
  const kfa::Range got = kfa::row_range(visible, sequence, row, span_end);
  const bool empty = got.first >= got.end;
  cases++;
  if (empty ? first != end : got.first != first || got.end != end) {
    failures++;
    std::printf("causal %d window %d right %d chunk %d span %ld, %d rows, keys %d to %d, row %d: %d to %d, expected %d to %d\n",
                visible.causal, visible.window, visible.window_right, visible.chunk, span_end, sequence.q_len,
                sequence.kv_first, sequence.kv_end, row, got.first, got.end, first, end);
  }
}

int main() {
#define KFA_VISIBLE_ROW(causal, window, right, chunk, span_end, q_len, kv_first, kv_end, row, first, end) \
  check({causal, window, right, chunk, nullptr}, span_end, {0, 0, q_len, 0, 0, kv_first, kv_end, 0}, row, first, end);
#include "common/visible_cases.inc"

  // Numbers beyond the bounds count as the bounds.
  KfaAttentionParams p = {};
  p.q_len = 4;
  p.kv_len = 9;
  const int32_t positions[] = {INT32_MIN, -1, 3, 9, INT32_MAX}, keys[] = {0, 0, 4, 9, 9};
  for (int i = 0; i < 5; i++) {
    p.pos = &positions[i];
    cases++;
    failures += kfa::valid_keys(p) != keys[i];
  }
  p.pos = nullptr;
  const int32_t lens[] = {INT32_MIN, INT32_MAX};
  p.lengths.kv_lens = p.lengths.q_lens = p.lengths.kv_starts = lens;
  for (int batch = 0; batch < 2; batch++) {
    const kfa::Sequence s = kfa::sequence_of(p, batch);
    cases++;
    failures += s.q_len != 4 * batch || s.kv_end != 9 * batch || s.kv_first != s.kv_end;
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures != 0 || cases < 40;
}
