#include "attention_problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "base/alloc.h"
#include "base/cuda.h"
#include "kuiper_flash_attention/adapter/engine.h"
#include "op/kernels/kernels_interfaces.h"

namespace demo {
namespace {
tensor::Tensor allocate(std::vector<int32_t> dims,
                        base::DeviceType device = base::DeviceType::kDeviceCPU) {
  return tensor::Tensor(base::DataType::kDataTypeFp32, std::move(dims), true,
                        base::allocator_of(device));
}

tensor::Tensor filled(std::vector<int32_t> dims, float value) {
  tensor::Tensor tensor = allocate(std::move(dims));
  if (!tensor.is_empty()) std::fill_n(tensor.ptr<float>(), tensor.size(), value);
  return tensor;
}

tensor::Tensor random_normal(std::vector<int32_t> dims, uint32_t seed) {
  tensor::Tensor tensor = allocate(std::move(dims));
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  if (!tensor.is_empty()) {
    std::generate_n(tensor.ptr<float>(), tensor.size(), [&] { return normal(generator); });
  }
  return tensor;
}

class ErrorSum {
 public:
  void add(double actual, double expected) {
    const double difference = std::abs(actual - expected);
    // Written so that a NaN stays.
    if (!(difference <= max_abs_)) max_abs_ = difference;
    difference_square_ += difference * difference;
    expected_square_ += expected * expected;
  }
  AttentionError result() const {
    return {max_abs_, std::sqrt(difference_square_ / expected_square_)};
  }

 private:
  double max_abs_ = 0;
  double difference_square_ = 0;
  double expected_square_ = 0;
};

// One row of one head in float64: `visible` keys, rows of `stride` floats.
std::vector<double> attend_float64(const float* query, const float* keys, const float* values,
                                   int32_t visible, int32_t head_dim, int64_t stride) {
  std::vector<double> scores(visible);
  for (int32_t t = 0; t < visible; ++t) {
    for (int32_t i = 0; i < head_dim; ++i) {
      scores[t] += static_cast<double>(query[i]) * keys[t * stride + i];
    }
    scores[t] /= std::sqrt(static_cast<double>(head_dim));
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  std::vector<double> output(head_dim);
  for (int32_t t = 0; t < visible; ++t) {
    const double weight = std::exp(scores[t] - max);
    sum += weight;
    for (int32_t i = 0; i < head_dim; ++i) output[i] += weight * values[t * stride + i];
  }
  for (double& x : output) x /= sum;
  return output;
}
}  // namespace

AttentionProblem::AttentionProblem(const AttentionShape& shape,
                                   std::shared_ptr<kernel::CudaConfig> config)
    : shape_(shape),
      config_(std::move(config)),
      cpu_query_(random_normal({shape.q_len(), shape.heads * shape.head_dim}, 1)),
      cpu_key_(random_normal({1, shape.seq_len, shape.kv_heads * shape.head_dim}, 2)),
      cpu_value_(random_normal({1, shape.seq_len, shape.kv_heads * shape.head_dim}, 3)),
      query_(on_device(cpu_query_)),
      key_(on_device(cpu_key_)),
      value_(on_device(cpu_value_)),
      flash_output_(on_device(filled({shape.q_len(), shape.heads * shape.head_dim}, NAN))),
      standard_output_(on_device(filled({shape.q_len(), shape.heads * shape.head_dim}, NAN))) {}

base::DeviceType AttentionProblem::device() const {
  return config_ ? base::DeviceType::kDeviceCUDA : base::DeviceType::kDeviceCPU;
}

// Empty where the device has not enough memory.
tensor::Tensor AttentionProblem::on_device(tensor::Tensor tensor) const {
  if (config_ && !tensor.to_cuda(stream())) return {};
  return tensor;
}

tensor::Tensor AttentionProblem::on_cpu(tensor::Tensor tensor) const {
  CHECK(tensor.to_cpu(stream()));
  return tensor;
}

base::Status AttentionProblem::finish() const {
  return config_ ? base::synchronize_cuda(stream()) : base::error::Success();
}

bool AttentionProblem::allocated() const {
  const auto& tensors = {query_, key_, value_, flash_output_, standard_output_};
  return std::none_of(tensors.begin(), tensors.end(), [](const auto& t) { return t.is_empty(); });
}

tensor::Tensor AttentionProblem::make_score_storage() const {
  return allocate({shape_.heads, shape_.q_len(), shape_.seq_len}, device());
}

void AttentionProblem::run_flash() {
  kernel::get_flash_attention_kernel(device())(
      query_, key_, value_, flash_output_, shape_.heads, shape_.kv_heads, shape_.head_dim,
      shape_.seq_len, shape_.seq_len - 1, 0, 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
      true, device(), config_.get());
}

void AttentionProblem::run_standard(const tensor::Tensor& score_storage) {
  // Not the engine's getter, which serves flash attention where it can.
  using kfa_adapter::to_kfa;
  const kfa_tensor output = to_kfa(standard_output_), query = to_kfa(query_),
                   score = to_kfa(score_storage), key = to_kfa(key_), value = to_kfa(value_);
  CHECK(kfa_get_standard_mha_kernel(to_kfa(device()))(
            shape_.seq_len - 1, shape_.heads, 0, shape_.seq_len, shape_.kv_heads * shape_.head_dim,
            shape_.heads / shape_.kv_heads, shape_.head_dim, &output, &query, &score, &key, &value,
            to_kfa(device()), stream()) == KFA_OK);
}

AttentionError AttentionProblem::flash_against_standard() const {
  const tensor::Tensor flash = on_cpu(flash_output_);
  const tensor::Tensor standard = on_cpu(standard_output_);
  ErrorSum error;
  for (size_t i = 0; i < flash.size(); ++i) {
    error.add(flash.index<float>(i), standard.index<float>(i));
  }
  return error.result();
}

AttentionError AttentionProblem::against_float64(const tensor::Tensor& on_any_device) const {
  const tensor::Tensor output = on_cpu(on_any_device);
  constexpr int kSamples = 32;
  std::mt19937 generator(4);
  std::uniform_int_distribution<int32_t> any_row(0, shape_.q_len() - 1);
  std::uniform_int_distribution<int32_t> any_head(0, shape_.heads - 1);
  const int64_t kv_dim = int64_t{shape_.kv_heads} * shape_.head_dim;
  ErrorSum error;
  for (int sample = 0; sample < kSamples; ++sample) {
    const int32_t row = any_row(generator);
    const int32_t head = any_head(generator);
    const int64_t offset = (int64_t{row} * shape_.heads + head) * shape_.head_dim;
    const int64_t kv_offset = int64_t{head / (shape_.heads / shape_.kv_heads)} * shape_.head_dim;
    const int32_t visible = shape_.seq_len - (shape_.q_len() - 1) + row;
    const std::vector<double> expected =
        attend_float64(cpu_query_.ptr<float>(offset), cpu_key_.ptr<float>(kv_offset),
                       cpu_value_.ptr<float>(kv_offset), visible, shape_.head_dim, kv_dim);
    for (int32_t i = 0; i < shape_.head_dim; ++i) {
      error.add(output.index<float>(offset + i), expected[i]);
    }
  }
  return error.result();
}
}  // namespace demo
