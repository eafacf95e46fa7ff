// op::FlashAttention and the kernel getters through the engine's tensors, on CUDA.
#include "cuda/cuda_host.h"
#include "op/add.h"
#include "op/matmul.h"

namespace kfa_test {
namespace {
class TestFlashAttentionCuda : public OnCuda<> {
 protected:
  void run_and_compare(const Host& host) const {
    const CudaHost cuda(host, config_);
    const base::Status status = cuda.forward();
    ASSERT_TRUE(status) << status.get_err_msg();
    cuda.expect_output_accurate();
  }
};

TEST_F(TestFlashAttentionCuda, ForwardAtRealShapes) {
  for (const Model& model : {Model{32, 32, 128, 512}, Model{32, 8, 128, 1024}, Model{32, 4, 64, 2048}}) {
    for (int32_t pos : {0, model.seq_len / 2 + 3, model.seq_len - 1}) {
      SCOPED_TRACE(testing::Message() << model << ", pos " << pos);
      run_and_compare(Host(model, pos));
    }
  }
}

TEST_F(TestFlashAttentionCuda, AFlashKernelOfTheDeviceServes) {
  KFA_SKIP_WITHOUT_FLASH();
  const ModeScope no_fallback(KFA_ATTENTION_MODE_FLASH);
  for (int32_t q_len : {1, 64}) {
    const Host host({32, 8, 128, 256}, 200, q_len);
    const base::Status status = CudaHost(host, config_).forward();
    EXPECT_TRUE(status) << status.get_err_msg();
    EXPECT_TRUE(contains(kfa_last_kernel_name(), "cuda.flash")) << kfa_last_kernel_name();
  }
}

TEST_F(TestFlashAttentionCuda, EveryPositionOfASmallCache) {
  for (int32_t pos = 0; pos < 70; ++pos) {
    SCOPED_TRACE(pos);
    run_and_compare(Host({6, 2, 24, 70}, pos));
  }
}

TEST_F(TestFlashAttentionCuda, MultipleRows) {
  struct Rows {
    int32_t q_len, pos;
  };
  // A chunk in the middle, a full prefill, few rows at the start and at the end.
  for (const auto& [q_len, pos] : {Rows{64, 199}, Rows{33, 131}, Rows{300, 299}, Rows{128, 127},
                                   Rows{2, 1}, Rows{5, 299}}) {
    SCOPED_TRACE(testing::Message() << q_len << " rows to position " << pos);
    run_and_compare(Host({4, 2, 48, 300, 2}, pos, q_len, 1));
    run_and_compare(Host({8, 2, 128, 300}, pos, q_len));
  }
}

TEST_F(TestFlashAttentionCuda, GroupedQueryAttention) {
  for (int32_t group : {1, 2, 3, 4, 5, 7, 8, 12, 16}) {
    for (int32_t q_len : {1, 10}) {
      SCOPED_TRACE(testing::Message() << "group " << group << ", q_len " << q_len);
      run_and_compare(Host({2 * group, 2, 40, 64}, 50, q_len));
    }
  }
  run_and_compare(Host({8, 1, 64, 64}, 50, 5));
}

TEST_F(TestFlashAttentionCuda, HeadSizes) {
  for (int32_t head_size : {1, 16, 63, 64, 80, 96, 100, 128, 192, 256, 512}) {
    for (int32_t q_len : {1, 20}) {
      SCOPED_TRACE(testing::Message() << "head_size " << head_size << ", q_len " << q_len);
      run_and_compare(Host({4, 2, head_size, 50}, 40, q_len));
    }
  }
}

TEST_F(TestFlashAttentionCuda, LayerOffset) {
  // Every layer holds keys of its own; one object serves them all.
  constexpr Model kModel{4, 2, 32, 20, 5};
  Host host(kModel, 13);
  for (int32_t layer = 0; layer < kModel.layer_num; ++layer) host.fill_layer(layer, 10 * layer + 7);
  const CudaHost cuda(host, config_);
  op::FlashAttention layer = cuda.make_layer();
  for (int32_t index : {0, 4, 2, 3, 1}) {
    SCOPED_TRACE(index);
    host.layer_idx = index;
    ASSERT_TRUE(cuda.forward(layer));
    cuda.expect_output_accurate();
  }
}

TEST_F(TestFlashAttentionCuda, ScaleOverride) {
  for (float scale : {0.03f, -0.25f}) {
    for (int32_t q_len : {1, 9}) {
      const Host host({4, 2, 64, 40}, 30, q_len);
      const CudaHost cuda(host, config_);
      op::FlashAttention layer = cuda.make_layer(scale);
      ASSERT_TRUE(cuda.forward(layer));
      cuda.expect_output_accurate(scale);
    }
  }
}

TEST_F(TestFlashAttentionCuda, KeysBeyondThePositionAreNotAttended) {
  // A Host fills them with NaN; here finite garbage, which spreads no NaN.
  Host host({4, 2, 32, 64}, 20);
  std::fill(host.key_memory.data() + 21 * 64, host.key_memory.end(), 9.0f);
  std::fill(host.value_memory.data() + 21 * 64, host.value_memory.end(), 1e6f);
  run_and_compare(host);
}

TEST_F(TestFlashAttentionCuda, OutputMayBeTheQuery) {
  for (int32_t q_len : {1, 25, 40}) {
    SCOPED_TRACE(q_len);
    const Host host({6, 3, 48, 64}, 39, q_len);
    CudaHost cuda(host, config_);
    cuda.output = cuda.query;
    ASSERT_TRUE(cuda.forward());
    cuda.expect_output_accurate();
  }
}

TEST_F(TestFlashAttentionCuda, InputsAreNotWritten) {
  const Host host({8, 2, 64, 100, 2}, 70, 3, 1);
  const CudaHost cuda(host, config_);
  ASSERT_TRUE(cuda.forward());
  const auto same_bits = [this](const tensor::Tensor& tensor, const Array& memory) {
    const std::vector<float> now = on_cpu(tensor);
    return now.size() == memory.size() &&
           std::memcmp(now.data(), memory.data(), now.size() * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same_bits(cuda.query, host.query_memory));
  EXPECT_TRUE(same_bits(cuda.key, host.key_memory));
  EXPECT_TRUE(same_bits(cuda.value, host.value_memory));
}

TEST_F(TestFlashAttentionCuda, TheSameBitsEveryTime) {
  const Host host({32, 8, 128, 2048}, 1999);
  const CudaHost cuda(host, config_);
  ASSERT_TRUE(cuda.forward());
  const std::vector<float> first = cuda.fetch();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(cuda.forward());
    ASSERT_EQ(cuda.fetch(), first);
  }
}

TEST_F(TestFlashAttentionCuda, WorksOnTheStreamOfTheConfig) {
  // The query is ready only when what is before it on the stream is done: some large products, and
  // a sum. On any other stream attention would read the poison that is there before.
  const Host host({8, 2, 64, 200}, 150);
  CudaHost cuda(host, config_);
  tensor::Tensor zeros(kFp32, {1, 8 * 64}, true, base::CPUDeviceAllocatorFactory::get_instance());
  std::fill_n(zeros.ptr<float>(), zeros.size(), 0.0f);
  zeros = on_cuda(zeros);
  const tensor::Tensor ready = cuda.query;
  cuda.query = on_cuda(host.output);  // poison

  constexpr int32_t kSize = 4096;
  const auto allocator = base::CUDADeviceAllocatorFactory::get_instance();
  const tensor::Tensor weight(kFp32, kSize, kSize, true, allocator);
  const tensor::Tensor rows(kFp32, 64, kSize, true, allocator), product(kFp32, 64, kSize, true, allocator);
  op::MatmulLayer matmul(kCuda, kSize, kSize);
  matmul.set_cuda_config(config_);
  ASSERT_TRUE(matmul.set_weight(0, weight));
  op::VecAddLayer add(kCuda);
  add.set_cuda_config(config_);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(matmul.forward(rows, product));
  ASSERT_TRUE(add.forward(ready, zeros, cuda.query));
  ASSERT_TRUE(cuda.forward());
  cuda.expect_output_accurate();
}

TEST_F(TestFlashAttentionCuda, TwoStreamsAtOnce) {
  std::shared_ptr<kernel::CudaConfig> second;
  ASSERT_TRUE(base::create_cuda_config(second));
  const Host a({32, 8, 128, 1024}, 1000), b({32, 8, 128, 1024}, 900, 1, 0, 5);
  const CudaHost on_first(a, config_), on_second(b, second);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(on_first.forward());
    ASSERT_TRUE(on_second.forward());
  }
  on_first.expect_output_accurate();
  on_second.expect_output_accurate();
}

TEST_F(TestFlashAttentionCuda, StandardMha) {
  for (const Model& model : {Model{32, 32, 128, 512}, Model{32, 4, 64, 2048}, Model{6, 2, 24, 70}}) {
    for (int32_t q_len : {1, 7}) {
      SCOPED_TRACE(testing::Message() << model << ", q_len " << q_len);
      const Host host(model, model.seq_len - 3, q_len);
      const CudaHost cuda(host, config_);
      cuda.run_standard_mha();
      EXPECT_TRUE(contains(kfa_last_kernel_name(), "standard_mha")) << kfa_last_kernel_name();
      cuda.expect_output_accurate();
    }
  }
}

TEST_F(TestFlashAttentionCuda, HostPointersAreRefused) {
  // Memory of the CPU that claims to be the device's.
  Host host({4, 2, 16, 24}, 9);
  for (const tensor::Tensor* tensor : {&host.query, &host.key, &host.value, &host.output}) {
    tensor->set_device_type(kCuda);
  }
  const auto before = host.snapshot();
  op::FlashAttention layer = host.make_layer(0, kCuda);
  const base::Status status = host.forward(layer);
  EXPECT_EQ(status.get_err_code(), base::StatusCode::kInvalidArgument) << status.get_err_msg();
  EXPECT_TRUE(contains(status.get_err_msg(), "query")) << status.get_err_msg();
  EXPECT_TRUE(host.snapshot() == before);
}

TEST_F(TestFlashAttentionCuda, TensorsOnTheCpuAreRefused) {
  const Host host({4, 2, 16, 24}, 9);
  for (tensor::Tensor CudaHost::*member :
       {&CudaHost::query, &CudaHost::key, &CudaHost::value, &CudaHost::output}) {
    CudaHost cuda(host, config_);
    ASSERT_TRUE((cuda.*member).to_cpu(stream()));
    EXPECT_EQ(cuda.forward().get_err_code(), base::StatusCode::kInvalidArgument);
  }
}

TEST_F(TestFlashAttentionCuda, ACpuLayerRefusesTensorsOfTheDevice) {
  const Host host({4, 2, 16, 24}, 9);
  const CudaHost cuda(host, config_);
  op::FlashAttention layer = host.make_layer();
  EXPECT_EQ(cuda.forward(layer).get_err_code(), base::StatusCode::kInvalidArgument);
}
}  // namespace
}  // namespace kfa_test
