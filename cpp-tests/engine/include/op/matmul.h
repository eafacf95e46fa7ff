#ifndef KUIPER_OP_MATMUL_H_
#define KUIPER_OP_MATMUL_H_
#include "op/layer.h"

namespace op {
// out [rows, dim0] = input [rows, dim1] x weight [dim0, dim1] transposed; any number of rows.
class MatmulLayer : public LayerParam {
 public:
  explicit MatmulLayer(base::DeviceType device_type, int32_t dim0, int32_t dim1);
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;

 private:
  int32_t dim0_;
  int32_t dim1_;
};
}  // namespace op
#endif  // KUIPER_OP_MATMUL_H_
