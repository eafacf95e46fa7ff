#ifndef HOSTS_OP_MHA_H_
#define HOSTS_OP_MHA_H_
#include "op/layer.h"

namespace op {
// Inputs: query, score storage, key cache, value cache.
class MultiHeadAttention : public Layer {
 public:
  explicit MultiHeadAttention(base::DeviceType device_type, int32_t layer_index, int32_t kv_mul,
                              int32_t kv_dim, int32_t seq_len, int32_t head_num, int32_t head_size);
  using Layer::forward;
  base::Status forward() override;
  void set_pos(int32_t pos);
  void set_layer_idx(int32_t layer_idx);

 private:
  int32_t layer_index_, kv_mul_, kv_dim_, seq_len_, head_num_, head_size_, pos_ = 0;
};
}  // namespace op
#endif  // HOSTS_OP_MHA_H_
