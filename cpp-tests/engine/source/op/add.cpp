#include "op/add.h"

#include "op/kernels/kernels_interfaces.h"

namespace op {
VecAddLayer::VecAddLayer(base::DeviceType device_type)
    : Layer(device_type, LayerType::kLayerAdd, "Add") {
  reset_input_size(2);
  reset_output_size(1);
}

base::Status VecAddLayer::check() const {
  const size_t size = get_output(0).size();
  RETURN_IF_ERROR(check_fp32(get_input(0), size, "input 0"));
  RETURN_IF_ERROR(check_fp32(get_input(1), size, "input 1"));
  return check_fp32(get_output(0), size, "output");
}

base::Status VecAddLayer::forward() {
  return launch(kernel::get_add_kernel(device_type_), get_input(0), get_input(1), get_output(0),
                stream());
}
}  // namespace op
