#ifndef KUIPER_OP_SWIGLU_H_
#define KUIPER_OP_SWIGLU_H_
#include "op/layer.h"

namespace op {
// out = silu(input1) * input2; out may be either input.
class SwiGLULayer : public Layer {
 public:
  explicit SwiGLULayer(base::DeviceType device_type);
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;
};
}  // namespace op
#endif  // KUIPER_OP_SWIGLU_H_
