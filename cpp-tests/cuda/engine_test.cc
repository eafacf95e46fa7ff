// The engine's own CUDA kernels do what its CPU kernels do.
#include "cuda/cuda_host.h"
#include "op/add.h"
#include "op/embedding.h"
#include "op/matmul.h"
#include "op/rmsnorm.h"
#include "op/rope.h"
#include "op/swiglu.h"
#include "sampler/argmax_sampler.h"

namespace kfa_test {
namespace {
class EngineCuda : public OnCuda<> {
 protected:
  static tensor::Tensor cpu_tensor(std::vector<int32_t> dims, uint32_t seed,
                                   base::DataType type = kFp32) {
    tensor::Tensor tensor(type, std::move(dims), true, base::CPUDeviceAllocatorFactory::get_instance());
    if (type != kFp32) return tensor;
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::generate_n(tensor.ptr<float>(), tensor.size(), [&] { return normal(generator); });
    return tensor;
  }

  // A layer of each device, made by `make(device)`.
  template <typename Make, typename Run>
  void expect_same(Make make, const tensor::Tensor& cpu_output, Run run) const {
    auto cpu_layer = make(kCpu);
    auto cuda_layer = make(kCuda);
    cuda_layer.set_cuda_config(config_);
    const auto identity = [](const tensor::Tensor& tensor) { return tensor; };
    const tensor::Tensor cuda_output = on_cuda(cpu_output);
    base::Status status = run(cpu_layer, identity, cpu_output);
    ASSERT_TRUE(status) << status.get_err_msg();
    status = run(cuda_layer, [this](const tensor::Tensor& tensor) { return on_cuda(tensor); },
                 cuda_output);
    ASSERT_TRUE(status) << status.get_err_msg();
    const std::vector<float> out = on_cpu(cuda_output);
    ASSERT_EQ(out.size(), cpu_output.size());
    const Errors errors = measure(out.data(), cpu_output.ptr<float>(), out.size());
    EXPECT_LT(errors.max_relative, 1e-5);
  }
};

TEST_F(EngineCuda, MemoryGoesThereAndBack) {
  const tensor::Tensor original = cpu_tensor({7, 33}, 1);
  tensor::Tensor tensor = original;
  ASSERT_TRUE(tensor.to_cuda(stream()));
  EXPECT_EQ(tensor.device_type(), kCuda);
  EXPECT_EQ(original.device_type(), kCpu);
  ASSERT_TRUE(tensor.to_cpu(stream()));
  EXPECT_EQ(tensor.device_type(), kCpu);
  EXPECT_NE(tensor.ptr<float>(), original.ptr<float>());
  EXPECT_EQ(std::memcmp(tensor.ptr<float>(), original.ptr<float>(), tensor.byte_size()), 0);
  EXPECT_FALSE(tensor::Tensor().to_cuda(stream()));
}

TEST_F(EngineCuda, MoreMemoryThanThereIsGivesAStatus) {
  const auto allocator = base::CUDADeviceAllocatorFactory::get_instance();
  EXPECT_EQ(allocator->allocate(size_t{1} << 50), nullptr);
  EXPECT_TRUE(base::check_cuda_launch());
}

TEST_F(EngineCuda, AddAndSwiGLU) {
  for (int32_t size : {1, 255, 256, 1000}) {
    const tensor::Tensor a = cpu_tensor({size}, 1), b = cpu_tensor({size}, 2);
    const auto run = [&](auto& layer, auto on, const tensor::Tensor& out) {
      return layer.forward(on(a), on(b), out);
    };
    expect_same([](auto device) { return op::VecAddLayer(device); }, cpu_tensor({size}, 3), run);
    expect_same([](auto device) { return op::SwiGLULayer(device); }, cpu_tensor({size}, 3), run);
  }
}

TEST_F(EngineCuda, Embedding) {
  const tensor::Tensor weight = cpu_tensor({50, 24}, 1);
  tensor::Tensor tokens = cpu_tensor({4}, 0, base::DataType::kDataTypeInt32);
  const int32_t ids[] = {49, 0, 7, 7};
  std::copy_n(ids, 4, tokens.ptr<int32_t>());
  expect_same([](auto device) { return op::EmbeddingLayer(device, 24, 50); }, cpu_tensor({4, 24}, 2),
              [&](auto& layer, auto on, const tensor::Tensor& out) {
                RETURN_IF_ERROR(layer.set_weight(0, on(weight)));
                return layer.forward(tokens, out);
              });
}

TEST_F(EngineCuda, RmsNorm) {
  for (int32_t dim : {1, 64, 288, 1000}) {
    for (int32_t rows : {1, 5}) {
      const tensor::Tensor weight = cpu_tensor({dim}, 1), input = cpu_tensor({rows, dim}, 2);
      expect_same([&](auto device) { return op::RmsNormLayer(device, dim); },
                  cpu_tensor({rows, dim}, 3), [&](auto& layer, auto on, const tensor::Tensor& out) {
                    RETURN_IF_ERROR(layer.set_weight(0, on(weight)));
                    return layer.forward(on(input), out);
                  });
    }
  }
}

TEST_F(EngineCuda, Matmul) {
  // Rows of the weight that are vectors and ones that are not; rows of the input beyond one tile.
  for (int32_t in_dim : {1, 64, 130, 1000}) {
    for (int32_t rows : {1, 2, 8, 21}) {
      SCOPED_TRACE(testing::Message() << "in_dim " << in_dim << ", rows " << rows);
      const tensor::Tensor weight = cpu_tensor({37, in_dim}, 1), input = cpu_tensor({rows, in_dim}, 2);
      expect_same([&](auto device) { return op::MatmulLayer(device, 37, in_dim); },
                  cpu_tensor({rows, 37}, 3), [&](auto& layer, auto on, const tensor::Tensor& out) {
                    RETURN_IF_ERROR(layer.set_weight(0, on(weight)));
                    return layer.forward(on(input), out);
                  });
    }
  }
}

TEST_F(EngineCuda, MatmulGivesTheSameBitsInAnyChunk) {
  const tensor::Tensor weight = on_cuda(cpu_tensor({64, 288}, 1)), input = on_cuda(cpu_tensor({20, 288}, 2));
  const tensor::Tensor whole = on_cuda(cpu_tensor({20, 64}, 3)), row = on_cuda(cpu_tensor({1, 64}, 4));
  op::MatmulLayer matmul(kCuda, 64, 288);
  matmul.set_cuda_config(config_);
  ASSERT_TRUE(matmul.set_weight(0, weight));
  ASSERT_TRUE(matmul.forward(input, whole));
  const std::vector<float> all = on_cpu(whole);
  for (int32_t i = 0; i < 20; ++i) {
    tensor::Tensor one(kFp32, 1, 288, false, nullptr, const_cast<float*>(input.ptr<float>(i * 288)));
    one.set_device_type(kCuda);
    ASSERT_TRUE(matmul.forward(one, row));
    EXPECT_EQ(on_cpu(row), std::vector<float>(all.begin() + i * 64, all.begin() + (i + 1) * 64));
  }
}

TEST_F(EngineCuda, RoPE) {
  constexpr int32_t kHeadSize = 16, kSeqLen = 40, kRows = 6;
  const tensor::Tensor sin = cpu_tensor({kSeqLen, kHeadSize / 2}, 1);
  const tensor::Tensor cos = cpu_tensor({kSeqLen, kHeadSize / 2}, 2);
  kernel::get_rope_cache_kernel(kCpu)(kHeadSize, kSeqLen, sin, cos);
  tensor::Tensor pos = cpu_tensor({1}, 0, base::DataType::kDataTypeInt32);
  pos.index<int32_t>(0) = 30;
  const tensor::Tensor other = cpu_tensor({kRows, 4 * kHeadSize}, 4);
  const auto make = [&](auto device) {
    return op::RoPELayer(device, 4 * kHeadSize, 2 * kHeadSize, kHeadSize);
  };
  // In place, once seen from the query's side and once from the key's.
  expect_same(make, cpu_tensor({kRows, 4 * kHeadSize}, 5),
              [&](auto& layer, auto on, const tensor::Tensor& query) {
                return layer.forward(query, on(cpu_tensor({kRows, 2 * kHeadSize}, 6)), pos, on(sin),
                                     on(cos), tensor::Tensor());
              });
  expect_same(make, cpu_tensor({kRows, 2 * kHeadSize}, 7),
              [&](auto& layer, auto on, const tensor::Tensor& key) {
                return layer.forward(on(other), key, pos, on(sin), on(cos), tensor::Tensor());
              });
}

TEST_F(EngineCuda, ArgmaxIsTheFirstOfTheLargest) {
  tensor::Tensor next(base::DataType::kDataTypeInt32, 1, true,
                      base::CUDADeviceAllocatorFactory::get_instance());
  for (int32_t size : {1, 2, 255, 257, 32000}) {
    for (int32_t first : {0, size / 3, size - 1}) {
      tensor::Tensor logits = cpu_tensor({size}, 1);
      logits.index<float>(first) = logits.index<float>(size - 1) = 100;
      int32_t token = -1;
      ASSERT_TRUE(sampler::ArgmaxSampler().sample(on_cuda(logits), next, stream(), token));
      EXPECT_EQ(token, first);
    }
  }
}
}  // namespace
}  // namespace kfa_test
