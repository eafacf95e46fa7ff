#include <cmath>

#include "op/kernels/cpu/cpu_kernels.h"

namespace kernel {
namespace {
// The rows of one tensor; row i is at position pos + i.
void rotate_rows(const tensor::Tensor& rows, int32_t dim, int32_t head_size, int32_t pos,
                 const float* sin_cache, const float* cos_cache) {
  const int32_t pairs = head_size / 2;
  float* x = const_cast<float*>(rows.ptr<float>());
  const int64_t row_num = rows.size() / dim;
  for (int64_t row = 0; row < row_num; ++row, x += dim) {
    const float* sin = sin_cache + (pos + row) * pairs;
    const float* cos = cos_cache + (pos + row) * pairs;
    for (int32_t i = 0; i < dim / 2; ++i) {
      const float x0 = x[2 * i];
      const float x1 = x[2 * i + 1];
      x[2 * i] = x0 * cos[i % pairs] - x1 * sin[i % pairs];
      x[2 * i + 1] = x0 * sin[i % pairs] + x1 * cos[i % pairs];
    }
  }
}
}  // namespace

void rope_kernel_cpu(int32_t dim, int32_t kv_dim, int32_t head_size, const tensor::Tensor& query,
                     const tensor::Tensor& key, const tensor::Tensor& pos,
                     const tensor::Tensor& sin_cache, const tensor::Tensor& cos_cache,
                     cudaStream_t) {
  const float* sin = sin_cache.ptr<float>();
  const float* cos = cos_cache.ptr<float>();
  rotate_rows(query, dim, head_size, pos.index<int32_t>(0), sin, cos);
  rotate_rows(key, kv_dim, head_size, pos.index<int32_t>(0), sin, cos);
}

void rope_cache_kernel_cpu(int32_t head_size, int32_t seq_len, const tensor::Tensor& sin_cache,
                           const tensor::Tensor& cos_cache) {
  constexpr float kTheta = 10000.0f;
  const int32_t pairs = head_size / 2;
  float* sin = const_cast<float*>(sin_cache.ptr<float>());
  float* cos = const_cast<float*>(cos_cache.ptr<float>());
  for (int32_t i = 0; i < pairs; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_size);
    const float frequency = 1.0f / std::pow(kTheta, exponent);
    for (int64_t pos = 0; pos < seq_len; ++pos) {
      const float angle = static_cast<float>(pos) * frequency;
      sin[pos * pairs + i] = std::sin(angle);
      cos[pos * pairs + i] = std::cos(angle);
    }
  }
}
}  // namespace kernel
