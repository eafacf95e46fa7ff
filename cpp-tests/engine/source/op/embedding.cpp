#include "op/embedding.h"

#include "op/kernels/kernels_interfaces.h"

namespace op {
EmbeddingLayer::EmbeddingLayer(base::DeviceType device_type, int32_t dim, int32_t vocab_size)
    : LayerParam(device_type, LayerType::kLayerEmbedding, "Embedding"),
      dim_(dim),
      vocab_size_(vocab_size) {
  reset_input_size(1);
  reset_output_size(1);
  reset_weight_size(1);
}

base::Status EmbeddingLayer::check() const {
  const tensor::Tensor& tokens = get_input(0);
  // Token ids live on the CPU whatever device the layer is on.
  RETURN_IF_ERROR(
      check_tensor(tokens, base::DeviceType::kDeviceCPU, base::DataType::kDataTypeInt32));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t token = tokens.index<int32_t>(i);
    if (token < 0 || token >= vocab_size_) {
      return invalid("token " + std::to_string(token) + " is outside the vocabulary of " +
                     std::to_string(vocab_size_));
    }
  }
  RETURN_IF_ERROR(check_fp32(get_weight(0), static_cast<size_t>(vocab_size_) * dim_, "weight"));
  return check_fp32(get_output(0), tokens.size() * dim_, "output");
}

base::Status EmbeddingLayer::forward() {
  return launch(kernel::get_emb_kernel(device_type_), get_input(0), get_weight(0), get_output(0),
                stream());
}
}  // namespace op
