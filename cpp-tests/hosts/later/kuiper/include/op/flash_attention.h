// The later branch's layers. HOST_EARLY is a state of the branch before it knew kinds of attention
// and paged caches.
#ifndef HOSTS_OP_FLASH_ATTENTION_H_
#define HOSTS_OP_FLASH_ATTENTION_H_
#include "base/attention_type.h"
#include "op/layer.h"

namespace op {
// Inputs: query, output, key cache, value cache, position.
class FlashAttentionDecodeLayer : public Layer {
 public:
  explicit FlashAttentionDecodeLayer(base::DeviceType device_type);
  FlashAttentionDecodeLayer(base::DeviceType device_type, int32_t head_num, int32_t kv_head_num,
                            int32_t head_size, int32_t kv_mul, int32_t seq_len, int32_t kv_dim,
                            bool use_fp16 = false);

  base::Status check() const override;
  base::Status forward() override;
  base::Status forward(int32_t pos, int32_t head_num, int32_t kv_head_num, int32_t head_size,
                       int32_t kv_mul, int32_t layer_idx, int32_t seq_len, int32_t kv_dim,
                       const tensor::Tensor& query, const tensor::Tensor& mha_output,
                       const tensor::Tensor& key_cache, const tensor::Tensor& val_cache);

  void set_layer_index(int32_t layer_index) { layer_index_ = layer_index; }
  void set_pos(int32_t pos) { pos_ = pos; }
  void set_use_gpu_pos(bool use_gpu_pos) { use_gpu_pos_ = use_gpu_pos; }
  void set_use_fp16(bool use_fp16) { use_fp16_ = use_fp16; }
  void set_dims(int32_t head_num, int32_t kv_head_num, int32_t head_size, int32_t kv_mul,
                int32_t seq_len, int32_t kv_dim) {
    head_num_ = head_num;
    kv_head_num_ = kv_head_num;
    head_size_ = head_size;
    kv_mul_ = kv_mul;
    seq_len_ = seq_len;
    kv_dim_ = kv_dim;
  }
#ifndef HOST_EARLY
  void set_attention_type(base::AttentionType type) { attention_type_ = type; }
  base::AttentionType get_attention_type() const { return attention_type_; }
  void set_paged_mode(bool paged, int32_t page_size, int32_t max_blocks, const void* key_pool,
                      const void* value_pool, const int32_t* block_table) {
    paged_mode_ = paged;
    page_size_ = page_size;
    max_blocks_per_seq_ = max_blocks;
    key_pool_ = key_pool;
    value_pool_ = value_pool;
    block_table_ = block_table;
  }
  bool is_paged_mode() const { return paged_mode_; }
#endif

 private:
  int32_t head_num_ = 0, kv_head_num_ = 0, head_size_ = 0, kv_mul_ = 0, seq_len_ = 0, kv_dim_ = 0;
  int32_t layer_index_ = 0, pos_ = 0;
  bool use_fp16_ = false, use_gpu_pos_ = false;
#ifndef HOST_EARLY
  base::AttentionType attention_type_ = base::AttentionType::kAttentionFlash1;
  bool paged_mode_ = false;
  int32_t page_size_ = 16, max_blocks_per_seq_ = 0;
  const void *key_pool_ = nullptr, *value_pool_ = nullptr;
  const int32_t* block_table_ = nullptr;
#endif
};

// Inputs: query, output, key cache, value cache.
class FlashAttentionPrefillLayer : public Layer {
 public:
  explicit FlashAttentionPrefillLayer(base::DeviceType device_type);
  FlashAttentionPrefillLayer(base::DeviceType device_type, int32_t head_num, int32_t kv_head_num,
                             int32_t head_size, int32_t seq_len, bool use_fp16 = false);

  base::Status check() const override;
  base::Status forward() override;
  base::Status forward(int32_t start_pos, int32_t seq_len, int32_t head_num, int32_t kv_head_num,
                       int32_t head_size, int32_t kv_mul, int32_t layer_idx, int32_t max_seq_len,
                       int32_t kv_dim, const tensor::Tensor& query, const tensor::Tensor& output,
                       const tensor::Tensor& key_cache, const tensor::Tensor& val_cache);

  void set_cur_seq_len(int32_t seq_len) { cur_seq_len_ = seq_len; }
  void set_start_pos(int32_t start_pos) { start_pos_ = start_pos; }
  void set_layer_index(int32_t layer_idx) { layer_idx_ = layer_idx; }
  void set_use_fp16(bool use_fp16) { use_fp16_ = use_fp16; }
  void set_dims(int32_t head_num, int32_t kv_head_num, int32_t head_size, int32_t max_seq_len) {
    head_num_ = head_num;
    kv_head_num_ = kv_head_num;
    head_size_ = head_size;
    max_seq_len_ = max_seq_len;
  }
#ifndef HOST_EARLY
  void set_attention_type(base::AttentionType type) { attention_type_ = type; }
  base::AttentionType get_attention_type() const { return attention_type_; }
  void set_paged_mode(bool paged, int32_t page_size, int32_t max_blocks, const void* key_pool,
                      const void* value_pool, const int32_t* block_table) {
    paged_mode_ = paged;
    page_size_ = page_size;
    max_blocks_per_seq_ = max_blocks;
    key_pool_ = key_pool;
    value_pool_ = value_pool;
    block_table_ = block_table;
  }
  bool is_paged_mode() const { return paged_mode_; }
#endif

 private:
  int32_t head_num_ = 0, kv_head_num_ = 0, head_size_ = 0, max_seq_len_ = 0, cur_seq_len_ = 0;
  int32_t start_pos_ = 0, layer_idx_ = 0;
  bool use_fp16_ = false;
#ifndef HOST_EARLY
  base::AttentionType attention_type_ = base::AttentionType::kAttentionFlash1;
  bool paged_mode_ = false;
  int32_t page_size_ = 16, max_blocks_per_seq_ = 0;
  const void *key_pool_ = nullptr, *value_pool_ = nullptr;
  const int32_t* block_table_ = nullptr;
#endif
};
}  // namespace op
#endif  // HOSTS_OP_FLASH_ATTENTION_H_
