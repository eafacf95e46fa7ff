#ifndef KFA_TESTS_SUPPORT_ORACLE_H_
#define KFA_TESTS_SUPPORT_ORACLE_H_
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kuiper_flash_attention/kfa.h"

namespace kfa_test {
// What attention is by its definition, in float64 and packed.
struct Expected {
  std::vector<double> output;  // [batch, q_len, heads, head_dim]
  std::vector<double> lse;     // [batch, heads, q_len]
};

// One head of one row of a view whose packed shape is [batch, rows, heads, head_dim].
inline const float* head_of(const kfa_tensor_view& view, int64_t rows, int64_t heads,
                            int64_t head_dim, int64_t b, int64_t row, int64_t head) {
  std::array<int64_t, 3> strides = {view.batch_stride, view.row_stride, view.head_stride};
  if (strides == std::array<int64_t, 3>{})
    strides = {rows * heads * head_dim, heads * head_dim, head_dim};
  return static_cast<const float*>(view.data) + b * strides[0] + row * strides[1] +
         head * strides[2];
}

// Straight from the definition; shares no code with the library.
inline Expected expected(const kfa_attention_desc& d) {
  const double scale =
      d.softmax_scale == 0 ? 1 / std::sqrt(double{1} * d.head_dim) : d.softmax_scale;
  const int64_t group = d.heads / d.kv_heads;
  Expected result;
  result.output.assign(int64_t{d.batch} * d.q_len * d.heads * d.head_dim, 0.0);
  result.lse.assign(int64_t{d.batch} * d.heads * d.q_len, -std::numeric_limits<double>::infinity());
  std::vector<double> scores;
  for (int64_t b = 0; b < d.batch; ++b) {
    for (int64_t head = 0; head < d.heads; ++head) {
      for (int64_t row = 0; row < d.q_len; ++row) {
        // The newest row sees every key, each older row one less.
        const int64_t keys = d.is_causal ? d.kv_len - (d.q_len - 1 - row) : d.kv_len;
        if (keys <= 0) continue;
        const float* q = head_of(d.query, d.q_len, d.heads, d.head_dim, b, row, head);
        scores.assign(keys, 0.0);
        double largest = -std::numeric_limits<double>::infinity();
        for (int64_t key = 0; key < keys; ++key) {
          const float* k = head_of(d.key, d.kv_len, d.kv_heads, d.head_dim, b, key, head / group);
          for (int64_t i = 0; i < d.head_dim; ++i) scores[key] += double{q[i]} * k[i];
          scores[key] *= scale;
          largest = std::fmax(largest, scores[key]);
        }
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - largest);
        double* out = &result.output[((b * d.q_len + row) * d.heads + head) * d.head_dim];
        for (int64_t key = 0; key < keys; ++key) {
          const float* v = head_of(d.value, d.kv_len, d.kv_heads, d.head_dim, b, key, head / group);
          for (int64_t i = 0; i < d.head_dim; ++i) out[i] += scores[key] / sum * v[i];
        }
        result.lse[(b * d.heads + head) * d.q_len + row] = largest + std::log(sum);
      }
    }
  }
  return result;
}
}  // namespace kfa_test
#endif  // KFA_TESTS_SUPPORT_ORACLE_H_
