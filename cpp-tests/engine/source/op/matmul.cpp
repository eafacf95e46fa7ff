#include "op/matmul.h"

#include "op/kernels/kernels_interfaces.h"

namespace op {
MatmulLayer::MatmulLayer(base::DeviceType device_type, int32_t dim0, int32_t dim1)
    : LayerParam(device_type, LayerType::kLayerMatmul, "Matmul"), dim0_(dim0), dim1_(dim1) {
  reset_input_size(1);
  reset_output_size(1);
  reset_weight_size(1);
}

base::Status MatmulLayer::check() const {
  const size_t rows = get_input(0).size() / dim1_;
  RETURN_IF_ERROR(check_fp32(get_weight(0), static_cast<size_t>(dim0_) * dim1_, "weight"));
  RETURN_IF_ERROR(check_fp32(get_input(0), rows * dim1_, "input"));
  return check_fp32(get_output(0), rows * dim0_, "output");
}

base::Status MatmulLayer::forward() {
  return launch(kernel::get_matmul_kernel(device_type_), get_input(0), get_weight(0),
                get_output(0), stream());
}
}  // namespace op
