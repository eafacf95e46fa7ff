// The run-time switch and the automatic fallback, as an engine sees them.
#include "adapter/host.h"

namespace kfa_test {
namespace {
std::string kernel_after(const Host& host) {
  const base::Status status = host.forward();
  EXPECT_TRUE(status) << status.get_err_msg();
  return kfa_last_kernel_name();
}

TEST_F(TestFlashAttention, TheSwitchChoosesTheKernel) {
  KFA_SKIP_WITHOUT_FLASH();
  struct Choice {
    kfa_attention_mode mode;
    int32_t q_len;
    const char* kernel;
  };
  for (const auto& [mode, q_len, kernel] : {
           Choice{KFA_ATTENTION_MODE_AUTO, 1, "cpu.flash_decode."},
           Choice{KFA_ATTENTION_MODE_AUTO, 8, "cpu.flash_prefill."},
           Choice{KFA_ATTENTION_MODE_FLASH, 1, "cpu.flash_decode."},
           Choice{KFA_ATTENTION_MODE_FLASH, 8, "cpu.flash_prefill."},
           Choice{KFA_ATTENTION_MODE_STANDARD, 1, "cpu.standard_mha."},
           Choice{KFA_ATTENTION_MODE_STANDARD, 8, "cpu.standard_mha."},
       }) {
    SCOPED_TRACE(kernel);
    const ModeScope scope(mode);
    Host host({4, 2, 32, 40}, 30, q_len);
    EXPECT_EQ(kernel_after(host).rfind(kernel, 0), 0u) << kfa_last_kernel_name();
    host.expect_output_accurate();
  }
}

TEST_F(TestFlashAttention, MhaKernelServesFlashAndLeavesTheScoresAlone) {
  KFA_SKIP_WITHOUT_FLASH();
  for (int32_t q_len : {1, 6}) {
    Host host({4, 2, 32, 40, 2}, 30, q_len, 1);
    host.run_mha(host.output);
    EXPECT_TRUE(contains(kfa_last_kernel_name(), "flash")) << kfa_last_kernel_name();
    EXPECT_TRUE(host.score_memory.untouched());
    host.expect_output_accurate();
  }
}

TEST_F(TestFlashAttention, MhaKernelNeedsNoScores) {
  const LogCapture quiet;
  for (int32_t head_size : {32, 520}) {  // the second falls back to standard MHA
    for (kfa_attention_mode mode : {KFA_ATTENTION_MODE_AUTO, KFA_ATTENTION_MODE_STANDARD}) {
      const ModeScope scope(mode);
      Host host({4, 2, head_size, 40}, 30, 3);
      const tensor::Tensor scores = std::exchange(host.score, tensor::Tensor());
      host.run_mha(host.output);
      host.score = scores;
      host.expect_output_accurate();
    }
  }
}

TEST_F(TestFlashAttention, TheModePinsTheMhaKernelToStandard) {
  Host host({4, 2, 32, 40}, 30);
  host.run_standard_mha(host.output);
  EXPECT_TRUE(contains(kfa_last_kernel_name(), "standard_mha")) << kfa_last_kernel_name();
  EXPECT_FALSE(host.score_memory.untouched());
  const Expected want = host.definition();
  expect_accurate(host.output_memory.data(), want.output.data(), want.output.size());
}

TEST_F(TestFlashAttention, HeadsTooLargeForFlashFallBackToStandard) {
  const LogCapture quiet;
  for (int32_t head_size : {513, 576, 640}) {
    for (int32_t q_len : {1, 5}) {
      SCOPED_TRACE(head_size);
      Host host({2, 1, head_size, 16, 2}, 11, q_len, 1);
      EXPECT_TRUE(contains(kernel_after(host), "standard_mha")) << kfa_last_kernel_name();
      host.expect_output_accurate();
    }
  }
}

TEST_F(TestFlashAttention, FlashModeRefusesHeadsTooLarge) {
  KFA_SKIP_WITHOUT_FLASH();
  const ModeScope flash(KFA_ATTENTION_MODE_FLASH);
  Host host({2, 1, 600, 16}, 11);
  const auto before = host.snapshot();
  const base::Status status = host.forward();
  EXPECT_FALSE(status);
  EXPECT_TRUE(contains(status.get_err_msg(), "512")) << status.get_err_msg();
  EXPECT_TRUE(contains(status.get_err_msg(), "KFA_ERROR_UNSUPPORTED")) << status.get_err_msg();
  EXPECT_TRUE(host.snapshot() == before);
}

class Fallback : public FreshProcess {};

TEST_F(Fallback, OfALayerIsLoggedOnce) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto run = [] {
    const LogCapture log;
    for (int32_t pos : {0, 7, 15}) EXPECT_TRUE(Host({2, 1, 520, 16}, pos).forward());
    EXPECT_EQ(log.lines().size(), 1u);
    finish(log.lines().at(0));
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "standard.*520.*512|standard.*512.*520");
}

class Told : public FreshProcess {};

TEST_F(Told, TheMhaKernelSaysOnceWhatServesIt) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto run = [] {
    for (int32_t pos : {3, 7, 15}) {
      const Host host({2, 1, 32, 16}, pos);
      host.run_mha(host.output);
    }
    finish("end");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0),
              "^info: mha_kernel runs cpu\\.flash_decode[^\n]*\nend");
}
}  // namespace
}  // namespace kfa_test
