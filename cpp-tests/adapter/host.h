#ifndef KFA_TESTS_ADAPTER_HOST_H_
#define KFA_TESTS_ADAPTER_HOST_H_
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "base/base.h"
#include "op/flash_attention.h"
#include "op/kernels/kernels_interfaces.h"
#include "support/accuracy.h"
#include "support/array.h"
#include "support/oracle.h"
#include "support/process.h"
#include "tensor/tensor.h"

namespace kfa_test {
constexpr auto kCpu = base::DeviceType::kDeviceCPU;
constexpr auto kCuda = base::DeviceType::kDeviceCUDA;
constexpr auto kFp32 = base::DataType::kDataTypeFp32;

// What an engine's model fixes.
struct Model {
  int32_t head_num, kv_head_num, head_size, seq_len;
  int32_t layer_num = 1;

  int32_t kv_mul() const { return head_num / kv_head_num; }
  int32_t kv_dim() const { return kv_head_num * head_size; }
};

inline std::ostream& operator<<(std::ostream& os, const Model& m) {
  return os << m.head_num << '/' << m.kv_head_num << '/' << m.head_size << ", seq_len "
            << m.seq_len;
}

// An engine's tensors at one position of one layer, as the engine's own types. All that attention
// must not read (other layers, slots beyond the position) is NaN, and so is the output.
class Host {
 public:
  Host(const Model& model, int32_t pos, int32_t q_len = 1, int32_t layer_idx = 0, uint32_t seed = 1)
      : model(model),
        pos(pos),
        layer_idx(layer_idx),
        query_memory(static_cast<size_t>(q_len) * model.head_num * model.head_size),
        output_memory(query_memory.size()),
        score_memory(static_cast<size_t>(model.head_num) * model.seq_len),
        key_memory(cache_size()),
        value_memory(cache_size()) {
    query_memory.fill_normal(seed);
    fill_layer(layer_idx, seed + 1);
    query = tensor(query_memory, {q_len, model.head_num * model.head_size});
    output = tensor(output_memory, {q_len, model.head_num * model.head_size});
    score = tensor(score_memory, {model.head_num, model.seq_len});
    const std::vector<int32_t> cache = {model.layer_num, model.seq_len, model.kv_dim()};
    key = tensor(key_memory, cache);
    value = tensor(value_memory, cache);
  }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Valid keys and values up to the position.
  void fill_layer(int32_t layer, uint32_t seed) {
    const size_t first = static_cast<size_t>(layer) * model.seq_len * model.kv_dim();
    const size_t count = (static_cast<size_t>(pos) + 1) * model.kv_dim();
    key_memory.fill_normal(seed, first, count);
    value_memory.fill_normal(seed + 1, first, count);
  }

  static tensor::Tensor tensor(Array& memory, std::vector<int32_t> dims,
                               base::DeviceType device = kCpu, base::DataType data_type = kFp32) {
    tensor::Tensor tensor(data_type, std::move(dims), false, nullptr, memory.data());
    tensor.set_device_type(device);
    return tensor;
  }

  op::FlashAttention make_layer(float scale = 0, base::DeviceType device = kCpu) const {
    return op::FlashAttention(device, 0, model.kv_mul(), model.kv_dim(), model.seq_len,
                              model.head_num, model.head_size, scale);
  }

  // As a model calls it: the layer is an op::Layer, its setters those of op::FlashAttention.
  base::Status forward(op::FlashAttention& layer) const {
    layer.set_pos(pos);
    layer.set_layer_idx(layer_idx);
    return static_cast<op::Layer&>(layer).forward(query, key, value, output);
  }
  base::Status forward() const {
    op::FlashAttention layer = make_layer();
    return forward(layer);
  }

  void run_flash_kernel(float scale = 0, bool is_causal = true,
                        base::DeviceType device = kCpu) const {
    kernel::get_flash_attention_kernel(device)(query, key, value, output, model.head_num,
                                               model.kv_head_num, model.head_size, model.seq_len,
                                               pos, layer_idx, scale, is_causal, device, nullptr);
  }

  void run_mha(const tensor::Tensor& out, base::DeviceType device = kCpu) const {
    kernel::get_mha_kernel(device)(pos, model.head_num, layer_idx, model.seq_len, model.kv_dim(),
                                   model.kv_mul(), model.head_size, out, query, score, key, value,
                                   device, nullptr);
  }
  void run_standard_mha(const tensor::Tensor& out) const {
    const ModeScope standard(KFA_ATTENTION_MODE_STANDARD);
    run_mha(out);
  }

  // The definition, from the tensors' memory and the meaning of position and layer.
  Expected definition(float scale = 0, bool is_causal = true) const {
    kfa_attention_desc desc;
    kfa_attention_desc_init(&desc);
    desc.q_len = static_cast<int32_t>(query.size() / (model.head_num * model.head_size));
    desc.kv_len = pos + 1;
    desc.heads = model.head_num;
    desc.kv_heads = model.kv_head_num;
    desc.head_dim = model.head_size;
    desc.softmax_scale = scale;
    desc.is_causal = is_causal;
    const size_t layer_start = static_cast<size_t>(layer_idx) * model.seq_len * model.kv_dim();
    desc.query.data = const_cast<float*>(query_memory.data());
    desc.key.data = const_cast<float*>(key_memory.data()) + layer_start;
    desc.value.data = const_cast<float*>(value_memory.data()) + layer_start;
    return expected(desc);
  }

  // Holds the output to the bars: against the definition, and against standard MHA.
  void expect_output_accurate() {
    const Expected want = definition();
    expect_accurate(output_memory.data(), want.output.data(), output_memory.size(), "float64");
    EXPECT_TRUE(output_memory.guards_intact());
    Array standard(output_memory.size());
    run_standard_mha(tensor(standard, query.dims()));
    expect_accurate(standard.data(), want.output.data(), standard.size(), "float64, standard MHA");
    expect_accurate(output_memory.data(), standard.data(), standard.size(), "standard MHA");
  }

  std::vector<std::vector<uint32_t>> snapshot() const {
    return {query_memory.snapshot(), key_memory.snapshot(), value_memory.snapshot(),
            output_memory.snapshot(), score_memory.snapshot()};
  }

  Model model;
  int32_t pos, layer_idx;
  Array query_memory, output_memory, score_memory, key_memory, value_memory;
  tensor::Tensor query, key, value, output, score;

 private:
  size_t cache_size() const {
    return static_cast<size_t>(model.layer_num) * model.seq_len * model.kv_dim();
  }
};

// The suite that the report names.
class TestFlashAttention : public testing::Test {
 protected:
  // Computes through op::FlashAttention and compares; sees that inputs were not written.
  static void run_and_compare(Host& host) {
    const auto before = host.snapshot();
    const base::Status status = host.forward();
    ASSERT_TRUE(status) << status.get_err_msg();
    EXPECT_TRUE(host.query_memory.snapshot() == before[0]);
    EXPECT_TRUE(host.key_memory.snapshot() == before[1]);
    EXPECT_TRUE(host.value_memory.snapshot() == before[2]);
    EXPECT_TRUE(host.score_memory.snapshot() == before[4]);
    host.expect_output_accurate();
  }
};
}  // namespace kfa_test
#endif  // KFA_TESTS_ADAPTER_HOST_H_
