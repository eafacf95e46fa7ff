#include "op/rope.h"

#include "op/kernels/kernels_interfaces.h"

namespace op {
RoPELayer::RoPELayer(base::DeviceType device_type, int32_t dim, int32_t kv_dim, int32_t head_size)
    : Layer(device_type, LayerType::kLayerRoPe, "RoPE"),
      dim_(dim),
      kv_dim_(kv_dim),
      head_size_(head_size) {
  reset_input_size(5);
}

base::Status RoPELayer::check() const {
  const size_t rows = get_input(0).size() / dim_;
  RETURN_IF_ERROR(check_fp32(get_input(0), rows * dim_, "query"));
  RETURN_IF_ERROR(check_fp32(get_input(1), rows * kv_dim_, "key"));
  RETURN_IF_ERROR(
      check_tensor(get_input(2), base::DeviceType::kDeviceCPU, base::DataType::kDataTypeInt32));
  const size_t table_size = get_input(3).size();
  RETURN_IF_ERROR(check_fp32(get_input(3), table_size, "sine table"));
  RETURN_IF_ERROR(check_fp32(get_input(4), table_size, "cosine table"));
  const int64_t pos = get_input(2).index<int32_t>(0);
  if (pos < 0 || (pos + rows) * (head_size_ / 2) > table_size) {
    return invalid("position " + std::to_string(pos) + " with " + std::to_string(rows) +
                   " rows is outside the tables");
  }
  return base::error::Success();
}

base::Status RoPELayer::forward() {
  return launch(kernel::get_rope_kernel(device_type_), dim_, kv_dim_, head_size_, get_input(0),
                get_input(1), get_input(2), get_input(3), get_input(4), stream());
}
}  // namespace op
