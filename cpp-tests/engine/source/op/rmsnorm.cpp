#include "op/rmsnorm.h"

#include "op/kernels/kernels_interfaces.h"

namespace op {
RmsNormLayer::RmsNormLayer(base::DeviceType device_type, int32_t dim)
    : LayerParam(device_type, LayerType::kLayerRMSNorm, "RMSNorm"), dim_(dim) {
  reset_input_size(1);
  reset_output_size(1);
  reset_weight_size(1);
}

base::Status RmsNormLayer::check() const {
  const size_t size = get_input(0).size() / dim_ * dim_;
  RETURN_IF_ERROR(check_fp32(get_weight(0), dim_, "weight"));
  RETURN_IF_ERROR(check_fp32(get_input(0), size, "input"));
  return check_fp32(get_output(0), size, "output");
}

base::Status RmsNormLayer::forward() {
  return launch(kernel::get_rmsnorm_kernel(device_type_), get_input(0), get_weight(0),
                get_output(0), stream());
}
}  // namespace op
