#include "op/mha.h"

#include "op/kernels/kernels_interfaces.h"

namespace op {
MultiHeadAttention::MultiHeadAttention(base::DeviceType device_type, int32_t layer_index,
                                       int32_t kv_mul, int32_t kv_dim, int32_t seq_len,
                                       int32_t head_num, int32_t head_size)
    : Layer(device_type, LayerType::kLayerMHA, "MultiHeadAttention"),
      layer_index_(layer_index),
      kv_mul_(kv_mul),
      kv_dim_(kv_dim),
      seq_len_(seq_len),
      head_num_(head_num),
      head_size_(head_size) {
  reset_input_size(4);
  reset_output_size(1);
}

base::Status MultiHeadAttention::check() const {
  const tensor::Tensor& query = get_input(0);
  const size_t dim = static_cast<size_t>(head_num_) * head_size_;
  const size_t q_len = query.size() / dim;
  RETURN_IF_ERROR(check_fp32(query, q_len * dim, "query"));
  RETURN_IF_ERROR(check_fp32(get_output(0), q_len * dim, "output"));

  const size_t score_row = static_cast<size_t>(head_num_) * seq_len_;
  const size_t score_size = get_input(1).size() / score_row * score_row;
  RETURN_IF_ERROR(check_fp32(get_input(1), score_size, "score storage"));

  const size_t cache_size = get_input(2).size();
  RETURN_IF_ERROR(check_fp32(get_input(2), cache_size, "key cache"));
  RETURN_IF_ERROR(check_fp32(get_input(3), cache_size, "value cache"));
  const size_t layer_size = static_cast<size_t>(seq_len_) * kv_dim_;
  if (layer_index_ < 0 || (layer_index_ + size_t{1}) * layer_size > cache_size) {
    return invalid("layer " + std::to_string(layer_index_) + " is outside the KV cache");
  }
  if (pos_ < 0 || pos_ >= seq_len_ || q_len > pos_ + size_t{1}) {
    return invalid("position " + std::to_string(pos_) + " with " + std::to_string(q_len) +
                   " query rows does not fit into seq_len " + std::to_string(seq_len_));
  }
  return base::error::Success();
}

base::Status MultiHeadAttention::forward() {
  return launch(kernel::get_mha_kernel(device_type_), pos_, head_num_, layer_index_, seq_len_,
                kv_dim_, kv_mul_, head_size_, get_output(0), get_input(0), get_input(1),
                get_input(2), get_input(3), device_type_, cuda_config_.get());
}
}  // namespace op
