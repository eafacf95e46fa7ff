#ifndef KUIPER_OP_ADD_H_
#define KUIPER_OP_ADD_H_
#include "op/layer.h"

namespace op {
// out = input1 + input2; out may be either input.
class VecAddLayer : public Layer {
 public:
  explicit VecAddLayer(base::DeviceType device_type);
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;
};
}  // namespace op
#endif  // KUIPER_OP_ADD_H_
