// The layer stays where this library's kernels replace the engine's.
#include "op/mha.h"

#include "op/kernels/kernels_interface.h"

namespace op {
MultiHeadAttention::MultiHeadAttention(base::DeviceType device_type, int32_t layer_index,
                                       int32_t kv_mul, int32_t kv_dim, int32_t seq_len,
                                       int32_t head_num, int32_t head_size)
    : Layer(device_type, LayerType::kLayerMHA, "MultiHead"),
      layer_index_(layer_index),
      kv_mul_(kv_mul),
      kv_dim_(kv_dim),
      seq_len_(seq_len),
      head_num_(head_num),
      head_size_(head_size) {
  reset_input_size(4);
  reset_output_size(1);
}

base::Status MultiHeadAttention::forward() {
  kernel::get_mha_kernel(device_type_)(pos_, head_num_, layer_index_, seq_len_, kv_dim_, kv_mul_,
                                       head_size_, get_output(0), get_input(0), get_input(1),
                                       get_input(2), get_input(3), device_type_,
                                       cuda_config_.get());
  return base::error::Success();
}

void MultiHeadAttention::set_pos(int32_t pos) { pos_ = pos; }
void MultiHeadAttention::set_layer_idx(int32_t layer_idx) { layer_index_ = layer_idx; }
}  // namespace op
