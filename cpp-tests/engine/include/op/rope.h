#ifndef KUIPER_OP_ROPE_H_
#define KUIPER_OP_ROPE_H_
#include "op/layer.h"

namespace op {
// Rotates query rows [rows, dim] and key rows [rows, kv_dim] in place, pairs (2i, 2i+1) of each
// head together. Inputs: query, key, position of the first row (int32 [1]), and the sine and
// cosine tables [seq_len, head_size / 2]. No output.
class RoPELayer : public Layer {
 public:
  explicit RoPELayer(base::DeviceType device_type, int32_t dim, int32_t kv_dim, int32_t head_size);
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;

 private:
  int32_t dim_;
  int32_t kv_dim_;
  int32_t head_size_;
};
}  // namespace op
#endif  // KUIPER_OP_ROPE_H_
