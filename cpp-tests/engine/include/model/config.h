#ifndef KUIPER_MODEL_CONFIG_H_
#define KUIPER_MODEL_CONFIG_H_
#include <cstdint>

namespace model {
struct TransformerConfig {
  int32_t dim_ = 0;
  int32_t hidden_dim_ = 0;
  int32_t layer_num_ = 0;
  int32_t head_num_ = 0;
  int32_t kv_head_num_ = 0;
  int32_t vocab_size_ = 0;
  int32_t seq_len_ = 0;
  int32_t head_size_ = 0;
  int32_t kv_dim_ = 0;
  int32_t kv_mul_ = 0;
  bool is_shared_weight_ = false;
};
}  // namespace model
#endif  // KUIPER_MODEL_CONFIG_H_
