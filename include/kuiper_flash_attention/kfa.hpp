/**
 * @file
 * C++17 wrapper of kfa.h: statuses become exceptions, the layer handle an object. Header only.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef KUIPER_FLASH_ATTENTION_KFA_HPP
#define KUIPER_FLASH_ATTENTION_KFA_HPP

#include "kuiper_flash_attention/kfa.h"

#include <memory>
#include <stdexcept>
#include <string>

namespace kfa {

/** A failed call. `what()` holds the status's name and the library's message. */
class Error : public std::runtime_error {
 public:
  Error(kfa_status status, const std::string& message)
      : std::runtime_error(std::string(kfa_status_name(status)) + ": " + message),
        status_(status) {}

  /** The `KFA_ERROR_*` code. */
  kfa_status status() const noexcept { return status_; }

 private:
  kfa_status status_;
};

/** Throws Error, with this thread's last message, unless `status` is `KFA_OK`. */
inline void check(kfa_status status) {
  if (status != KFA_OK) throw Error(status, kfa_last_error_message());
}

/** A description with every default set; sizes and data pointers are still 0. */
inline kfa_attention_desc desc() {
  kfa_attention_desc desc;
  check(kfa_attention_desc_init(&desc));
  return desc;
}

/** Computes attention; see kfa_attention_forward(). */
inline void forward(const kfa_attention_desc& desc) { check(kfa_attention_forward(&desc)); }

/** Bytes of workspace that forward() needs; see kfa_attention_workspace_size(). */
inline size_t workspace_size(const kfa_attention_desc& desc) {
  size_t size = 0;
  check(kfa_attention_workspace_size(&desc, &size));
  return size;
}

/** Which kernel would serve a problem, and why not others; see kfa_attention_explain(). */
inline std::string explain(const kfa_attention_desc& desc) {
  size_t size = 0;
  check(kfa_attention_explain(&desc, nullptr, 0, &size));
  std::string text(size, '\0');
  // Another thread may change the process's mode between the two calls, and the text with it.
  check(kfa_attention_explain(&desc, text.data(), text.size(), &size));
  text.resize(std::char_traits<char>::length(text.c_str()));
  return text;
}

/** A merge description on the CPU with `struct_size` set; everything else is still 0. */
inline kfa_merge_desc merge_desc() {
  kfa_merge_desc desc{};
  desc.struct_size = sizeof(desc);
  desc.device = KFA_DEVICE_CPU;
  return desc;
}

/** Merges results over disjoint sets of keys; see kfa_attention_merge(). */
inline void merge(const kfa_merge_desc& desc) { check(kfa_attention_merge(&desc)); }

/** Owns a C handle that `destroy` frees. */
template <typename T, void (*destroy)(T*)>
struct HandleDeleter {
  void operator()(T* handle) const noexcept { destroy(handle); }
};
/** See HandleDeleter. */
template <typename T, void (*destroy)(T*)>
using Handle = std::unique_ptr<T, HandleDeleter<T, destroy>>;

/**
 * A flash attention layer. One object serves all layers of a model, one thread at a time.
 *
 * Every member throws Error where the C function of its name reports a status.
 */
class FlashAttentionLayer {
 public:
  /** See kfa_flash_attention_layer_create(). */
  FlashAttentionLayer(kfa_device_type device, int32_t layer_index, int32_t kv_mul, int32_t kv_dim,
                      int32_t seq_len, int32_t head_num, int32_t head_size, float scale = 0.0f) {
    kfa_flash_attention_layer* handle = nullptr;
    check(kfa_flash_attention_layer_create(device, layer_index, kv_mul, kv_dim, seq_len, head_num,
                                           head_size, scale, &handle));
    handle_.reset(handle);
  }

  /** Absolute position of the newest query row; keys `0 ..= pos` are valid. */
  void set_pos(int32_t pos) { check(kfa_flash_attention_layer_set_pos(get(), pos)); }

  /** Which layer of the caches the next forward() reads. */
  void set_layer_idx(int32_t layer_idx) {
    check(kfa_flash_attention_layer_set_layer_idx(get(), layer_idx));
  }

  /** 0 query, 1 key cache, 2 value cache. The memory is not copied. */
  void set_input(int32_t index, const kfa_tensor& tensor) {
    check(kfa_flash_attention_layer_set_input(get(), index, &tensor));
  }

  /** Index 0; may be the query's memory. */
  void set_output(int32_t index, const kfa_tensor& tensor) {
    check(kfa_flash_attention_layer_set_output(get(), index, &tensor));
  }

  /** CUDA stream of forward(); NULL on the CPU. */
  void set_stream(void* stream) { check(kfa_flash_attention_layer_set_stream(get(), stream)); }

  /** Computes attention of the tensors that were set. */
  void forward() { check(kfa_flash_attention_layer_forward(get())); }

  /** Number of inputs: 3. */
  size_t input_size() const noexcept { return kfa_flash_attention_layer_input_size(get()); }

  /** Number of outputs: 1. */
  size_t output_size() const noexcept { return kfa_flash_attention_layer_output_size(get()); }

  /** The C handle, still owned by this object; NULL after a move. */
  kfa_flash_attention_layer* get() const noexcept { return handle_.get(); }

 private:
  Handle<kfa_flash_attention_layer, kfa_flash_attention_layer_destroy> handle_;
};

}  // namespace kfa

#endif  // KUIPER_FLASH_ATTENTION_KFA_HPP
