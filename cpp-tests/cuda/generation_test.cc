// The engine on CUDA writes the tokens that a correct engine writes, through flash and standard.
#include "cuda/cuda_host.h"
#include "e2e/model_files.h"
#include "model/llama.h"

namespace kfa_test {
namespace {
using model::AttentionPath;

class GenerationCuda : public OnCuda<testing::TestWithParam<ModelFiles>> {
 protected:
  void SetUp() override {
    OnCuda::SetUp();
    if (IsSkipped()) return;
    KFA_REQUIRE_FILES(GetParam());
    golden_ = GetParam().golden();
    ASSERT_GT(golden_.size(), 256u);
  }

  // Reads the golden ids in chunks; whatever chunk ends, the next token is the golden one. Leaves
  // the logits of the last.
  void expect_golden(AttentionPath path, int32_t chunk, base::DeviceType device,
                     std::vector<float>& logits) const {
    model::LlamaModel llama(GetParam().tokenizer, GetParam().model, path, chunk);
    base::Status status = llama.init(device);
    ASSERT_TRUE(status) << status.get_err_msg();
    const size_t length = golden_.size() - 1;
    for (size_t pos = 0; pos < length; pos += chunk) {
      const size_t end = std::min(pos + chunk, length);
      int32_t next = -1;
      status = llama.forward({golden_.begin() + pos, golden_.begin() + end},
                             static_cast<int32_t>(pos), next);
      ASSERT_TRUE(status) << status.get_err_msg();
      ASSERT_EQ(next, golden_[end]) << "after position " << end - 1;
    }
    logits = on_cpu(llama.logits());
    EXPECT_GT(llama.attention_seconds(), 0);
    // No scores are stored on the flash path.
    EXPECT_EQ(llama.score_storage_bytes() == 0, path == AttentionPath::kFlash);
  }

  std::vector<int32_t> golden_;
};
INSTANTIATE_TEST_SUITE_P(EndToEnd, GenerationCuda, testing::Values(own_model(), shared_model()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(GenerationCuda, WritesTheGoldenIds) {
  std::vector<float> cpu;
  expect_golden(AttentionPath::kStandard, 1, kCpu, cpu);
  for (AttentionPath path : {AttentionPath::kStandard, AttentionPath::kFlash}) {
    for (int32_t chunk : {1, 7, 255}) {
      SCOPED_TRACE(testing::Message() << (path == AttentionPath::kFlash ? "flash" : "standard")
                                      << ", chunk " << chunk);
      std::vector<float> cuda;
      expect_golden(path, chunk, kCuda, cuda);
      EXPECT_TRUE(contains(kfa_last_kernel_name(), "cuda.")) << kfa_last_kernel_name();
      ASSERT_EQ(cuda.size(), cpu.size());
      for (size_t i = 0; i < cuda.size(); ++i) ASSERT_NEAR(cuda[i], cpu[i], 1e-3) << "logit " << i;
    }
  }
}

TEST_P(GenerationCuda, TheSameBitsEveryTime) {
  for (AttentionPath path : {AttentionPath::kStandard, AttentionPath::kFlash}) {
    std::vector<float> first, second;
    expect_golden(path, 1, kCuda, first);
    expect_golden(path, 1, kCuda, second);
    EXPECT_EQ(first, second);
  }
}
}  // namespace
}  // namespace kfa_test
