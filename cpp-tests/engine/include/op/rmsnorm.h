#ifndef KUIPER_OP_RMSNORM_H_
#define KUIPER_OP_RMSNORM_H_
#include "op/layer.h"

namespace op {
// Each row of `dim` values divided by its root mean square, then scaled by the weight.
class RmsNormLayer : public LayerParam {
 public:
  explicit RmsNormLayer(base::DeviceType device_type, int32_t dim);
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;

 private:
  int32_t dim_;
};
}  // namespace op
#endif  // KUIPER_OP_RMSNORM_H_
