// op::FlashAttention through the engine's tensors, on the CPU.
#include <malloc.h>

#include "adapter/host.h"
#include "base/alloc.h"
#include "support/process.h"

namespace kfa_test {
namespace {
TEST_F(TestFlashAttention, Creation) {
  const auto layer = std::make_shared<op::FlashAttention>(kCpu, 0, 1, 256, 4, 4, 64);
  EXPECT_EQ(layer->device_type(), kCpu);
  EXPECT_EQ(layer->layer_type(), op::LayerType::kLayerMHA);
  EXPECT_EQ(layer->get_layer_name(), "FlashAttention");
  // Models hold it as a layer and reach the setters this way.
  const std::shared_ptr<op::Layer> as_layer = layer;
  EXPECT_NE(std::dynamic_pointer_cast<op::FlashAttention>(as_layer), nullptr);
}

TEST_F(TestFlashAttention, InputAndOutputCount) {
  const op::FlashAttention layer(kCpu, 0, 1, 256, 4, 4, 64);
  EXPECT_EQ(layer.input_size(), 3u);
  EXPECT_EQ(layer.output_size(), 1u);
}

TEST_F(TestFlashAttention, ForwardCpu) {
  for (int32_t pos = 0; pos < 4; ++pos) {
    SCOPED_TRACE(pos);
    Host host({4, 4, 64, 4}, pos);
    run_and_compare(host);
  }
}

TEST_F(TestFlashAttention, ForwardCpuAtRealShapes) {
  for (const Model& model :
       {Model{32, 32, 128, 512}, Model{32, 8, 128, 1024}, Model{32, 4, 64, 2048}}) {
    for (int32_t pos : {model.seq_len / 2 + 3, model.seq_len - 1}) {
      SCOPED_TRACE(testing::Message() << model << ", pos " << pos);
      Host host(model, pos);
      run_and_compare(host);
    }
  }
}

TEST_F(TestFlashAttention, ForwardCpuAtTheLongestShape) {
  Host host({32, 8, 128, 2048}, 2000);
  run_and_compare(host);
}

TEST_F(TestFlashAttention, EveryPositionOfASmallCache) {
  for (int32_t pos = 0; pos < 70; ++pos) {
    SCOPED_TRACE(pos);
    Host host({6, 2, 24, 70}, pos);
    run_and_compare(host);
  }
}

TEST_F(TestFlashAttention, FlashKernelFromTheGetter) {
  for (float scale : {0.0f, 0.2f}) {
    for (bool is_causal : {true, false}) {
      Host host({4, 2, 64, 40}, 29, 6);
      host.run_flash_kernel(scale, is_causal);
      const Expected want = host.definition(scale, is_causal);
      expect_accurate(host.output_memory.data(), want.output.data(), want.output.size());
    }
  }
}

TEST_F(TestFlashAttention, LayerOffset) {
  // Every layer holds keys of its own; one object serves them all.
  constexpr Model kModel{4, 2, 32, 20, 5};
  Host host(kModel, 13);
  for (int32_t layer = 0; layer < kModel.layer_num; ++layer) host.fill_layer(layer, 10 * layer + 7);
  op::FlashAttention layer = host.make_layer();
  std::vector<std::vector<float>> outputs;
  for (int32_t index : {0, 4, 2, 3, 1}) {
    SCOPED_TRACE(index);
    host.layer_idx = index;
    ASSERT_TRUE(host.forward(layer));
    host.expect_output_accurate();
    outputs.emplace_back(host.output_memory.begin(), host.output_memory.end());
  }
  for (size_t i = 1; i < outputs.size(); ++i) EXPECT_NE(outputs[i], outputs[0]);
}

TEST_F(TestFlashAttention, ConstructorsLayerIndexIsTheFirst) {
  Host host({4, 2, 32, 20, 3}, 0, 1, 2);
  op::FlashAttention layer(kCpu, 2, 2, 64, 20, 4, 32);
  ASSERT_TRUE(
      static_cast<op::Layer&>(layer).forward(host.query, host.key, host.value, host.output));
  host.expect_output_accurate();
}

TEST_F(TestFlashAttention, MultipleRows) {
  constexpr Model kModel{4, 2, 48, 300, 2};
  struct Rows {
    int32_t q_len, pos;
  };
  // A chunk in the middle, a full prefill, two rows at the start and at the end.
  for (const auto& [q_len, pos] :
       {Rows{64, 199}, Rows{33, 131}, Rows{300, 299}, Rows{128, 127}, Rows{2, 1}, Rows{2, 299}}) {
    SCOPED_TRACE(testing::Message() << q_len << " rows to position " << pos);
    Host host(kModel, pos, q_len, 1);
    run_and_compare(host);
  }
}

TEST_F(TestFlashAttention, ChunksEqualOnePrefill) {
  constexpr Model kModel{4, 2, 32, 60};
  Host whole(kModel, 59, 60);
  ASSERT_TRUE(whole.forward());
  for (int32_t chunk : {1, 7, 16}) {
    SCOPED_TRACE(chunk);
    Array output(whole.output_memory.size());
    op::FlashAttention layer = whole.make_layer();
    for (int32_t first = 0; first < 60; first += chunk) {
      const int32_t rows = std::min(chunk, 60 - first);
      const auto part = [&](Array& memory) {
        tensor::Tensor tensor(kFp32, rows, 4 * 32, false, nullptr, memory.data() + first * 4 * 32);
        tensor.set_device_type(kCpu);
        return tensor;
      };
      layer.set_pos(first + rows - 1);
      ASSERT_TRUE(static_cast<op::Layer&>(layer).forward(part(whole.query_memory), whole.key,
                                                         whole.value, part(output)));
    }
    expect_accurate(output.data(), whole.output_memory.data(), output.size(), "one prefill");
  }
}

TEST_F(TestFlashAttention, TensorsMayBeFlatOrFourDimensional) {
  Host host({4, 2, 32, 20}, 12, 3);
  for (const std::vector<int32_t>& dims :
       {std::vector<int32_t>{3 * 128}, std::vector<int32_t>{1, 3, 4, 32}}) {
    host.query.reshape(dims);
    host.output.reshape(dims);
    host.output_memory.fill(poison());
    run_and_compare(host);
  }
}

TEST_F(TestFlashAttention, GroupedQueryAttention) {
  for (int32_t group : {1, 2, 3, 4, 5, 7, 8, 12, 16}) {
    for (int32_t q_len : {1, 10}) {
      SCOPED_TRACE(testing::Message() << "group " << group << ", q_len " << q_len);
      Host host({2 * group, 2, 40, 64}, 50, q_len);
      run_and_compare(host);
    }
  }
  // One key/value head for all.
  Host host({8, 1, 64, 64}, 50, 5);
  run_and_compare(host);
}

TEST_F(TestFlashAttention, ScaleOverride) {
  for (float scale : {0.0f, 0.03f, 0.5f, -0.25f}) {
    for (int32_t q_len : {1, 9}) {
      SCOPED_TRACE(scale);
      Host host({4, 2, 64, 40}, 30, q_len);
      op::FlashAttention layer = host.make_layer(scale);
      ASSERT_TRUE(host.forward(layer));
      const Expected want = host.definition(scale);
      expect_accurate(host.output_memory.data(), want.output.data(), want.output.size());
    }
  }
}

TEST_F(TestFlashAttention, OutputMayBeTheQuery) {
  for (int32_t q_len : {1, 25, 40}) {
    SCOPED_TRACE(q_len);
    Host host({6, 3, 48, 64}, 39, q_len);
    const Expected want = host.definition();
    host.output = host.query;
    ASSERT_TRUE(host.forward());
    expect_accurate(host.query_memory.data(), want.output.data(), want.output.size());
  }
}

TEST_F(TestFlashAttention, OneLayerObjectServesAWholeModel) {
  // Positions and layers in the order of generation, and back again.
  constexpr Model kModel{4, 2, 32, 12, 3};
  Host host(kModel, 11);
  for (int32_t layer = 0; layer < 3; ++layer) host.fill_layer(layer, 20 + layer);
  op::FlashAttention layer = host.make_layer();
  for (int32_t step = 0; step < 24; ++step) {
    host.pos = step < 12 ? step : 23 - step;
    for (host.layer_idx = 0; host.layer_idx < 3; ++host.layer_idx) {
      SCOPED_TRACE(testing::Message() << "pos " << host.pos << ", layer " << host.layer_idx);
      ASSERT_TRUE(host.forward(layer));
      host.expect_output_accurate();
    }
  }
}

TEST_F(TestFlashAttention, MemoryFromTheEnginesAllocator) {
  // A helper thread keeps scratch from its first call on, whenever that comes.
  const ThreadScope one(1);
  const auto allocator = base::CPUDeviceAllocatorFactory::get_instance();
  const auto cycle = [&allocator] {
    tensor::Tensor query(kFp32, 4 * 64, true, allocator), output(kFp32, 4 * 64, true, allocator);
    tensor::Tensor key(kFp32, 1, 300, 128, true, allocator),
        value(kFp32, 1, 300, 128, true, allocator);
    for (const tensor::Tensor* tensor : {&query, &output, &key, &value}) {
      std::fill_n(const_cast<float*>(tensor->ptr<float>()), tensor->size(), 0.5f);
    }
    op::FlashAttention layer(kCpu, 0, 2, 128, 300, 4, 64);
    layer.set_pos(299);
    ASSERT_TRUE(static_cast<op::Layer&>(layer).forward(query, key, value, output));
    // Equal values: their mean is themselves.
    for (size_t i = 0; i < output.size(); ++i) ASSERT_NEAR(output.index<float>(i), 0.5f, 1e-6f);
  };
  for (int i = 0; i < 10; ++i) cycle();
  const size_t before = mallinfo2().uordblks;
  for (int i = 0; i < 200; ++i) cycle();
  // One leaked layer of 200, let alone a tensor, would show.
  EXPECT_LT(mallinfo2().uordblks, before + 8 * 200);
}
}  // namespace
}  // namespace kfa_test
