#ifndef LLAMA_INFER_ATTENTION_PROBLEM_H_
#define LLAMA_INFER_ATTENTION_PROBLEM_H_
#include <cstdint>
#include <memory>
#include <string>

#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace demo {
enum class Phase { kDecode, kPrefill };

struct AttentionShape {
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t seq_len;
  Phase phase;

  int32_t q_len() const { return phase == Phase::kDecode ? 1 : seq_len; }
  int64_t input_and_output_bytes() const {
    // Query and two outputs; keys and values.
    const int64_t rows = int64_t{3} * heads * q_len() + int64_t{2} * kv_heads * seq_len;
    return rows * head_dim * static_cast<int64_t>(sizeof(float));
  }
  // Of the standard kernel that stores every score, as textbooks write it.
  int64_t score_bytes() const { return int64_t{heads} * q_len() * seq_len * sizeof(float); }
};

// Largest absolute difference, and the norm of the difference over the norm of the expectation.
struct AttentionError {
  double max_abs = 0;
  double relative = 0;
};

// Attention over random unit-normal tensors, through the engine's kernel getters. Outputs start
// as NaN, so that a kernel which writes nothing shows. On CUDA with a configuration, else on the
// CPU; on CUDA runs are enqueued.
class AttentionProblem {
 public:
  AttentionProblem(const AttentionShape& shape, std::shared_ptr<kernel::CudaConfig> config);

  // Another stream for the runs that follow.
  void set_config(std::shared_ptr<kernel::CudaConfig> config) { config_ = std::move(config); }

  bool allocated() const;
  tensor::Tensor make_score_storage() const;
  void run_flash();
  void run_standard(const tensor::Tensor& score_storage);

  // Waits for what was enqueued.
  base::Status finish() const;

  AttentionError flash_against_standard() const;
  // On a few rows and heads, which are the same for both outputs.
  AttentionError flash_against_float64() const { return against_float64(flash_output_); }
  AttentionError standard_against_float64() const { return against_float64(standard_output_); }

 private:
  base::DeviceType device() const;
  cudaStream_t stream() const { return config_ ? config_->stream : nullptr; }
  tensor::Tensor on_device(tensor::Tensor tensor) const;
  tensor::Tensor on_cpu(tensor::Tensor tensor) const;
  AttentionError against_float64(const tensor::Tensor& output) const;

  AttentionShape shape_;
  std::shared_ptr<kernel::CudaConfig> config_;
  tensor::Tensor cpu_query_, cpu_key_, cpu_value_;  // what the definition is computed from
  tensor::Tensor query_, key_, value_, flash_output_, standard_output_;
};
}  // namespace demo
#endif  // LLAMA_INFER_ATTENTION_PROBLEM_H_
