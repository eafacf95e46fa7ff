// An engine's own header: another order of members than the adapter's, and a public check().
#ifndef HOSTS_OP_FLASH_ATTENTION_H_
#define HOSTS_OP_FLASH_ATTENTION_H_
#include "op/layer.h"

namespace op {
class FlashAttention : public Layer {
 public:
  explicit FlashAttention(base::DeviceType device_type, int32_t layer_index, int32_t kv_mul,
                          int32_t kv_dim, int32_t seq_len, int32_t head_num, int32_t head_size,
                          float scale = 0.0f);
  base::Status check() const override;
  using Layer::forward;
  base::Status forward() override;
  void set_pos(int32_t pos);
  void set_layer_idx(int32_t layer_idx);

 private:
  bool is_causal_;
  float softmax_scale_, scale_;
  int32_t pos_, head_size_, head_num_, seq_len_, kv_dim_, kv_mul_, layer_index_;
};
}  // namespace op
#endif  // HOSTS_OP_FLASH_ATTENTION_H_
