// The attention layers and kernels of the engine family's later branch, served by
// KuiperFlashAttention's C API.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// For engines whose op/flash_attention.h declares FlashAttentionDecodeLayer and
// FlashAttentionPrefillLayer. kuiper_flash_attention_adopt() compiles this file into the engine,
// beside mha_kernel.cpp; macros change what it defines:
//
//   KFA_ADAPTER_STANDARD_MHA      everything computes standard MHA
//   KFA_ADAPTER_WARM_UP           the layers' constructors call kfa_warm_up()
//   KFA_ADAPTER_NO_LAYER          leaves out the members of the two layers
//   KFA_ADAPTER_NO_FLASH_KERNEL   leaves out the ten functions flash_attention…_cu
//   KFA_ADAPTER_NO_MHA_KERNEL_CU  leaves out mha_kernel_cu_gpu_pos and batched_mha_kernel_cu
//
// Tensors are float32 or float16, as they say themselves. In paged mode the layers call the engine's
// own kernels, as before.
#include <kuiper_flash_attention/adapter/engine.h>
#ifndef KFA_ADAPTER_NO_LAYER
#include <op/flash_attention.h>
#include <op/layer.h>

#include <type_traits>
#endif

namespace {
// A piece of a sequence on one layer of the caches.
struct Rows {
  int32_t start_pos;                    // of the first row; below 0 is refused
  int32_t count;                        // 1 in decode
  const int32_t* device_pos = nullptr;  // replaces start_pos where it is given
};
struct Heads {
  int32_t head_num, kv_head_num, head_size;
};
struct Cache {
  int32_t layer_index, max_seq_len, kv_dim;
};

[[maybe_unused]] base::Status invalid(const std::string& name, int64_t value,
                                      const std::string& expected) {
  return base::error::InvalidArgument(name + " is " + std::to_string(value) + "; expected " +
                                      expected);
}

// Sizes and places, which the library cannot see; the rest is checked there.
[[maybe_unused]] base::Status check_tensor(const char* name, const tensor::Tensor& tensor,
                                           int64_t elements, base::DeviceType device_type) {
  if (tensor.is_empty()) return base::error::InvalidArgument(std::string(name) + " is empty");
  if (tensor.device_type() != device_type) {
    return invalid(std::string(name) + ".device_type", static_cast<int>(tensor.device_type()),
                   "the query's, " + std::to_string(static_cast<int>(device_type)));
  }
  if (static_cast<int64_t>(tensor.size()) < elements) {
    return invalid(std::string(name) + ".size", static_cast<int64_t>(tensor.size()),
                   "at least " + std::to_string(elements));
  }
  return base::error::Success();
}

[[maybe_unused]] base::Status attend(Rows rows, const Heads& heads, const Cache& cache,
                                     const tensor::Tensor& query, const tensor::Tensor& output,
                                     const tensor::Tensor& key_cache,
                                     const tensor::Tensor& value_cache,
                                     const kernel::CudaConfig* config, bool standard = false) {
  const base::DeviceType device_type = query.device_type();
  if (rows.device_pos && device_type == base::DeviceType::kDeviceCPU) {
    rows.start_pos = *rows.device_pos;
    rows.device_pos = nullptr;
  }
  if (rows.count < 1) return invalid("seq_len", rows.count, "at least 1");
  if (heads.kv_head_num < 1) return invalid("kv_head_num", heads.kv_head_num, "at least 1");
  if (cache.layer_index < 0) return invalid("layer_index", cache.layer_index, "0 or more");
  if (!rows.device_pos &&
      (rows.start_pos < 0 || rows.start_pos > int64_t{cache.max_seq_len} - rows.count)) {
    return invalid("position", rows.start_pos,
                   "0 to " + std::to_string(int64_t{cache.max_seq_len} - rows.count) +
                       ", as the cache holds " + std::to_string(cache.max_seq_len) + " tokens");
  }
  // 64-bit on purpose: layer offsets of real models do not fit an int32.
  const int64_t query_size = int64_t{rows.count} * heads.head_num * heads.head_size;
  const int64_t layer_size = int64_t{cache.max_seq_len} * cache.kv_dim;
  const int64_t cache_size = (int64_t{cache.layer_index} + 1) * layer_size;
  base::Status status = check_tensor("query", query, query_size, device_type);
  if (status) status = check_tensor("output", output, query_size, device_type);
  if (status) status = check_tensor("key_cache", key_cache, cache_size, device_type);
  if (status) status = check_tensor("value_cache", value_cache, cache_size, device_type);
  if (!status) return status;

  const auto view = [](const tensor::Tensor& tensor) {
    kfa_tensor_view view{};
    view.data = const_cast<char*>(tensor.ptr<char>());
    view.dtype = static_cast<kfa_dtype>(tensor.data_type());
    return view;
  };
  const auto cache_view = [&](const tensor::Tensor& tensor) {
    kfa_tensor_view in_layer = view(tensor);
    const int64_t layer_bytes =
        layer_size * static_cast<int64_t>(base::DataTypeSize(tensor.data_type()));
    in_layer.data = static_cast<char*>(in_layer.data) + cache.layer_index * layer_bytes;
    in_layer.batch_stride = layer_size;
    in_layer.row_stride = cache.kv_dim;
    in_layer.head_stride = heads.head_size;
    return in_layer;
  };
  kfa_attention_desc desc;
  kfa_attention_desc_init(&desc);
  desc.device = kfa_adapter::to_kfa(device_type);
#ifdef KFA_ADAPTER_STANDARD_MHA
  standard = true;
#endif
  if (standard) desc.mode = KFA_ATTENTION_MODE_STANDARD;
  desc.q_len = rows.count;
  desc.kv_len = rows.device_pos ? cache.max_seq_len : rows.start_pos + rows.count;
  desc.pos_device = rows.device_pos;
  desc.heads = heads.head_num;
  desc.kv_heads = heads.kv_head_num;
  desc.head_dim = heads.head_size;
  desc.query = view(query);
  desc.output = view(output);
  desc.key = cache_view(key_cache);
  desc.value = cache_view(value_cache);
  desc.stream = kfa_adapter::stream_of(desc.device, config);
  return kfa_adapter::to_status(kfa_attention_forward_in_scratch(&desc, cache.max_seq_len));
}
}  // namespace

#ifndef KFA_ADAPTER_NO_LAYER
namespace kernel {
// The engine's own, for its paged caches.
void paged_flash_attention_decode_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                     int32_t, int32_t, const tensor::Tensor&, const tensor::Tensor&,
                                     const void*, const void*, const int32_t*, CudaConfig*);
void paged_flash_attention_decode_fp16_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                          int32_t, int32_t, int32_t, const tensor::Tensor&,
                                          const tensor::Tensor&, const void*, const void*,
                                          const int32_t*, CudaConfig*);
void paged_flash_attention_decode_fp16_gpu_pos_cu(const int32_t*, int32_t, int32_t, int32_t,
                                                  int32_t, int32_t, int32_t, int32_t, int32_t,
                                                  const tensor::Tensor&, const tensor::Tensor&,
                                                  const void*, const void*, const int32_t*,
                                                  CudaConfig*);
void paged_flash_attention_prefill_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                      int32_t, int32_t, int32_t, const tensor::Tensor&,
                                      const tensor::Tensor&, const void*, const void*,
                                      const int32_t*, CudaConfig*);
void paged_flash_attention_prefill_fp16_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                                           int32_t, int32_t, int32_t, int32_t,
                                           const tensor::Tensor&, const tensor::Tensor&,
                                           const void*, const void*, const int32_t*, CudaConfig*);
}  // namespace kernel

namespace {
// Earlier states of the branch know neither paged caches nor the choice of an algorithm.
template <typename Layer, typename = void>
constexpr bool kKnowsPages = false;
template <typename Layer>
constexpr bool kKnowsPages<Layer, std::void_t<decltype(std::declval<Layer>().is_paged_mode())>> =
    true;

template <typename Layer, typename = void>
constexpr bool kKnowsTypes = false;
template <typename Layer>
constexpr bool
    kKnowsTypes<Layer, std::void_t<decltype(std::declval<Layer>().get_attention_type())>> = true;

// Whether the engine asked for standard MHA (kAttentionMHA, its first kind).
template <typename Layer>
bool wants_standard(const Layer& layer) {
  if constexpr (kKnowsTypes<Layer>) return static_cast<int>(layer.get_attention_type()) == 0;
  return false;
}

template <typename Layer, typename Paged, typename Plain>
base::Status forward_through([[maybe_unused]] const Layer& layer,
                             [[maybe_unused]] const Paged& paged, const Plain& plain) {
  if constexpr (kKnowsPages<Layer>) {
    if (layer.is_paged_mode()) {
      paged(layer);
      return base::error::Success();
    }
  }
  return plain();
}

base::Status check_heads(int32_t head_num, int32_t kv_head_num, int32_t head_size) {
  if (head_num < 1) return invalid("head_num", head_num, "at least 1");
  if (kv_head_num < 1 || head_num % kv_head_num != 0) {
    return invalid("kv_head_num", kv_head_num,
                   "a divisor of head_num (" + std::to_string(head_num) + ")");
  }
  if (head_size < 1) return invalid("head_size", head_size, "at least 1");
  return base::error::Success();
}

[[maybe_unused]] bool is_fp16(const tensor::Tensor& tensor) {
  return tensor.data_type() == base::DataType::kDataTypeFp16;
}
}  // namespace

namespace op {
// Inputs: query, output, key cache, value cache and, in decode, a position in memory. The output is
// an input because it may be the query.
FlashAttentionDecodeLayer::FlashAttentionDecodeLayer(base::DeviceType device_type)
    : Layer(device_type, LayerType::kLayerMHA, "FlashAttentionDecode") {
  reset_input_size(5);
  reset_output_size(0);
  kfa_adapter::warm_up(device_type);
}

FlashAttentionDecodeLayer::FlashAttentionDecodeLayer(base::DeviceType device_type, int32_t head_num,
                                                     int32_t kv_head_num, int32_t head_size,
                                                     int32_t kv_mul, int32_t seq_len,
                                                     int32_t kv_dim, bool use_fp16)
    : FlashAttentionDecodeLayer(device_type) {
  set_dims(head_num, kv_head_num, head_size, kv_mul, seq_len, kv_dim);
  set_use_fp16(use_fp16);
}

base::Status FlashAttentionDecodeLayer::check() const {
  return check_heads(head_num_, kv_head_num_, head_size_);
}

base::Status FlashAttentionDecodeLayer::forward() {
  const base::Status status = check();
  if (!status) return status;
  const tensor::Tensor &query = get_input(0), &output = get_input(1);
  const int32_t* device_pos = use_gpu_pos_ ? get_input(4).ptr<int32_t>() : nullptr;
  if (use_gpu_pos_ && !device_pos) return base::error::InvalidArgument("input 4 (pos) is empty");
  return forward_through(
      *this,
      [&](const auto& self) {
        if (!self.use_fp16_) {
          kernel::paged_flash_attention_decode_cu(
              self.pos_, self.head_num_, self.kv_head_num_, self.head_size_, self.kv_mul_,
              self.layer_index_, self.kv_dim_, self.page_size_, self.max_blocks_per_seq_, query,
              output, self.key_pool_, self.value_pool_, self.block_table_, cuda_config_.get());
        } else if (device_pos) {
          kernel::paged_flash_attention_decode_fp16_gpu_pos_cu(
              device_pos, self.head_num_, self.kv_head_num_, self.head_size_, self.kv_mul_,
              self.layer_index_, self.kv_dim_, self.page_size_, self.max_blocks_per_seq_, query,
              output, self.key_pool_, self.value_pool_, self.block_table_, cuda_config_.get());
        } else {
          kernel::paged_flash_attention_decode_fp16_cu(
              self.pos_, self.head_num_, self.kv_head_num_, self.head_size_, self.kv_mul_,
              self.layer_index_, self.kv_dim_, self.page_size_, self.max_blocks_per_seq_, query,
              output, self.key_pool_, self.value_pool_, self.block_table_, cuda_config_.get());
        }
      },
      [&] {
        return attend({pos_, 1, device_pos}, {head_num_, kv_head_num_, head_size_},
                      {layer_index_, seq_len_, kv_dim_}, query, output, get_input(2), get_input(3),
                      cuda_config_.get(), wants_standard(*this));
      });
}

base::Status FlashAttentionDecodeLayer::forward(int32_t pos, int32_t head_num, int32_t kv_head_num,
                                                int32_t head_size, int32_t kv_mul,
                                                int32_t layer_idx, int32_t seq_len, int32_t kv_dim,
                                                const tensor::Tensor& query,
                                                const tensor::Tensor& mha_output,
                                                const tensor::Tensor& key_cache,
                                                const tensor::Tensor& val_cache) {
  return forward_through(
      *this,
      [&](const auto& self) {
        const auto run = is_fp16(query) ? kernel::paged_flash_attention_decode_fp16_cu
                                        : kernel::paged_flash_attention_decode_cu;
        run(pos, head_num, kv_head_num, head_size, kv_mul, layer_idx, kv_dim, self.page_size_,
            self.max_blocks_per_seq_, query, mha_output, self.key_pool_, self.value_pool_,
            self.block_table_, cuda_config_.get());
      },
      [&] {
        return attend({pos, 1}, {head_num, kv_head_num, head_size}, {layer_idx, seq_len, kv_dim},
                      query, mha_output, key_cache, val_cache, cuda_config_.get(),
                      wants_standard(*this));
      });
}

FlashAttentionPrefillLayer::FlashAttentionPrefillLayer(base::DeviceType device_type)
    : Layer(device_type, LayerType::kLayerMHA, "FlashAttentionPrefill") {
  reset_input_size(4);
  reset_output_size(0);
  kfa_adapter::warm_up(device_type);
}

FlashAttentionPrefillLayer::FlashAttentionPrefillLayer(base::DeviceType device_type,
                                                       int32_t head_num, int32_t kv_head_num,
                                                       int32_t head_size, int32_t seq_len,
                                                       bool use_fp16)
    : FlashAttentionPrefillLayer(device_type) {
  set_dims(head_num, kv_head_num, head_size, seq_len);
  set_use_fp16(use_fp16);
}

base::Status FlashAttentionPrefillLayer::check() const {
  return check_heads(head_num_, kv_head_num_, head_size_);
}

base::Status FlashAttentionPrefillLayer::forward() {
  const base::Status status = check();
  if (!status) return status;
  const tensor::Tensor &query = get_input(0), &output = get_input(1);
  const int32_t kv_mul = head_num_ / kv_head_num_, kv_dim = kv_head_num_ * head_size_;
  return forward_through(
      *this,
      [&](const auto& self) {
        const auto run = self.use_fp16_ ? kernel::paged_flash_attention_prefill_fp16_cu
                                        : kernel::paged_flash_attention_prefill_cu;
        run(self.start_pos_, self.cur_seq_len_, self.head_num_, self.kv_head_num_, self.head_size_,
            kv_mul, self.layer_idx_, kv_dim, self.page_size_, self.max_blocks_per_seq_, query,
            output, self.key_pool_, self.value_pool_, self.block_table_, cuda_config_.get());
      },
      [&] {
        return attend({start_pos_, cur_seq_len_}, {head_num_, kv_head_num_, head_size_},
                      {layer_idx_, max_seq_len_, kv_dim}, query, output, get_input(2), get_input(3),
                      cuda_config_.get(), wants_standard(*this));
      });
}

base::Status FlashAttentionPrefillLayer::forward(int32_t start_pos, int32_t seq_len,
                                                 int32_t head_num, int32_t kv_head_num,
                                                 int32_t head_size, int32_t kv_mul,
                                                 int32_t layer_idx, int32_t max_seq_len,
                                                 int32_t kv_dim, const tensor::Tensor& query,
                                                 const tensor::Tensor& output,
                                                 const tensor::Tensor& key_cache,
                                                 const tensor::Tensor& val_cache) {
  return forward_through(
      *this,
      [&](const auto& self) {
        const auto run = is_fp16(query) ? kernel::paged_flash_attention_prefill_fp16_cu
                                        : kernel::paged_flash_attention_prefill_cu;
        run(start_pos, seq_len, head_num, kv_head_num, head_size, kv_mul, layer_idx, kv_dim,
            self.page_size_, self.max_blocks_per_seq_, query, output, self.key_pool_,
            self.value_pool_, self.block_table_, cuda_config_.get());
      },
      [&] {
        return attend({start_pos, seq_len}, {head_num, kv_head_num, head_size},
                      {layer_idx, max_seq_len, kv_dim}, query, output, key_cache, val_cache,
                      cuda_config_.get(), wants_standard(*this));
      });
}
}  // namespace op
#endif  // KFA_ADAPTER_NO_LAYER

// The kernels differ in name and in how they tell the rows, not in what they compute.
#define KFA_KERNEL(name, rows, ...)                                                               \
  void name(__VA_ARGS__, int32_t head_num, int32_t kv_head_num, int32_t head_size, int32_t,       \
            int32_t layer_index, int32_t max_seq_len, int32_t kv_dim, const tensor::Tensor& query, \
            const tensor::Tensor& output, const tensor::Tensor& key_cache,                        \
            const tensor::Tensor& value_cache, CudaConfig* config) {                              \
    static std::atomic<bool> told{false};                                                         \
    kfa_adapter::report(#name,                                                                    \
                        attend(rows, {head_num, kv_head_num, head_size},                          \
                               {layer_index, max_seq_len, kv_dim}, query, output, key_cache,      \
                               value_cache, config),                                              \
                        told);                                                                    \
  }
#define KFA_PREFILL(name) KFA_KERNEL(name, (Rows{start_pos, seq_len}), int32_t start_pos, int32_t seq_len)
#define KFA_DECODE(name) KFA_KERNEL(name, (Rows{pos, 1}), int32_t pos)
#define KFA_DECODE_DEVICE_POS(name) KFA_KERNEL(name, (Rows{-1, 1, pos}), const int32_t* pos)

namespace kernel {
#ifndef KFA_ADAPTER_NO_FLASH_KERNEL
KFA_PREFILL(flash_attention_prefill_cu)
KFA_PREFILL(flash_attention_prefill_fp16_cu)
KFA_PREFILL(flash_attention2_prefill_cu)
KFA_PREFILL(flash_attention2_prefill_fp16_cu)
KFA_DECODE(flash_attention_decode_cu)
KFA_DECODE(flash_attention_decode_fp16_cu)
KFA_DECODE(flash_attention2_decode_cu)
KFA_DECODE(flash_attention2_decode_fp16_cu)
KFA_DECODE_DEVICE_POS(flash_attention_decode_fp16_gpu_pos_cu)
KFA_DECODE_DEVICE_POS(flash_attention2_decode_fp16_gpu_pos_cu)
#endif

#ifndef KFA_ADAPTER_NO_MHA_KERNEL_CU
// The scores, which standard MHA would store, are left alone.
void mha_kernel_cu_gpu_pos(const int32_t* pos, int32_t head_num, int32_t layer_index,
                           int32_t seq_len, int32_t kv_dim, int32_t kv_mul, int32_t head_size,
                           const tensor::Tensor& mha_out, const tensor::Tensor& query,
                           const tensor::Tensor&, const tensor::Tensor& key_cache,
                           const tensor::Tensor& value_cache, base::DeviceType,
                           CudaConfig* config) {
  static std::atomic<bool> told{false};
  kfa_adapter::report("mha_kernel_cu_gpu_pos",
                      attend({-1, 1, pos}, {head_num, kv_mul > 0 ? head_num / kv_mul : 0, head_size},
                             {layer_index, seq_len, kv_dim}, query, mha_out, key_cache, value_cache,
                             config),
                      told);
}

void batched_mha_kernel_cu(int32_t start_pos, int32_t seq_len, int32_t head_num,
                           int32_t layer_index, int32_t max_seq_len, int32_t, int32_t kv_dim,
                           int32_t kv_mul, int32_t head_size, const tensor::Tensor& mha_out,
                           const tensor::Tensor& query, const tensor::Tensor&,
                           const tensor::Tensor& key_cache, const tensor::Tensor& value_cache,
                           base::DeviceType, CudaConfig* config) {
  static std::atomic<bool> told{false};
  kfa_adapter::report("batched_mha_kernel_cu",
                      attend({start_pos, seq_len},
                             {head_num, kv_mul > 0 ? head_num / kv_mul : 0, head_size},
                             {layer_index, max_seq_len, kv_dim}, query, mha_out, key_cache,
                             value_cache, config),
                      told);
}
#endif
}  // namespace kernel
