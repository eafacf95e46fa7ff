// The engine writes the same tokens through flash and through standard attention, and the ones
// that a correct engine writes.
#include <algorithm>
#include <cmath>
#include <set>

#include "base/cuda.h"
#include "e2e/model_files.h"
#include "model/llama.h"
#ifdef KUIPER_USE_FLASH_ATTENTION
#include "support/process.h"
#endif

namespace kfa_test {
namespace {
using model::AttentionPath;

#ifdef KUIPER_USE_FLASH_ATTENTION
constexpr AttentionPath kPaths[] = {AttentionPath::kStandard, AttentionPath::kFlash};
#else
constexpr AttentionPath kPaths[] = {AttentionPath::kStandard};
#endif

// A model that writes on. Its tokens start with BOS.
class Writer {
 public:
  Writer(const ModelFiles& files, AttentionPath path, int32_t chunk)
      : chunk_(chunk), llama_(files.tokenizer, files.model, path, chunk) {
    const base::Status status = llama_.init(base::DeviceType::kDeviceCPU);
    EXPECT_TRUE(status) << status.get_err_msg();
    ok_ = status;
  }

  // Reads the prompt in chunks and gives the token that follows each chunk.
  std::vector<int32_t> read(const std::vector<int32_t>& prompt) {
    std::vector<int32_t> next;
    for (size_t pos = 0; ok_ && pos < prompt.size(); pos += chunk_) {
      const size_t end = std::min(pos + chunk_, prompt.size());
      step({prompt.begin() + pos, prompt.begin() + end}, next);
    }
    return next;
  }

  // Writes greedily, end-of-sequence tokens included, until there are `total` tokens.
  std::vector<int32_t> write(size_t total) {
    std::vector<int32_t> ids = {llama_.tokenizer().bos()}, next;
    while (ok_ && ids.size() < total) {
      step({ids.back()}, next);
      ids.push_back(next.empty() ? -1 : next.back());
    }
    return ids;
  }

  std::vector<float> logits() const {
    const tensor::Tensor& logits = llama_.logits();
    return {logits.ptr<float>(), logits.ptr<float>() + logits.size()};
  }
  const model::LlamaModel& llama() const { return llama_; }

 private:
  void step(const std::vector<int32_t>& tokens, std::vector<int32_t>& next) {
    const base::Status status = llama_.forward(tokens, pos_, next.emplace_back());
    EXPECT_TRUE(status) << status.get_err_msg();
    ok_ = status;
    pos_ += static_cast<int32_t>(tokens.size());
  }

  size_t chunk_;
  int32_t pos_ = 0;
  bool ok_ = false;
  model::LlamaModel llama_;
};

class Generation : public testing::TestWithParam<ModelFiles> {
 protected:
  void SetUp() override {
    KFA_REQUIRE_FILES(GetParam());
    golden_ = GetParam().golden();
    ASSERT_GT(golden_.size(), 256u);
    // A story, not one token for ever.
    ASSERT_GT(std::set<int32_t>(golden_.begin(), golden_.end()).size(), 50u);
  }

  std::vector<int32_t> golden_;
};
INSTANTIATE_TEST_SUITE_P(EndToEnd, Generation, testing::Values(own_model(), shared_model()),
                         [](const auto& info) { return info.param.name(); });

// LlamaInferWrites goes on to the end of the golden ids, and takes longer prompts.
TEST_P(Generation, TokenByTokenWritesTheGoldenIdsThroughBothAttentions) {
  std::vector<std::vector<float>> logits;
  for (AttentionPath path : kPaths) {
    const bool flash = path == AttentionPath::kFlash;
    SCOPED_TRACE(flash ? "flash" : "standard");
#ifdef KUIPER_USE_FLASH_ATTENTION
    // The engine's own MHA kernel serves flash, too, unless it is pinned.
    const ModeScope mode(flash ? KFA_ATTENTION_MODE_AUTO : KFA_ATTENTION_MODE_STANDARD);
#endif
    Writer writer(GetParam(), path, 1);
    EXPECT_EQ(writer.write(257), std::vector<int32_t>(golden_.begin(), golden_.begin() + 257));
    logits.push_back(writer.logits());
    // No scores are stored on the flash path.
    EXPECT_EQ(writer.llama().score_storage_bytes() == 0, flash);
#ifdef KUIPER_USE_FLASH_ATTENTION
    const char* kernel = flash && !flash_disabled() ? "flash_decode" : "standard_mha";
    EXPECT_TRUE(contains(kfa_last_kernel_name(), kernel)) << kfa_last_kernel_name();
#endif
  }
  for (size_t i = 0; i < logits.front().size(); ++i) {
    ASSERT_NEAR(logits.front()[i], logits.back()[i], 1e-3) << "logit " << i;
  }
}

TEST_P(Generation, ChunksOfThePromptLeadToTheGoldenIds) {
  for (AttentionPath path : kPaths) {
    for (size_t chunk : {7, 100}) {
      const bool flash = path == AttentionPath::kFlash;
      SCOPED_TRACE(testing::Message() << (flash ? "flash" : "standard") << ", chunk " << chunk);
      Writer writer(GetParam(), path, static_cast<int32_t>(chunk));
      // Whatever chunk ends, the next token is the golden one.
      const size_t length = 128;
      const std::vector<int32_t> next = writer.read({golden_.begin(), golden_.begin() + length});
      ASSERT_EQ(next.size(), (length + chunk - 1) / chunk);
      for (size_t i = 0; i < next.size(); ++i) {
        ASSERT_EQ(next[i], golden_[std::min((i + 1) * chunk, length)]) << "after chunk " << i;
      }
    }
  }
}

TEST_P(Generation, TheStoryReadsAsOne) {
  Writer writer(GetParam(), AttentionPath::kStandard, 1);
  const std::string text = writer.llama().tokenizer().decode(writer.write(40));
  EXPECT_EQ(text.rfind("Once upon a time, there was a ", 0), 0u) << text;
  EXPECT_NE(text.find(" girl named Lily."), std::string::npos) << text;
}

TEST_P(Generation, TheContextEndsWithAStatus) {
  const int32_t end = [this] {
    Writer writer(GetParam(), AttentionPath::kStandard, 1);
    return writer.llama().config().seq_len_;
  }();
  for (AttentionPath path : kPaths) {
    model::LlamaModel llama(GetParam().tokenizer, GetParam().model, path, 4);
    ASSERT_TRUE(llama.init(base::DeviceType::kDeviceCPU));
    int32_t next = -1;
    EXPECT_FALSE(llama.forward({1}, end, next));
    EXPECT_FALSE(llama.forward({1, 2}, end - 1, next));
    EXPECT_FALSE(llama.forward({1}, -1, next));
    EXPECT_FALSE(llama.forward({}, 0, next));
    EXPECT_FALSE(llama.forward({1, 2, 3, 4, 5}, 0, next));
    EXPECT_FALSE(llama.forward({1, llama.config().vocab_size_}, 0, next));
    EXPECT_FALSE(llama.forward({-1}, 0, next));
    EXPECT_EQ(next, -1);
    EXPECT_TRUE(llama.forward({1}, 0, next));
  }
}

TEST_P(Generation, DevicesThatAreNotThereAreRefused) {
  for (AttentionPath path : kPaths) {
    model::LlamaModel llama(GetParam().tokenizer, GetParam().model, path);
    EXPECT_FALSE(llama.init(base::DeviceType::kDeviceUnknown));
    std::shared_ptr<kernel::CudaConfig> config;
    if (base::create_cuda_config(config)) continue;  // there is a GPU, see cuda/
    EXPECT_FALSE(llama.init(base::DeviceType::kDeviceCUDA));
  }
}

#ifdef KUIPER_USE_FLASH_ATTENTION
TEST_P(Generation, TheSwitchChangesTheKernelAndNotTheText) {
  const ModeScope standard(KFA_ATTENTION_MODE_STANDARD);
  Writer writer(GetParam(), AttentionPath::kFlash, 16);
  const std::vector<int32_t> next = writer.read({golden_.begin(), golden_.begin() + 64});
  EXPECT_TRUE(contains(kfa_last_kernel_name(), "standard_mha")) << kfa_last_kernel_name();
  EXPECT_EQ(next, (std::vector<int32_t>{golden_[16], golden_[32], golden_[48], golden_[64]}));
}

TEST_P(Generation, OneThreadWritesTheSame) {
  const ThreadScope one(1);
  Writer writer(GetParam(), AttentionPath::kFlash, 1);
  EXPECT_EQ(writer.write(100), std::vector<int32_t>(golden_.begin(), golden_.begin() + 100));
}
#endif
}  // namespace
}  // namespace kfa_test
