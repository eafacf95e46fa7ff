// README's steps delete this file.
#include "op/flash_attention.h"

namespace op {
FlashAttention::FlashAttention(base::DeviceType device_type, int32_t, int32_t, int32_t, int32_t,
                               int32_t, int32_t, float)
    : Layer(device_type, LayerType::kLayerMHA, "FlashAttention") {}

base::Status FlashAttention::check() const { return base::error::Success(); }
base::Status FlashAttention::forward() { return base::error::InternalError("the engine's own"); }
void FlashAttention::set_pos(int32_t pos) { pos_ = pos; }
void FlashAttention::set_layer_idx(int32_t layer_idx) { layer_index_ = layer_idx; }
}  // namespace op
