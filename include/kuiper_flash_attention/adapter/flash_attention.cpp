// The engine's attention layer and kernels, served by KuiperFlashAttention's C API.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Compile this file into the engine, once (the CMake target KuiperFlashAttention::kuiper does), with
// the engine's public headers on the include path. Define a macro to leave out what the engine
// goes on defining itself:
//
//   KFA_ADAPTER_NO_LAYER          the members of op::FlashAttention
//   KFA_ADAPTER_NO_FLASH_KERNEL   kernel::flash_attention_kernel, for both devices
//   KFA_ADAPTER_NO_MHA_KERNEL     kernel::mha_kernel, for the CPU
//   KFA_ADAPTER_NO_MHA_KERNEL_CU  kernel::mha_kernel_cu, for CUDA

// Angle brackets, because quotes would find the op/ beside this file before the engine's own.
#include <base/base.h>
#include <base/cuda_config.h>
#include <kuiper_flash_attention/kfa.h>
#include <tensor/tensor.h>
#ifndef KFA_ADAPTER_NO_LAYER
#include <op/flash_attention.h>
#include <op/layer.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <mutex>
#include <set>
#include <string>

// Engines that keep some of the kernels leave some of these helpers unused.
namespace {
// The engine passes outputs as const, too; this is the one place that takes it away.
[[maybe_unused]] kfa_tensor to_kfa(const tensor::Tensor& tensor) {
  kfa_tensor out{};
  out.data = const_cast<float*>(tensor.ptr<float>());
  out.size = static_cast<int64_t>(tensor.size());
  out.dtype = static_cast<kfa_dtype>(tensor.data_type());
  out.device = static_cast<kfa_device_type>(tensor.device_type());
  return out;
}

[[maybe_unused]] base::Status to_status(kfa_status status) {
  if (status == KFA_OK) return base::error::Success();
  if (status == KFA_ERROR_INVALID_ARGUMENT) {
    return base::error::InvalidArgument(kfa_last_error_message());
  }
  return base::error::InternalError(std::string(kfa_last_error_message()) + " (" +
                                    kfa_status_name(status) + ")");
}

// Why a kernel getter gave none: the device does not exist, or not in this build or machine.
[[maybe_unused]] base::Status no_kernel(base::DeviceType device_type) {
  if (device_type == base::DeviceType::kDeviceUnknown) {
    return base::error::InvalidArgument(kfa_last_error_message());
  }
  return base::error::InternalError(kfa_last_error_message());
}

// The CPU has no stream, whatever the engine's configuration holds.
[[maybe_unused]] void* stream_of(base::DeviceType device_type, const kernel::CudaConfig* config) {
  const bool has_stream = device_type == base::DeviceType::kDeviceCUDA && config;
  return has_stream ? static_cast<void*>(config->stream) : nullptr;
}

[[maybe_unused]] base::Status run_flash(const tensor::Tensor& query, const tensor::Tensor& key,
                                        const tensor::Tensor& value, const tensor::Tensor& output,
                                        int32_t head_num, int32_t kv_head_num, int32_t head_size,
                                        int32_t seq_len, int32_t pos, int32_t layer_idx,
                                        float softmax_scale, bool is_causal,
                                        base::DeviceType device_type,
                                        const kernel::CudaConfig* config) {
  const auto device = static_cast<kfa_device_type>(device_type);
  const kfa_flash_attention_kernel run = kfa_get_flash_attention_kernel(device);
  if (!run) return no_kernel(device_type);
  const kfa_tensor q = to_kfa(query), k = to_kfa(key), v = to_kfa(value), out = to_kfa(output);
  return to_status(run(&q, &k, &v, &out, head_num, kv_head_num, head_size, seq_len, pos, layer_idx,
                       softmax_scale, is_causal, device, stream_of(device_type, config)));
}

[[maybe_unused]] base::Status run_mha(int32_t pos, int32_t head_num, int32_t layer_index,
                                      int32_t seq_len, int32_t kv_dim, int32_t kv_mul,
                                      int32_t head_size, const tensor::Tensor& mha_out,
                                      const tensor::Tensor& query, const tensor::Tensor& score,
                                      const tensor::Tensor& key_cache,
                                      const tensor::Tensor& value_cache,
                                      base::DeviceType device_type,
                                      const kernel::CudaConfig* config) {
  const auto device = static_cast<kfa_device_type>(device_type);
  const kfa_mha_kernel run = kfa_get_mha_kernel(device);
  if (!run) return no_kernel(device_type);
  const kfa_tensor out = to_kfa(mha_out), q = to_kfa(query), s = to_kfa(score),
                   k = to_kfa(key_cache), v = to_kfa(value_cache);
  return to_status(run(pos, head_num, layer_index, seq_len, kv_dim, kv_mul, head_size, &out, &q, &s,
                       &k, &v, device, stream_of(device_type, config)));
}

// Logs what a void kernel cannot return. A kind of failure (its message without the numbers) is
// logged once: generation would repeat it for every layer and token.
[[maybe_unused]] void report(const char* kernel, base::Status status) {
  if (status) return;
  const std::string message = std::string(kernel) + ": " + status.get_err_msg();
  std::string kind = message;
  kind.erase(std::remove_if(kind.begin(), kind.end(),
                            [](char c) { return (c >= '0' && c <= '9') || c == '-'; }),
             kind.end());
  static std::mutex mutex;
  static std::set<std::string> reported;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!reported.insert(kind).second) return;
#ifdef LOG
  LOG(ERROR) << message;
#else
  std::cerr << message << std::endl;
#endif
}
}  // namespace

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
  report("flash_attention_kernel",
         run_flash(query, key, value, output, head_num, kv_head_num, head_size, seq_len, pos,
                   layer_idx, softmax_scale, is_causal, device_type, config));
}
#endif

#ifndef KFA_ADAPTER_NO_MHA_KERNEL
void mha_kernel(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len, int32_t kv_dim,
                int32_t kv_mul, int32_t head_size, const tensor::Tensor& mha_out,
                const tensor::Tensor& query, const tensor::Tensor& score,
                const tensor::Tensor& key_cache, const tensor::Tensor& value_cache,
                base::DeviceType device_type, CudaConfig* config) {
  report("mha_kernel", run_mha(pos, head_num, layer_index, seq_len, kv_dim, kv_mul, head_size,
                               mha_out, query, score, key_cache, value_cache, device_type, config));
}
#endif

#ifndef KFA_ADAPTER_NO_MHA_KERNEL_CU
void mha_kernel_cu(int32_t pos, int32_t head_num, int32_t layer_index, int32_t seq_len,
                   int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                   const tensor::Tensor& mha_out, const tensor::Tensor& query,
                   const tensor::Tensor& score, const tensor::Tensor& key_cache,
                   const tensor::Tensor& value_cache, base::DeviceType device_type,
                   CudaConfig* config) {
  report("mha_kernel_cu",
         run_mha(pos, head_num, layer_index, seq_len, kv_dim, kv_mul, head_size, mha_out, query,
                 score, key_cache, value_cache, device_type, config));
}
#endif
}  // namespace kernel
