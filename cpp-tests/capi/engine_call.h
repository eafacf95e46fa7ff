#ifndef KFA_TESTS_CAPI_ENGINE_CALL_H_
#define KFA_TESTS_CAPI_ENGINE_CALL_H_
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kuiper_flash_attention/kfa.h"
#include "support/array.h"
#include "support/oracle.h"

namespace kfa_test {
// The ways in which an engine's call reaches the library.
enum class Route { kFlashKernel, kMhaKernel, kLayer, kStandardMhaKernel };
constexpr Route kRoutes[] = {Route::kFlashKernel, Route::kMhaKernel, Route::kLayer,
                             Route::kStandardMhaKernel};

inline const char* name_of(Route route) {
  static const char* const kNames[] = {"flash_kernel", "mha_kernel", "layer",
                                       "standard_mha_kernel"};
  return kNames[static_cast<int>(route)];
}

// An engine's call with its memory: 3 query rows that end at position 9 of layer 1, in caches of 2
// layers of 24 slots. Slots beyond the position are poison, as is the output. Tests change it.
struct EngineCall {
  int32_t head_num = 4, kv_head_num = 2, head_size = 16;
  int32_t kv_mul = 2, kv_dim = 32;  // of the layer and of standard MHA
  int32_t seq_len = 24, pos = 9, layer_idx = 1;
  float scale = 0;
  bool is_causal = true;
  kfa_device_type device = KFA_DEVICE_CPU;
  void* stream = nullptr;

  Array query_memory{3 * 64}, output_memory{3 * 64}, score_memory{4 * 24};
  Array key_memory{2 * 24 * 32}, value_memory{2 * 24 * 32};
  kfa_tensor query = tensor(query_memory), key = tensor(key_memory), value = tensor(value_memory);
  kfa_tensor output = tensor(output_memory), score = tensor(score_memory);

  EngineCall() {
    query_memory.fill_normal(1);
    for (int32_t layer = 0; layer < 2; ++layer) {
      key_memory.fill_normal(2 + layer, layer * 24 * 32, 10 * 32);
      value_memory.fill_normal(4 + layer, layer * 24 * 32, 10 * 32);
    }
  }
  EngineCall(const EngineCall&) = delete;
  EngineCall& operator=(const EngineCall&) = delete;

  static kfa_tensor tensor(Array& memory) {
    return {memory.data(), static_cast<int64_t>(memory.size()), KFA_DTYPE_FP32, KFA_DEVICE_CPU};
  }

  kfa_status run(Route route) {
    switch (route) {
      case Route::kFlashKernel:
        return kfa_get_flash_attention_kernel(KFA_DEVICE_CPU)(
            &query, &key, &value, &output, head_num, kv_head_num, head_size, seq_len, pos,
            layer_idx, scale, is_causal, device, stream);
      case Route::kMhaKernel:
        return run_mha(kfa_get_mha_kernel(KFA_DEVICE_CPU), &score);
      case Route::kStandardMhaKernel:
        return run_mha(kfa_get_standard_mha_kernel(KFA_DEVICE_CPU), &score);
      case Route::kLayer:
        return run_layer();
    }
    return KFA_ERROR_INTERNAL;
  }

  kfa_status run_mha(kfa_mha_kernel kernel, const kfa_tensor* scores) {
    return kernel(pos, head_num, layer_idx, seq_len, kv_dim, kv_mul, head_size, &output, &query,
                  scores, &key, &value, device, stream);
  }

  // What the call means, straight from the engine's definition of the cache.
  Expected expected_output() const {
    kfa_attention_desc desc;
    kfa_attention_desc_init(&desc);
    desc.q_len = static_cast<int32_t>(query.size / (head_num * head_size));
    desc.kv_len = pos + 1;
    desc.heads = head_num;
    desc.kv_heads = kv_head_num;
    desc.head_dim = head_size;
    desc.softmax_scale = scale;
    desc.is_causal = is_causal;
    const int64_t layer_start = int64_t{layer_idx} * seq_len * kv_dim;
    desc.query.data = query.data;
    desc.key.data = static_cast<float*>(key.data) + layer_start;
    desc.value.data = static_cast<float*>(value.data) + layer_start;
    return expected(desc);
  }

  std::vector<std::vector<uint32_t>> snapshot() const {
    return {query_memory.snapshot(), key_memory.snapshot(), value_memory.snapshot(),
            output_memory.snapshot(), score_memory.snapshot()};
  }

 private:
  kfa_status run_layer() {
    kfa_flash_attention_layer* layer = nullptr;
    kfa_status status = kfa_flash_attention_layer_create(device, layer_idx, kv_mul, kv_dim, seq_len,
                                                         head_num, head_size, scale, &layer);
    const kfa_tensor* inputs[] = {&query, &key, &value};
    for (int32_t i = 0; i < 3 && status == KFA_OK; ++i) {
      status = kfa_flash_attention_layer_set_input(layer, i, inputs[i]);
    }
    if (status == KFA_OK) status = kfa_flash_attention_layer_set_output(layer, 0, &output);
    if (status == KFA_OK) status = kfa_flash_attention_layer_set_pos(layer, pos);
    if (status == KFA_OK) status = kfa_flash_attention_layer_set_stream(layer, stream);
    if (status == KFA_OK) status = kfa_flash_attention_layer_forward(layer);
    kfa_flash_attention_layer_destroy(layer);
    return status;
  }
};
}  // namespace kfa_test
#endif  // KFA_TESTS_CAPI_ENGINE_CALL_H_
