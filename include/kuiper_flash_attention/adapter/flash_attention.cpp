// The engine's flash attention layer and kernel, served by KuiperFlashAttention's C API.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// For engines whose op/flash_attention.h declares op::FlashAttention, and for those that have no
// such header and take the one in this folder. kuiper_flash_attention_adopt() compiles this file
// into the engine, beside mha_kernel.cpp; macros change what it defines:
//
//   KFA_ADAPTER_WARM_UP          the layer's constructor calls kfa_warm_up()
//   KFA_ADAPTER_NO_LAYER         leaves out the members of op::FlashAttention
//   KFA_ADAPTER_NO_FLASH_KERNEL  leaves out kernel::flash_attention_kernel, for both devices
#include <kuiper_flash_attention/adapter/engine.h>
#ifndef KFA_ADAPTER_NO_LAYER
#include <op/flash_attention.h>
#include <op/layer.h>

#include <cmath>
#endif

#if !defined(KFA_ADAPTER_NO_LAYER) || !defined(KFA_ADAPTER_NO_FLASH_KERNEL)
namespace {
base::Status run_flash(const tensor::Tensor& query, const tensor::Tensor& key,
                       const tensor::Tensor& value, const tensor::Tensor& output, int32_t head_num,
                       int32_t kv_head_num, int32_t head_size, int32_t seq_len, int32_t pos,
                       int32_t layer_idx, float softmax_scale, bool is_causal,
                       base::DeviceType device_type, const kernel::CudaConfig* config) {
  using namespace kfa_adapter;
  const kfa_device_type device = to_kfa(device_type);
  const kfa_flash_attention_kernel run = kfa_get_flash_attention_kernel(device);
  if (!run) return no_kernel(device);
  const kfa_tensor q = to_kfa(query), k = to_kfa(key), v = to_kfa(value), out = to_kfa(output);
  return to_status(run(&q, &k, &v, &out, head_num, kv_head_num, head_size, seq_len, pos, layer_idx,
                       softmax_scale, is_causal, device, stream_of(device, config)));
}
}  // namespace
#endif

#ifndef KFA_ADAPTER_NO_LAYER
namespace op {
// Assignments rather than initialisers: engines declare the members in any order.
FlashAttention::FlashAttention(base::DeviceType device_type, int32_t layer_index, int32_t kv_mul,
                               int32_t kv_dim, int32_t seq_len, int32_t head_num,
                               int32_t head_size, float scale)
    : Layer(device_type, LayerType::kLayerMHA, "FlashAttention") {
  layer_index_ = layer_index;
  kv_mul_ = kv_mul;
  kv_dim_ = kv_dim;
  seq_len_ = seq_len;
  head_num_ = head_num;
  head_size_ = head_size;
  pos_ = 0;
  scale_ = scale;
  softmax_scale_ = scale_ == 0.0f && head_size_ > 0
                       ? 1.0f / std::sqrt(static_cast<float>(head_size_))
                       : scale_;
  is_causal_ = true;
  reset_input_size(3);
  reset_output_size(1);
  kfa_adapter::warm_up(device_type);
}

void FlashAttention::set_pos(int32_t pos) { pos_ = pos; }

void FlashAttention::set_layer_idx(int32_t layer_idx) { layer_index_ = layer_idx; }

// What only the layer knows; sizes, positions and overlaps are the library's to check.
base::Status FlashAttention::check() const {
  // First, because an engine may abort where a tensor is asked for that is not there.
  if (input_size() != 3 || output_size() != 1) {
    return base::error::InvalidArgument("the layer has " + std::to_string(input_size()) +
                                        " inputs and " + std::to_string(output_size()) +
                                        " outputs; expected 3 and 1");
  }
  const auto check_one = [this](const char* name, const tensor::Tensor& tensor) {
    base::Status status = check_tensor(tensor, device_type_, data_type_);
    if (!status) status.set_err_msg(std::string(name) + ": " + status.get_err_msg());
    return status;
  };
  base::Status status = check_one("query", get_input(0));
  if (status) status = check_one("key", get_input(1));
  if (status) status = check_one("value", get_input(2));
  if (status) status = check_one("output", get_output(0));
  if (!status) return status;

  // The kernel takes the number of key/value heads, which these two must agree on.
  if (kv_mul_ < 1 || head_num_ % kv_mul_ != 0 ||
      int64_t{kv_dim_} * kv_mul_ != int64_t{head_num_} * head_size_) {
    return base::error::InvalidArgument(
        "kv_mul is " + std::to_string(kv_mul_) + " and kv_dim is " + std::to_string(kv_dim_) +
        "; expected kv_mul to divide head_num (" + std::to_string(head_num_) +
        ") and kv_dim to be head_num / kv_mul * head_size (" + std::to_string(head_size_) + ")");
  }
  return status;
}

base::Status FlashAttention::forward() {
  const base::Status status = check();
  if (!status) return status;
  return run_flash(get_input(0), get_input(1), get_input(2), get_output(0), head_num_,
                   head_num_ / kv_mul_, head_size_, seq_len_, pos_, layer_index_, softmax_scale_,
                   is_causal_, device_type_, cuda_config_.get());
}
}  // namespace op
#endif  // KFA_ADAPTER_NO_LAYER

namespace kernel {
#ifndef KFA_ADAPTER_NO_FLASH_KERNEL
void flash_attention_kernel(const tensor::Tensor& query, const tensor::Tensor& key,
                            const tensor::Tensor& value, const tensor::Tensor& output,
                            int32_t head_num, int32_t kv_head_num, int32_t head_size,
                            int32_t seq_len, int32_t pos, int32_t layer_idx, float softmax_scale,
                            bool is_causal, base::DeviceType device_type, CudaConfig* config) {
  static std::atomic<bool> told{false};
  kfa_adapter::report(
      "flash_attention_kernel",
      run_flash(query, key, value, output, head_num, kv_head_num, head_size, seq_len, pos,
                layer_idx, softmax_scale, is_causal, device_type, config),
      told);
}
#endif
}  // namespace kernel
