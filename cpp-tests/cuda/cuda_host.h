#ifndef KFA_TESTS_CUDA_CUDA_HOST_H_
#define KFA_TESTS_CUDA_CUDA_HOST_H_
#include <algorithm>
#include <memory>
#include <vector>

#include "adapter/host.h"
#include "base/cuda.h"

namespace kfa_test {
// A test with a stream of its own, skipped with the reason where there is no GPU.
template <typename Base = testing::Test>
class OnCuda : public Base {
 protected:
  void SetUp() override {
    Base::SetUp();
    if (Base::IsSkipped()) return;
    const base::Status status = base::create_cuda_config(config_);
    if (!status) GTEST_SKIP() << status.get_err_msg();
  }

  cudaStream_t stream() const { return config_->stream; }

  tensor::Tensor on_cuda(tensor::Tensor tensor) const {
    const base::Status status = tensor.to_cuda(stream());
    EXPECT_TRUE(status) << status.get_err_msg();
    return tensor;
  }

  std::vector<float> on_cpu(tensor::Tensor tensor) const {
    const base::Status status = tensor.to_cpu(stream());
    EXPECT_TRUE(status) << status.get_err_msg();
    if (!status) return {};
    return {tensor.ptr<float>(), tensor.ptr<float>() + tensor.size()};
  }

  std::shared_ptr<kernel::CudaConfig> config_;
};

// The tensors of a Host on the device, NaN where the Host has NaN. The Host stays on the CPU, for
// the definition and for the CPU's kernels.
class CudaHost {
 public:
  CudaHost(const Host& host, std::shared_ptr<kernel::CudaConfig> config)
      : host(host), query(host.query), key(host.key), value(host.value), output(host.output),
        score(host.score), config_(std::move(config)) {
    for (tensor::Tensor* tensor : {&query, &key, &value, &output, &score}) {
      const base::Status status = tensor->to_cuda(config_->stream);
      EXPECT_TRUE(status) << status.get_err_msg();
    }
  }

  op::FlashAttention make_layer(float scale = 0) const {
    op::FlashAttention layer = host.make_layer(scale, kCuda);
    layer.set_cuda_config(config_);
    return layer;
  }

  base::Status forward(op::FlashAttention& layer) const {
    layer.set_pos(host.pos);
    layer.set_layer_idx(host.layer_idx);
    return static_cast<op::Layer&>(layer).forward(query, key, value, output);
  }
  base::Status forward() const {
    op::FlashAttention layer = make_layer();
    return forward(layer);
  }

  void run_standard_mha() const {
    const ModeScope standard(KFA_ATTENTION_MODE_STANDARD);
    run_mha();
  }
  void run_mha() const {
    const Model& m = host.model;
    kernel::get_mha_kernel(kCuda)(host.pos, m.head_num, host.layer_idx, m.seq_len, m.kv_dim(),
                                  m.kv_mul(), m.head_size, output, query, score, key, value, kCuda,
                                  config_.get());
  }

  // The output, fetched; and nothing where a kernel failed.
  std::vector<float> fetch() const {
    tensor::Tensor fetched = output;
    const base::Status status = fetched.to_cpu(config_->stream);
    EXPECT_TRUE(status) << status.get_err_msg();
    if (!status) return {};
    return {fetched.ptr<float>(), fetched.ptr<float>() + fetched.size()};
  }

  // Holds the output to the bars: against the definition, and against flash attention on the CPU.
  void expect_output_accurate(float scale = 0) const {
    const std::vector<float> out = fetch();
    const Expected want = host.definition(scale);
    ASSERT_EQ(out.size(), want.output.size());
    expect_accurate(out.data(), want.output.data(), out.size(), "float64");

    op::FlashAttention cpu_layer = host.make_layer(scale);
    Array cpu(out.size());
    cpu_layer.set_pos(host.pos);
    cpu_layer.set_layer_idx(host.layer_idx);
    ASSERT_TRUE(static_cast<op::Layer&>(cpu_layer)
                    .forward(host.query, host.key, host.value, Host::tensor(cpu, host.query.dims())));
    expect_accurate(out.data(), cpu.data(), out.size(), "the CPU");
  }

  const Host& host;
  tensor::Tensor query, key, value, output, score;

 private:
  std::shared_ptr<kernel::CudaConfig> config_;
};
}  // namespace kfa_test
#endif  // KFA_TESTS_CUDA_CUDA_HOST_H_
