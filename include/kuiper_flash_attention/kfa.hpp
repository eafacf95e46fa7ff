/**
 * @file
 * C++17 wrapper of kfa.h: statuses become exceptions, descriptions are built, the layer handle is an
 * object. Header only.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef KUIPER_FLASH_ATTENTION_KFA_HPP
#define KUIPER_FLASH_ATTENTION_KFA_HPP

#include "kuiper_flash_attention/kfa.h"

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

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

/** Whether a kernel serves a problem; see kfa_attention_supported(). */
inline bool supported(const kfa_attention_desc& desc) noexcept {
  return kfa_attention_supported(&desc) == KFA_OK;
}

/** Bytes of workspace: what forward() does not run without, and what it runs best with. */
struct WorkspaceBounds {
  size_t min, preferred;
};

/** See kfa_attention_workspace_bounds(). */
inline WorkspaceBounds workspace_bounds(const kfa_attention_desc& desc) {
  WorkspaceBounds bounds{};
  check(kfa_attention_workspace_bounds(&desc, &bounds.min, &bounds.preferred));
  return bounds;
}

/** The element type of a C++ type. 16-bit floats and packed types have none: name theirs. */
template <typename T>
constexpr kfa_dtype dtype_of() noexcept {
  if constexpr (std::is_same_v<T, float>) {
    return KFA_DTYPE_FP32;
  } else if constexpr (std::is_same_v<T, int8_t>) {
    return KFA_DTYPE_INT8;
  } else {
    static_assert(std::is_same_v<T, uint8_t>, "name the type: kfa::Tensor(data, KFA_DTYPE_...)");
    return KFA_DTYPE_UINT8;
  }
}

/** A view of a tensor; packed unless strides() are set. */
class Tensor {
 public:
  /** Elements of a type that C++ has. */
  template <typename T, typename = std::enable_if_t<!std::is_void_v<T>>>
  Tensor(T* data) noexcept : Tensor(data, dtype_of<std::remove_const_t<T>>()) {}

  /** Elements of any type. */
  Tensor(const void* data, kfa_dtype dtype) noexcept {
    view_.data = const_cast<void*>(data);
    view_.dtype = dtype;
  }

  /** Elements (of a block type: blocks) from one sequence or page, row and head to the next. */
  Tensor& strides(int64_t batch, int64_t row, int64_t head) noexcept {
    view_.batch_stride = batch;
    view_.row_stride = row;
    view_.head_stride = head;
    return *this;
  }

  const kfa_tensor_view& view() const noexcept { return view_; }

 private:
  kfa_tensor_view view_{};
};

/** Whether rows see keys after their own position; the numbers are those of `is_causal`. */
enum class Causal : int32_t { kNone = 0, kBottomRight = 1, kTopLeft = 2 };

/** A paged cache; see the fields of kfa_attention_desc of these names. */
struct Pages {
  int32_t page_size = 0;
  int32_t pages = 0;
  const int32_t* table = nullptr;
  int64_t table_stride = 0;
  const int32_t* offsets = nullptr;
  const int32_t* value_table = nullptr;
};

/** An explicit mask; see kfa_attention_mask and the `mask_*` fields of kfa_attention_desc. */
struct Mask {
  kfa_mask_kind kind = KFA_MASK_NONE;
  const void* data = nullptr;
  kfa_dtype dtype = KFA_DTYPE_FP32;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  int32_t columns = 0;
  bool newest = false;
  const int64_t* offsets = nullptr;
  const float* head_factor = nullptr;
};

/** Scales of a quantised tensor, all of one type; strides of 0 share. See kfa_quant. */
inline kfa_quant quant(const Tensor& scale) noexcept {
  kfa_quant quant{};
  quant.struct_size = sizeof(quant);
  quant.dtype = scale.view().dtype;
  quant.scale = scale.view().data;
  return quant;
}

/** Tables of a rotary embedding of `rows` positions. See kfa_rope. */
inline kfa_rope rope(const Tensor& cos, const Tensor& sin, int32_t rows) noexcept {
  kfa_rope rope{};
  rope.struct_size = sizeof(rope);
  rope.dtype = cos.view().dtype;
  rope.cos = cos.view().data;
  rope.sin = sin.view().data;
  rope.rows = rows;
  return rope;
}

/** RMS norm of queries and, with weights of theirs, of new keys. See kfa_norm. */
inline kfa_norm norm(const Tensor& query_weight, const void* key_weight, float epsilon) noexcept {
  kfa_norm norm{};
  norm.struct_size = sizeof(norm);
  norm.dtype = query_weight.view().dtype;
  norm.query_weight = query_weight.view().data;
  norm.key_weight = key_weight;
  norm.epsilon = epsilon;
  return norm;
}

/**
 * Builds an attention problem, and computes it.
 *
 *     kfa::Attention attention(heads, kv_heads, head_dim);
 *     attention.rows(1).keys(pos + 1).query(q).key(k).value(v).output(out).window(1024);
 *     attention.forward();
 *
 * Every setter is named after what kfa_attention_desc says of it and has its default. Memory is
 * named, not copied; scales, tables and new keys that a setter takes by value live in this object.
 */
class Attention {
 public:
  Attention(int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t value_head_dim = 0) {
    check(kfa_attention_desc_init(&desc_));
    desc_.heads = heads;
    desc_.kv_heads = kv_heads;
    desc_.head_dim = head_dim;
    desc_.value_head_dim = value_head_dim;
  }

  /** Sequences. */
  Attention& batch(int32_t batch) { return set(desc_.batch, batch); }
  /** Query rows of a sequence, or the most where lengths or offsets say how many: `q_len`. */
  Attention& rows(int32_t q_len) { return set(desc_.q_len, q_len); }
  /** Keys of a sequence, likewise: `kv_len`. */
  Attention& keys(int32_t kv_len) { return set(desc_.kv_len, kv_len); }

  Attention& query(const Tensor& tensor) { return set(desc_.query, tensor.view()); }
  Attention& key(const Tensor& tensor) { return set(desc_.key, tensor.view()); }
  Attention& value(const Tensor& tensor) { return set(desc_.value, tensor.view()); }
  Attention& output(const Tensor& tensor) { return set(desc_.output, tensor.view()); }

  /** Where tensors lie, and on CUDA the stream. */
  Attention& device(kfa_device_type device, void* stream = nullptr, int32_t index = -1) {
    desc_.device_index = index;
    desc_.stream = stream;
    return set(desc_.device, device);
  }
  Attention& mode(kfa_attention_mode mode) { return set(desc_.mode, mode); }
  Attention& deterministic() { return flag(KFA_FLAG_DETERMINISTIC); }
  Attention& batch_invariant(int32_t split_keys = 0) {
    desc_.split_keys = split_keys;
    return flag(KFA_FLAG_BATCH_INVARIANT);
  }
  Attention& fast_math() { return flag(KFA_FLAG_FAST_MATH); }

  // Which keys a row sees.
  Attention& causal(Causal causal) { return set(desc_.is_causal, static_cast<int32_t>(causal)); }
  /** A row's newest keys, its own included: `sliding_window`. */
  Attention& window(int32_t keys) { return set(desc_.sliding_window, keys); }
  Attention& window_right(int32_t keys) { return set(desc_.window_right, keys); }
  Attention& chunk(int32_t keys) { return set(desc_.attention_chunk, keys); }
  Attention& span_ends(const int32_t* ends) { return set(desc_.span_ends, ends); }

  // What becomes of a score.
  Attention& scale(float scale) { return set(desc_.softmax_scale, scale); }
  Attention& softcap(float softcap) { return set(desc_.softcap, softcap); }
  Attention& sinks(const float* sinks) { return set(desc_.sinks, sinks); }
  Attention& alibi(const float* slopes, int64_t batch_stride = 0) {
    desc_.alibi_batch_stride = batch_stride;
    return set(desc_.alibi_slopes, slopes);
  }
  Attention& mask(const Mask& mask) {
    desc_.mask_columns = mask.columns;
    desc_.mask_newest = mask.newest;
    desc_.mask_offsets = mask.offsets;
    desc_.mask_head_factor = mask.head_factor;
    return set(desc_.mask, {mask.data, mask.kind, mask.dtype, mask.batch_stride, mask.head_stride,
                            mask.row_stride});
  }

  // How long sequences are, and where they lie.
  Attention& query_offsets(const int32_t* offsets, int32_t rows = 0) {
    desc_.query_rows = rows;
    return set(desc_.query_offsets, offsets);
  }
  Attention& kv_offsets(const int32_t* offsets, int32_t rows = 0) {
    desc_.kv_rows = rows;
    return set(desc_.kv_offsets, offsets);
  }
  Attention& q_lens(const int32_t* lens) { return set(desc_.q_lens, lens); }
  Attention& kv_lens(const int32_t* lens) { return set(desc_.kv_lens, lens); }
  Attention& kv_starts(const int32_t* starts) { return set(desc_.kv_starts, starts); }
  Attention& cache_index(const int32_t* index, int32_t entries) {
    desc_.cache_batch = entries;
    return set(desc_.cache_index, index);
  }
  Attention& pages(const Pages& pages) {
    desc_.page_table = pages.table;
    desc_.page_table_stride = pages.table_stride;
    desc_.page_offsets = pages.offsets;
    desc_.value_page_table = pages.value_table;
    desc_.pages = pages.pages;
    return set(desc_.page_size, pages.page_size);
  }
  Attention& pos_device(const int32_t* pos) { return set(desc_.pos_device, pos); }
  Attention& key_quant(const kfa_quant& quant) { return set(key_quant_, quant); }
  Attention& value_quant(const kfa_quant& quant) { return set(value_quant_, quant); }

  // The rest of a decoding step.
  Attention& norm(const kfa_norm& norm) { return set(norm_, norm); }
  Attention& rope(const kfa_rope& rope) { return set(rope_, rope); }
  Attention& append(const Tensor& key, const Tensor& value, const int64_t* slots = nullptr) {
    append_.emplace();
    append_->struct_size = sizeof(kfa_append);
    append_->key = key.view();
    append_->value = value.view();
    append_->slots = slots;
    return *this;
  }

  /** Log-sum-exp of each row; packed unless lse_strides() are set. */
  Attention& lse(float* lse) { return set(desc_.lse, lse); }
  Attention& lse_strides(int64_t batch, int64_t head, int64_t row) {
    desc_.lse_batch_stride = batch;
    desc_.lse_head_stride = head;
    return set(desc_.lse_row_stride, row);
  }
  Attention& lse_base2() { return flag(KFA_FLAG_LSE_BASE2); }

  /** The most threads of the library's that a call may use. */
  Attention& threads(int32_t threads) { return set(desc_.threads, threads); }
  /**
   * The host's own threads, of which there are `threads`: `pool.parallel(tasks, run)` calls `run(i)`
   * once for each `i` below `tasks` and returns when all are done. It must not throw.
   */
  template <typename Pool>
  Attention& threads(Pool& pool, int32_t threads) {
    desc_.pool = &pool;
    desc_.parallel = [](void* pool, int32_t tasks, kfa_task task, void* argument) {
      static_cast<Pool*>(pool)->parallel(tasks, [=](int32_t index) { task(argument, index); });
    };
    return set(desc_.threads, threads);
  }

  Attention& workspace(void* workspace, size_t size) {
    desc_.workspace_size = size;
    return set(desc_.workspace, workspace);
  }

  /** The description, valid as long as this object is neither changed nor gone. */
  kfa_attention_desc desc() const& noexcept {
    const auto address = [](const auto& part) { return part ? &*part : nullptr; };
    kfa_attention_desc desc = desc_;
    desc.key_quant = address(key_quant_);
    desc.value_quant = address(value_quant_);
    desc.norm = address(norm_);
    desc.rope = address(rope_);
    desc.append = address(append_);
    return desc;
  }
  kfa_attention_desc desc() const&& = delete;

  void forward() const { kfa::forward(desc()); }
  bool supported() const noexcept { return kfa::supported(desc()); }
  size_t workspace_size() const { return kfa::workspace_size(desc()); }
  WorkspaceBounds workspace_bounds() const { return kfa::workspace_bounds(desc()); }
  std::string explain() const { return kfa::explain(desc()); }

 private:
  template <typename Field, typename Value>
  Attention& set(Field& field, const Value& value) {
    field = value;
    return *this;
  }
  Attention& set(kfa_attention_mask& field, const kfa_attention_mask& value) {
    field = value;
    return *this;
  }
  Attention& flag(uint32_t bit) { return set(desc_.flags, desc_.flags | bit); }

  kfa_attention_desc desc_;
  std::optional<kfa_quant> key_quant_, value_quant_;
  std::optional<kfa_norm> norm_;
  std::optional<kfa_rope> rope_;
  std::optional<kfa_append> append_;
};

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
