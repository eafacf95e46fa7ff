// The flash attention layer, for engines that have no header of this name. It comes last on the
// include path, so that an engine's own op/flash_attention.h wins.
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef KUIPER_FLASH_ATTENTION_ADAPTER_OP_FLASH_ATTENTION_H
#define KUIPER_FLASH_ATTENTION_ADAPTER_OP_FLASH_ATTENTION_H
#include <cstdint>

#include "base/base.h"
#include "op/layer.h"

namespace op {
// Inputs: query [q_len, head_num, head_size], key and value caches [layer_num, seq_len, kv_dim].
// Output: like the query, and may be the query. One object serves all layers of a model.
class FlashAttention : public Layer {
 public:
  // `seq_len` is the caches' capacity in tokens. `scale` 0 means 1 / sqrt(head_size).
  // Nonsense is stored, and reported by forward().
  explicit FlashAttention(base::DeviceType device_type, int32_t layer_index, int32_t kv_mul,
                          int32_t kv_dim, int32_t seq_len, int32_t head_num, int32_t head_size,
                          float scale = 0.0f);

  // Position of the newest query row: keys 0 ..= pos are valid.
  void set_pos(int32_t pos);

  // Which layer of the caches the next forward() reads.
  void set_layer_idx(int32_t layer_idx);

  // The overloads that take tensors set them and call this one.
  using Layer::forward;
  base::Status forward() override;

 private:
  base::Status check() const override;

  int32_t layer_index_ = 0;
  int32_t kv_mul_ = 0;
  int32_t kv_dim_ = 0;
  int32_t seq_len_ = 0;
  int32_t head_num_ = 0;
  int32_t head_size_ = 0;
  int32_t pos_ = 0;
  float scale_ = 0.0f;          // as given
  float softmax_scale_ = 0.0f;  // as used
  bool is_causal_ = true;
};
}  // namespace op
#endif  // KUIPER_FLASH_ATTENTION_ADAPTER_OP_FLASH_ATTENTION_H
