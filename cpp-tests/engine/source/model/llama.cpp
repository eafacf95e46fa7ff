#include "model/llama.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "op/add.h"
#include "op/embedding.h"
#include "op/kernels/kernels_interfaces.h"
#include "op/matmul.h"
#include "op/mha.h"
#include "op/rmsnorm.h"
#include "op/rope.h"
#include "op/swiglu.h"
#ifdef KUIPER_USE_FLASH_ATTENTION
#include "op/flash_attention.h"
#endif

namespace model {
namespace {
constexpr auto kFp32 = base::DataType::kDataTypeFp32;
constexpr auto kInt32 = base::DataType::kDataTypeInt32;

// The first `rows` rows of an activation.
tensor::Tensor first_rows(const tensor::Tensor& activation, int32_t rows) {
  tensor::Tensor view = activation;
  view.reshape({rows, activation.get_dim(1)});
  return view;
}

// `rows` rows of `dim` floats that start `offset` floats into `whole`.
tensor::Tensor window(const tensor::Tensor& whole, int64_t offset, int32_t rows, int32_t dim) {
  tensor::Tensor view(kFp32, rows, dim, false, nullptr,
                      const_cast<float*>(whole.ptr<float>(offset)));
  view.set_device_type(whole.device_type());
  return view;
}
}  // namespace

LlamaModel::LlamaModel(std::string token_path, std::string model_path, AttentionPath attention,
                       int32_t max_rows)
    : token_path_(std::move(token_path)),
      model_path_(std::move(model_path)),
      attention_path_(attention),
      max_rows_(max_rows) {}

base::Status LlamaModel::init(base::DeviceType device_type) {
  if (device_type == base::DeviceType::kDeviceUnknown) {
    return base::error::InvalidArgument("the engine does not run on device unknown");
  }
  if (device_type == base::DeviceType::kDeviceCUDA) {
    RETURN_IF_ERROR(base::create_cuda_config(cuda_config_));
  }
  if (max_rows_ < 1) return base::error::InvalidArgument("max_rows must be at least 1");
  device_type_ = device_type;
  RETURN_IF_ERROR(checkpoint_.open(model_path_));
  RETURN_IF_ERROR(tokenizer_.load(token_path_));
  if (tokenizer_.vocab_size() != config().vocab_size_) {
    return base::error::ModelParseError(
        "tokenizer and checkpoint do not belong together: " + token_path_ + " has " +
        std::to_string(tokenizer_.vocab_size()) + " pieces, " + model_path_ +
        " has a vocabulary of " + std::to_string(config().vocab_size_));
  }
  max_rows_ = std::min(max_rows_, config().seq_len_);
  if (cuda_config_) RETURN_IF_ERROR(checkpoint_.to_cuda(cuda_config_->stream));
  RETURN_IF_ERROR(create_layers());
  return init_mem();
}

base::Status LlamaModel::create_layers() {
  const TransformerConfig& c = config();
  base::Status status;
  const auto on_stream = [&](const std::shared_ptr<op::Layer>& layer) {
    layer->set_cuda_config(cuda_config_);
    return layer;
  };
  // Adds a layer's weight to the status, so that the list below reads as a list.
  const auto with_weight = [&](auto layer, Weight which, int32_t index,
                               std::vector<int32_t> dims) -> std::shared_ptr<op::Layer> {
    if (status) {
      status = layer->set_weight(0, dims, checkpoint_.weight(which, index), device_type_);
    }
    return on_stream(layer);
  };
  const auto matmul = [&](Weight which, int32_t index, int32_t dim0, int32_t dim1) {
    return with_weight(std::make_shared<op::MatmulLayer>(device_type_, dim0, dim1), which, index,
                       {dim0, dim1});
  };
  const auto rmsnorm = [&](Weight which, int32_t index) {
    return with_weight(std::make_shared<op::RmsNormLayer>(device_type_, c.dim_), which, index,
                       {c.dim_});
  };

  for (int32_t i = 0; i < c.layer_num_; ++i) {
    layers_.rms_att_layers_.push_back(rmsnorm(Weight::kRmsAtt, i));
    layers_.wq_layers_.push_back(matmul(Weight::kWq, i, c.dim_, c.dim_));
    layers_.wk_layers_.push_back(matmul(Weight::kWk, i, c.kv_dim_, c.dim_));
    layers_.wv_layers_.push_back(matmul(Weight::kWv, i, c.kv_dim_, c.dim_));
    layers_.wo_layers_.push_back(matmul(Weight::kWo, i, c.dim_, c.dim_));
    layers_.rms_ffn_layers_.push_back(rmsnorm(Weight::kRmsFfn, i));
    layers_.w1_layers_.push_back(matmul(Weight::kW1, i, c.hidden_dim_, c.dim_));
    layers_.w2_layers_.push_back(matmul(Weight::kW2, i, c.dim_, c.hidden_dim_));
    layers_.w3_layers_.push_back(matmul(Weight::kW3, i, c.hidden_dim_, c.dim_));
  }
  layers_.rms_final_layer_ = rmsnorm(Weight::kRmsFinal, 0);
  layers_.cls_layer_ = matmul(Weight::kClassifier, 0, c.vocab_size_, c.dim_);
  layers_.embedding_layer_ =
      with_weight(std::make_shared<op::EmbeddingLayer>(device_type_, c.dim_, c.vocab_size_),
                  Weight::kTokenEmbedding, 0, {c.vocab_size_, c.dim_});
  layers_.add_layer_ = on_stream(std::make_shared<op::VecAddLayer>(device_type_));
  layers_.swiglu_layer_ = on_stream(std::make_shared<op::SwiGLULayer>(device_type_));
  layers_.rope_layer_ =
      on_stream(std::make_shared<op::RoPELayer>(device_type_, c.dim_, c.kv_dim_, c.head_size_));

  if (attention_path_ == AttentionPath::kStandard) {
    layers_.mha_layer_ = on_stream(std::make_shared<op::MultiHeadAttention>(
        device_type_, 0, c.kv_mul_, c.kv_dim_, c.seq_len_, c.head_num_, c.head_size_));
  } else {
#ifdef KUIPER_USE_FLASH_ATTENTION
    layers_.mha_layer_ = on_stream(std::make_shared<op::FlashAttention>(
        device_type_, 0, c.kv_mul_, c.kv_dim_, c.seq_len_, c.head_num_, c.head_size_));
#else
    status = base::error::FunctionNotImplement("this build has no flash attention");
#endif
  }
  return status;
}

base::Status LlamaModel::init_mem() {
  const TransformerConfig& c = config();
  const auto allocator = base::allocator_of(device_type_);
  const auto cpu = base::CPUDeviceAllocatorFactory::get_instance();
  bool allocated = true;
  const auto make_in = [&](std::shared_ptr<base::DeviceAllocator> memory, std::vector<int32_t> dims,
                           base::DataType data_type) {
    tensor::Tensor tensor(data_type, std::move(dims), true, std::move(memory));
    allocated = allocated && !tensor.is_empty();
    return tensor;
  };
  const auto make = [&](std::vector<int32_t> dims) {
    return make_in(allocator, std::move(dims), kFp32);
  };
  tokens_ = make_in(cpu, {max_rows_}, kInt32);
  pos_ = make_in(cpu, {1}, kInt32);
  next_ = make_in(allocator, {1}, kInt32);
  sin_cache_ = make_in(cpu, {c.seq_len_, c.head_size_ / 2}, kFp32);
  cos_cache_ = make_in(cpu, {c.seq_len_, c.head_size_ / 2}, kFp32);
  embeddings_ = make({max_rows_, c.dim_});
  normed_ = make({max_rows_, c.dim_});
  query_ = make({max_rows_, c.dim_});
  mha_output_ = make({max_rows_, c.dim_});
  w1_output_ = make({max_rows_, c.hidden_dim_});
  w3_output_ = make({max_rows_, c.hidden_dim_});
  logits_ = make({c.vocab_size_});
  key_cache_ = make({c.layer_num_, c.seq_len_, c.kv_dim_});
  value_cache_ = make({c.layer_num_, c.seq_len_, c.kv_dim_});

  const size_t before = allocator->total_allocated();
  if (attention_path_ == AttentionPath::kStandard) score_storage_ = make({c.head_num_, c.seq_len_});
  score_storage_bytes_ = allocator->total_allocated() - before;

  if (!allocated) {
    return base::error::InternalError("not enough memory for the activations and the KV cache");
  }
  const auto fill_tables = kernel::get_rope_cache_kernel(base::DeviceType::kDeviceCPU);
  fill_tables(c.head_size_, c.seq_len_, sin_cache_, cos_cache_);
  if (!cuda_config_) return base::error::Success();
  RETURN_IF_ERROR(sin_cache_.to_cuda(stream()));
  RETURN_IF_ERROR(cos_cache_.to_cuda(stream()));
  for (int32_t i = 0; i < c.layer_num_; ++i) {
    attention_timers_.push_back(std::make_unique<base::CudaTimer>());
  }
  return base::error::Success();
}

base::Status LlamaModel::forward(const std::vector<int32_t>& tokens, int32_t start_pos,
                                 int32_t& next) {
  const TransformerConfig& c = config();
  if (tokens.empty() || tokens.size() > static_cast<size_t>(max_rows_) || start_pos < 0 ||
      start_pos + tokens.size() > static_cast<size_t>(c.seq_len_)) {
    return base::error::InvalidArgument(
        std::to_string(tokens.size()) + " tokens at position " + std::to_string(start_pos) +
        " do not fit: at most " + std::to_string(max_rows_) + " in one call, positions below " +
        std::to_string(c.seq_len_));
  }
  const int32_t rows = static_cast<int32_t>(tokens.size());
  std::copy(tokens.begin(), tokens.end(), tokens_.ptr<int32_t>());
  tensor::Tensor token_rows = tokens_;
  token_rows.reshape({rows});
  pos_.index<int32_t>(0) = start_pos;

  const tensor::Tensor x = first_rows(embeddings_, rows);
  RETURN_IF_ERROR(layers_.embedding_layer_->forward(token_rows, x));
  for (int32_t layer = 0; layer < c.layer_num_; ++layer) {
    RETURN_IF_ERROR(attention(layer, start_pos, x));
    RETURN_IF_ERROR(feed_forward(layer, x));
  }
  // Only the last row says what comes next.
  const tensor::Tensor last = window(x, int64_t{rows - 1} * c.dim_, 1, c.dim_);
  RETURN_IF_ERROR(layers_.rms_final_layer_->forward(last, last));
  RETURN_IF_ERROR(layers_.cls_layer_->forward(last, logits_));
  RETURN_IF_ERROR(sampler_.sample(logits_, next_, stream(), next));
  // The device is done with this token, so the timers can be read without a wait.
  for (const auto& timer : attention_timers_) attention_seconds_ += timer->seconds();
  return base::error::Success();
}

base::Status LlamaModel::attention(int32_t layer, int32_t pos, const tensor::Tensor& x) {
  const TransformerConfig& c = config();
  const int32_t rows = x.get_dim(0);
  const tensor::Tensor normed = first_rows(normed_, rows);
  const tensor::Tensor query = first_rows(query_, rows);
  const tensor::Tensor output = first_rows(mha_output_, rows);
  // Keys and values are computed straight into their slots of the cache.
  const int64_t slot = (int64_t{layer} * c.seq_len_ + pos) * c.kv_dim_;
  const tensor::Tensor key = window(key_cache_, slot, rows, c.kv_dim_);
  const tensor::Tensor value = window(value_cache_, slot, rows, c.kv_dim_);

  RETURN_IF_ERROR(layers_.rms_att_layers_[layer]->forward(x, normed));
  RETURN_IF_ERROR(layers_.wq_layers_[layer]->forward(normed, query));
  RETURN_IF_ERROR(layers_.wk_layers_[layer]->forward(normed, key));
  RETURN_IF_ERROR(layers_.wv_layers_[layer]->forward(normed, value));
  RETURN_IF_ERROR(
      layers_.rope_layer_->forward(query, key, pos_, sin_cache_, cos_cache_, tensor::Tensor{}));
  RETURN_IF_ERROR(timed_attention_mha(layer, pos + rows - 1, query, output));
  RETURN_IF_ERROR(layers_.wo_layers_[layer]->forward(output, normed));
  return layers_.add_layer_->forward(x, normed, x);
}

base::Status LlamaModel::timed_attention_mha(int32_t layer, int32_t newest_pos,
                                             const tensor::Tensor& query,
                                             const tensor::Tensor& output) {
  if (cuda_config_) {
    base::CudaTimer& timer = *attention_timers_[layer];
    timer.start(stream());
    const base::Status status = attention_mha(layer, newest_pos, query, output);
    timer.stop(stream());
    return status;
  }
  const auto start = std::chrono::steady_clock::now();
  const base::Status status = attention_mha(layer, newest_pos, query, output);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  attention_seconds_ += elapsed.count();
  return status;
}

base::Status LlamaModel::attention_mha(int32_t layer, int32_t newest_pos,
                                       const tensor::Tensor& query, const tensor::Tensor& output) {
  base::Status status;
  if (const auto mha = std::dynamic_pointer_cast<op::MultiHeadAttention>(layers_.mha_layer_)) {
    mha->set_pos(newest_pos);
    mha->set_layer_idx(layer);
    status = layers_.mha_layer_->forward(query, score_storage_, key_cache_, value_cache_, output);
  }
#ifdef KUIPER_USE_FLASH_ATTENTION
  if (const auto flash = std::dynamic_pointer_cast<op::FlashAttention>(layers_.mha_layer_)) {
    flash->set_pos(newest_pos);
    flash->set_layer_idx(layer);
    status = layers_.mha_layer_->forward(query, key_cache_, value_cache_, output);
  }
#endif
  return status;
}

base::Status LlamaModel::feed_forward(int32_t layer, const tensor::Tensor& x) {
  const int32_t rows = x.get_dim(0);
  const tensor::Tensor normed = first_rows(normed_, rows);
  const tensor::Tensor gate = first_rows(w1_output_, rows);
  const tensor::Tensor up = first_rows(w3_output_, rows);
  RETURN_IF_ERROR(layers_.rms_ffn_layers_[layer]->forward(x, normed));
  RETURN_IF_ERROR(layers_.w1_layers_[layer]->forward(normed, gate));
  RETURN_IF_ERROR(layers_.w3_layers_[layer]->forward(normed, up));
  RETURN_IF_ERROR(layers_.swiglu_layer_->forward(gate, up, gate));
  RETURN_IF_ERROR(layers_.w2_layers_[layer]->forward(gate, normed));
  return layers_.add_layer_->forward(x, normed, x);
}
}  // namespace model
