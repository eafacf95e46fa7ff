#ifndef KUIPER_OP_MHA_H_
#define KUIPER_OP_MHA_H_
#include "op/layer.h"

namespace op {
// Standard attention with stored scores. Inputs: query [q_len, head_num * head_size], score
// storage [head_num, seq_len] (or [head_num, rows, seq_len]), key cache and value cache
// [layer_num, seq_len, kv_dim]. The last query row is at set_pos; q_len follows from the query.
class MultiHeadAttention : public Layer {
 public:
  explicit MultiHeadAttention(base::DeviceType device_type, int32_t layer_index, int32_t kv_mul,
                              int32_t kv_dim, int32_t seq_len, int32_t head_num, int32_t head_size);
  void set_pos(int32_t pos) { pos_ = pos; }
  void set_layer_idx(int32_t layer_index) { layer_index_ = layer_index; }
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;

 private:
  int32_t layer_index_;
  int32_t kv_mul_;
  int32_t kv_dim_;
  int32_t seq_len_;
  int32_t head_num_;
  int32_t head_size_;
  int32_t pos_ = 0;
};
}  // namespace op
#endif  // KUIPER_OP_MHA_H_
