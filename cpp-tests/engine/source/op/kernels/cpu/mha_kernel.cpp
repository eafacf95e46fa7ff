// The engine's own standard attention, compiled only where no attention library is linked.
#include "op/kernels/cpu/mha_kernel.h"

#include <algorithm>
#include <cmath>

namespace kernel {
namespace {
// Turns `count` scores into probabilities.
void softmax(float* scores, int32_t count) {
  const float max = *std::max_element(scores, scores + count);
  float sum = 0.0f;
  for (int32_t t = 0; t < count; ++t) sum += scores[t] = std::exp(scores[t] - max);
  for (int32_t t = 0; t < count; ++t) scores[t] /= sum;
}
}  // namespace

void mha_kernel(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len, int32_t kv_dim,
                int32_t kv_mul, int32_t head_size, const tensor::Tensor& mha_out,
                const tensor::Tensor& query, const tensor::Tensor& score,
                const tensor::Tensor& key_cache, const tensor::Tensor& value_cache,
                base::DeviceType, CudaConfig*) {
  const int64_t dim = int64_t{head_num} * head_size;
  const int32_t q_len = static_cast<int32_t>(query.size() / dim);
  // Score rows that the storage holds per head: all query rows, or one that is used again.
  const int64_t score_rows = score.size() / (int64_t{head_num} * seq_len);
  const int64_t layer_offset = int64_t{layer_index} * seq_len * kv_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));

  for (int32_t row = 0; row < q_len; ++row) {
    const int32_t visible = pos - (q_len - 1) + row + 1;
    for (int32_t head = 0; head < head_num; ++head) {
      const int64_t kv_offset = layer_offset + int64_t{head / kv_mul} * head_size;
      const float* q = query.ptr<float>() + row * dim + int64_t{head} * head_size;
      const float* keys = key_cache.ptr<float>() + kv_offset;
      const float* values = value_cache.ptr<float>() + kv_offset;
      float* out = const_cast<float*>(mha_out.ptr<float>()) + row * dim + int64_t{head} * head_size;
      float* scores =
          const_cast<float*>(score.ptr<float>()) + (head * score_rows + row % score_rows) * seq_len;

      for (int32_t t = 0; t < visible; ++t) {
        const float* k = keys + int64_t{t} * kv_dim;
        float dot = 0.0f;
        for (int32_t i = 0; i < head_size; ++i) dot += q[i] * k[i];
        scores[t] = dot * scale;
      }
      softmax(scores, visible);
      std::fill(out, out + head_size, 0.0f);
      for (int32_t t = 0; t < visible; ++t) {
        const float* v = values + int64_t{t} * kv_dim;
        for (int32_t i = 0; i < head_size; ++i) out[i] += scores[t] * v[i];
      }
    }
  }
}
}  // namespace kernel
