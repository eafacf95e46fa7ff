// What a call costs the thread that makes it, measured where no interpreter adds to it. A record, not
// a bar: machines differ.
#include <chrono>
#include <cstdio>

#include "cuda/cuda_host.h"

namespace kfa_test {
namespace {
class HostCostCuda : public OnCuda<> {
 protected:
  // Least microseconds of a call over bursts that the launch queue swallows whole.
  template <typename Call>
  double microseconds(const Call& call) const {
    constexpr int kBursts = 30, kCalls = 100;
    double least = 1e9;
    for (int burst = 0; burst < kBursts; ++burst) {
      EXPECT_TRUE(base::synchronize_cuda(stream()));
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < kCalls; ++i) call();
      const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
      least = std::min(least, took.count() / kCalls);
    }
    return least;
  }
};

TEST_F(HostCostCuda, OfOneCall) {
  for (int32_t seq_len : {128, 1024, 8192}) {
    const Model model = {32, 8, 128, seq_len};
    const Host host(model, seq_len - 1);
    const CudaHost cuda(host, config_);
    for (kfa_dtype dtype : {KFA_DTYPE_FP32, KFA_DTYPE_FP16}) {
      kfa_attention_desc desc;
      kfa_attention_desc_init(&desc);
      desc.device = KFA_DEVICE_CUDA;
      desc.batch = 1;
      desc.q_len = 1;
      desc.kv_len = seq_len;
      desc.heads = model.head_num;
      desc.kv_heads = model.kv_head_num;
      desc.head_dim = model.head_size;
      desc.stream = stream();
      // As fp16, half of each tensor, and any numbers: nobody looks at the result.
      const auto view = [&](const tensor::Tensor& tensor, int32_t heads) {
        kfa_tensor_view view = {};
        view.data = const_cast<float*>(tensor.ptr<float>());
        view.dtype = dtype;
        view.head_stride = model.head_size;
        view.row_stride = static_cast<int64_t>(heads) * model.head_size;
        view.batch_stride = view.row_stride * (heads == model.head_num ? 1 : seq_len);
        return view;
      };
      desc.query = view(cuda.query, model.head_num);
      desc.key = view(cuda.key, model.kv_head_num);
      desc.value = view(cuda.value, model.kv_head_num);
      desc.output = view(cuda.output, model.head_num);
      ASSERT_EQ(kfa_attention_workspace_size(&desc, &desc.workspace_size), KFA_OK)
          << kfa_last_error_message();
      const Array zeros(desc.workspace_size / sizeof(float) + 1);
      const tensor::Tensor workspace =
          on_cuda(Host::tensor(const_cast<Array&>(zeros), {static_cast<int32_t>(zeros.size())}));
      desc.workspace = const_cast<float*>(workspace.ptr<float>());
      ASSERT_EQ(kfa_attention_forward(&desc), KFA_OK) << kfa_last_error_message();
      std::printf("host cost of kfa_attention_forward, %s, 32/8/128, %4d keys: %.2f us\n",
                  dtype == KFA_DTYPE_FP32 ? "fp32" : "fp16", seq_len,
                  microseconds([&] { kfa_attention_forward(&desc); }));
    }
    op::FlashAttention layer = cuda.make_layer();
    ASSERT_TRUE(cuda.forward(layer));
    std::printf("host cost of the layer's forward, fp32, 32/8/128, %4d keys: %.2f us\n", seq_len,
                microseconds([&] { static_cast<void>(cuda.forward(layer)); }));
  }
}
}  // namespace
}  // namespace kfa_test
