#ifndef KUIPER_MODEL_LLAMA_H_
#define KUIPER_MODEL_LLAMA_H_
#include <memory>
#include <string>
#include <vector>

#include "base/cuda.h"
#include "base/cuda_config.h"
#include "model/checkpoint.h"
#include "op/encode.h"
#include "op/layer.h"
#include "sampler/argmax_sampler.h"

namespace model {
// Which attention layer the model holds. Whether the flash layer may fall back is the library's
// attention mode.
enum class AttentionPath { kStandard, kFlash };

struct LlamaLayers {
  std::shared_ptr<op::Layer> embedding_layer_;
  std::shared_ptr<op::Layer> add_layer_;
  std::shared_ptr<op::Layer> rope_layer_;
  std::shared_ptr<op::Layer> swiglu_layer_;
  std::shared_ptr<op::Layer> mha_layer_;  // MultiHeadAttention or FlashAttention, for all layers
  std::shared_ptr<op::Layer> rms_final_layer_;
  std::shared_ptr<op::Layer> cls_layer_;
  std::vector<std::shared_ptr<op::Layer>> rms_att_layers_;
  std::vector<std::shared_ptr<op::Layer>> rms_ffn_layers_;
  std::vector<std::shared_ptr<op::Layer>> wq_layers_;
  std::vector<std::shared_ptr<op::Layer>> wk_layers_;
  std::vector<std::shared_ptr<op::Layer>> wv_layers_;
  std::vector<std::shared_ptr<op::Layer>> wo_layers_;
  std::vector<std::shared_ptr<op::Layer>> w1_layers_;
  std::vector<std::shared_ptr<op::Layer>> w2_layers_;
  std::vector<std::shared_ptr<op::Layer>> w3_layers_;
};

// A Llama 2/3 transformer with greedy sampling.
class LlamaModel {
 public:
  // `max_rows` is the most tokens that one forward() takes.
  LlamaModel(std::string token_path, std::string model_path, AttentionPath attention,
             int32_t max_rows = 1);

  base::Status init(base::DeviceType device_type);

  // Runs the tokens at positions start_pos, start_pos + 1, … and gives the token that follows.
  // Earlier positions are in the KV cache already.
  base::Status forward(const std::vector<int32_t>& tokens, int32_t start_pos, int32_t& next);

  const TransformerConfig& config() const { return checkpoint_.config(); }
  const op::EncodeLayer& tokenizer() const { return tokenizer_; }
  // Of the last token that forward() ran, [vocab_size], on the model's device.
  const tensor::Tensor& logits() const { return logits_; }

  // On CUDA the device's time, by events.
  double attention_seconds() const { return attention_seconds_; }
  // Measured at the allocator; 0 for the flash path, which stores no scores.
  size_t score_storage_bytes() const { return score_storage_bytes_; }

 private:
  base::Status create_layers();
  base::Status init_mem();
  base::Status attention(int32_t layer, int32_t pos, const tensor::Tensor& x);
  base::Status attention_mha(int32_t layer, int32_t newest_pos, const tensor::Tensor& query,
                             const tensor::Tensor& output);
  base::Status timed_attention_mha(int32_t layer, int32_t newest_pos, const tensor::Tensor& query,
                                   const tensor::Tensor& output);
  cudaStream_t stream() const { return cuda_config_ ? cuda_config_->stream : nullptr; }
  base::Status feed_forward(int32_t layer, const tensor::Tensor& x);

  std::string token_path_;
  std::string model_path_;
  AttentionPath attention_path_;
  int32_t max_rows_;
  base::DeviceType device_type_ = base::DeviceType::kDeviceUnknown;
  std::shared_ptr<kernel::CudaConfig> cuda_config_;  // nullptr on the CPU
  Checkpoint checkpoint_;
  op::EncodeLayer tokenizer_;
  sampler::ArgmaxSampler sampler_;
  LlamaLayers layers_;

  // Activations, [max_rows, …]; a forward() of fewer rows works on views. Tokens and position are
  // on the CPU, all else on the model's device.
  tensor::Tensor tokens_, pos_, embeddings_, normed_, query_, mha_output_, w1_output_, w3_output_;
  tensor::Tensor sin_cache_, cos_cache_, score_storage_, logits_, next_;
  tensor::Tensor key_cache_, value_cache_;  // [layer_num, seq_len, kv_dim]

  double attention_seconds_ = 0;
  std::vector<std::unique_ptr<base::CudaTimer>> attention_timers_;  // of each layer, on CUDA
  size_t score_storage_bytes_ = 0;
};
}  // namespace model
#endif  // KUIPER_MODEL_LLAMA_H_
