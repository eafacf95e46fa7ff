// README's steps delete this file.
#include "op/flash_attention.h"

namespace op {
FlashAttentionDecodeLayer::FlashAttentionDecodeLayer(base::DeviceType device_type)
    : Layer(device_type, LayerType::kLayerMHA, "FlashAttentionDecode") {}
FlashAttentionPrefillLayer::FlashAttentionPrefillLayer(base::DeviceType device_type)
    : Layer(device_type, LayerType::kLayerMHA, "FlashAttentionPrefill") {}
}  // namespace op
