// What concerns the whole process: version, messages, threads, attention mode, log, environment.
#include <thread>

#include "capi/refused.h"
#include "support/problem.h"

namespace kfa_test {
namespace {
constexpr Shape kDecode{1, 40, 4, 2, 16};
constexpr Shape kTooWide{1, 10, 2, 1, 600};

kfa_status forward(const Shape& shape) {
  Problem problem(shape);
  problem.bring_workspace();
  return kfa_attention_forward(&problem.desc);
}

TEST(Process, VersionsAgree) {
  EXPECT_EQ(kfa_version(),
            KFA_VERSION_MAJOR * 1000000u + KFA_VERSION_MINOR * 1000u + KFA_VERSION_PATCH);
  const std::string text = std::to_string(KFA_VERSION_MAJOR) + "." +
                           std::to_string(KFA_VERSION_MINOR) + "." +
                           std::to_string(KFA_VERSION_PATCH);
  EXPECT_EQ(kfa_version_string(), text);
  EXPECT_TRUE(contains(kfa_build_info(), text)) << kfa_build_info();
  EXPECT_EQ(kfa_build_info(), kfa_build_info());
}

TEST(Process, EveryStatusHasItsName) {
  EXPECT_STREQ(kfa_status_name(KFA_OK), "KFA_OK");
  EXPECT_STREQ(kfa_status_name(KFA_ERROR_INVALID_ARGUMENT), "KFA_ERROR_INVALID_ARGUMENT");
  EXPECT_STREQ(kfa_status_name(KFA_ERROR_UNSUPPORTED), "KFA_ERROR_UNSUPPORTED");
  EXPECT_STREQ(kfa_status_name(KFA_ERROR_NO_DEVICE), "KFA_ERROR_NO_DEVICE");
  EXPECT_STREQ(kfa_status_name(KFA_ERROR_CUDA), "KFA_ERROR_CUDA");
  EXPECT_STREQ(kfa_status_name(KFA_ERROR_OUT_OF_MEMORY), "KFA_ERROR_OUT_OF_MEMORY");
  EXPECT_STREQ(kfa_status_name(KFA_ERROR_INTERNAL), "KFA_ERROR_INTERNAL");
  for (kfa_status unknown : {-1, 7, INT32_MAX})
    EXPECT_TRUE(contains(kfa_status_name(unknown), "unknown"));
}

TEST(Process, MessageAndKernelNameBelongToTheThread) {
  ASSERT_EQ(forward(kDecode), KFA_OK);
  ASSERT_NE(kfa_set_num_threads(-3), KFA_OK);
  const std::string kernel = kfa_last_kernel_name();
  EXPECT_TRUE(contains(kfa_last_error_message(), "-3"));
  std::thread([] {
    EXPECT_STREQ(kfa_last_error_message(), "");
    EXPECT_STREQ(kfa_last_kernel_name(), "");
    EXPECT_NE(kfa_set_num_threads(-4), KFA_OK);
  }).join();
  EXPECT_TRUE(contains(kfa_last_error_message(), "-3")) << kfa_last_error_message();
  EXPECT_EQ(kfa_last_kernel_name(), kernel);
  // A success leaves the message, a failure the kernel.
  ASSERT_EQ(forward(kDecode), KFA_OK);
  EXPECT_TRUE(contains(kfa_last_error_message(), "-3"));
  EXPECT_NE(kfa_attention_forward(nullptr), KFA_OK);
  EXPECT_EQ(kfa_last_kernel_name(), kernel);
}

TEST(Process, ThreadsCanBeSet) {
  const int32_t before = kfa_get_num_threads();
  EXPECT_GE(before, 1);
  for (int32_t threads : {1, 3}) {
    ASSERT_EQ(kfa_set_num_threads(threads), KFA_OK) << kfa_last_error_message();
    EXPECT_EQ(kfa_get_num_threads(), threads);
    EXPECT_EQ(forward(kDecode), KFA_OK);
  }
  for (int32_t threads : {0, -1, 1025, INT32_MAX, INT32_MIN}) {
    expect_refused(kfa_set_num_threads(threads), KFA_ERROR_INVALID_ARGUMENT,
                   {"threads is " + std::to_string(threads), "expected"});
    EXPECT_EQ(kfa_get_num_threads(), 3);
  }
  ASSERT_EQ(kfa_set_num_threads(before), KFA_OK);
}

TEST(Process, ThreadsCanBeSetWhileCallsRun) {
  const int32_t before = kfa_get_num_threads();
  std::thread other([] {
    for (int i = 0; i < 20; ++i) Problem({3, 700, 4, 2, 32}).run_and_compare();
  });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(kfa_set_num_threads(1 + i % 3), KFA_OK);
  other.join();
  ASSERT_EQ(kfa_set_num_threads(before), KFA_OK);
}

TEST(Process, UnknownModesAreRefused) {
  for (kfa_attention_mode mode : {-1, 3, INT32_MAX}) {
    expect_refused(kfa_set_attention_mode(mode), KFA_ERROR_INVALID_ARGUMENT,
                   {"mode is " + std::to_string(mode), "expected"});
  }
}

TEST(Process, TheModeServesCallsThatLeaveTheirsAutomatic) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto kernel = [](kfa_attention_mode of_process, kfa_attention_mode of_call) {
    const ModeScope scope(of_process);
    Problem problem(kDecode);
    problem.desc.mode = of_call;
    problem.run_and_compare();
    return std::string(kfa_last_kernel_name());
  };
  constexpr kfa_attention_mode kModes[] = {KFA_ATTENTION_MODE_AUTO, KFA_ATTENTION_MODE_FLASH,
                                           KFA_ATTENTION_MODE_STANDARD};
  for (kfa_attention_mode of_process : kModes) {
    for (kfa_attention_mode of_call : kModes) {
      SCOPED_TRACE(testing::Message() << "process " << of_process << ", call " << of_call);
      const kfa_attention_mode effective =
          of_call == KFA_ATTENTION_MODE_AUTO ? of_process : of_call;
      const char* want =
          effective == KFA_ATTENTION_MODE_STANDARD ? "cpu.standard_mha." : "cpu.flash_decode.";
      EXPECT_EQ(kernel(of_process, of_call).rfind(want, 0), 0u) << kfa_last_kernel_name();
    }
  }
}

TEST(Process, FlashModeRefusesWhatFlashCannotServe) {
  KFA_SKIP_WITHOUT_FLASH();
  for (int32_t head_dim : {513, 600, 640}) {
    Problem problem({1, 10, 2, 1, head_dim});
    Array workspace(1 << 12);
    problem.desc.workspace = workspace.data();
    problem.desc.workspace_size = workspace.size() * sizeof(float);
    problem.desc.mode = KFA_ATTENTION_MODE_FLASH;
    expect_refused(kfa_attention_forward(&problem.desc), KFA_ERROR_UNSUPPORTED,
                   {std::to_string(head_dim), "512"});
    EXPECT_TRUE(problem.output.untouched() && problem.lse.untouched() && workspace.untouched());
    // Automatic mode falls back to standard MHA.
    problem.desc.mode = KFA_ATTENTION_MODE_AUTO;
    problem.run_and_compare();
    EXPECT_TRUE(contains(kfa_last_kernel_name(), "standard_mha")) << kfa_last_kernel_name();
  }
}

class Once : public FreshProcess {};

TEST_F(Once, AFallbackIsLoggedOnceWithItsReason) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto fall_back = [] {
    const LogCapture log;
    EXPECT_EQ(forward(kDecode), KFA_OK);
    EXPECT_EQ(log.lines().size(), 0u);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(forward(kTooWide), KFA_OK);
    std::thread([] { EXPECT_EQ(forward({7, 10, 2, 1, 640}), KFA_OK); }).join();
    EXPECT_EQ(log.lines().size(), 1u);
    finish(log.lines().at(0));
  };
  EXPECT_EXIT(fall_back(), testing::ExitedWithCode(0), "standard.*600.*512|standard.*512.*600");
}

TEST_F(Once, WithoutACallbackTheFallbackIsWrittenToStderr) {
  KFA_SKIP_WITHOUT_FLASH();
  EXPECT_EXIT(
      {
        for (int i = 0; i < 3; ++i) EXPECT_EQ(forward(kTooWide), KFA_OK);
        finish("done");
      },
      testing::ExitedWithCode(0), "kuiper_flash_attention: [^\n]*512[^\n]*\ndone");
}

TEST_F(Once, AnExplicitStandardModeIsNoFallback) {
  const auto run = [] {
    const LogCapture log;
    const ModeScope standard(KFA_ATTENTION_MODE_STANDARD);
    EXPECT_EQ(forward(kDecode), KFA_OK);
    finish(std::to_string(log.lines().size()) + " lines");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "0 lines");
}

TEST_F(Once, TheEnvironmentTakesFlashAway) {
  const auto run = [](const char* value) {
    setenv("KFA_DISABLE_FLASH_ATTENTION", value, 1);
    const LogCapture log;
    Problem(kDecode).run_and_compare();
    std::string text = kfa_last_kernel_name();
    for (const std::string& line : log.lines()) text += ": " + line;
    {
      const ModeScope flash(KFA_ATTENTION_MODE_FLASH);
      Array workspace(1 << 12);
      Problem problem(kDecode);
      problem.desc.workspace = workspace.data();
      problem.desc.workspace_size = workspace.size() * sizeof(float);
      text += kfa_attention_forward(&problem.desc) == KFA_OK ? "; served" : "; refused";
      text += contains(kfa_last_error_message(), "KFA_DISABLE_FLASH_ATTENTION") ? " by name" : "";
    }
    finish(text);
  };
  EXPECT_EXIT(run("1"), testing::ExitedWithCode(0),
              "cpu.standard_mha.*: .*KFA_DISABLE_FLASH_ATTENTION.*; refused by name");
  EXPECT_EXIT(run("0"), testing::ExitedWithCode(0), "cpu.flash_decode.*; served");
  EXPECT_EXIT(run(""), testing::ExitedWithCode(0), "cpu.flash_decode.*; served");
}

TEST_F(Once, TheEnvironmentLowersTheInstructionSet) {
  const auto run = [](const char* value) {
    setenv("KFA_CPU_ISA", value, 1);
    Problem(kDecode).run_and_compare();
    finish(kfa_last_kernel_name());
  };
  EXPECT_EXIT(run("portable"), testing::ExitedWithCode(0), "cpu[.].*[.]portable");
}

TEST_F(Once, TheEnvironmentLowersTheThreads) {
  const auto run = [](const char* value) {
    setenv("KFA_NUM_THREADS", value, 1);
    Problem(kDecode).run_and_compare();
    finish("threads " + std::to_string(kfa_get_num_threads()));
  };
  EXPECT_EXIT(run("1"), testing::ExitedWithCode(0), "threads 1\n");
  // It may lower, never raise.
  EXPECT_EXIT(run("1000"), testing::ExitedWithCode(0), "threads [0-9]{1,3}\n");
}

TEST_F(Once, AnEnvironmentThatMakesNoSenseIsIgnoredAloud) {
  const auto run = [](const char* name) {
    setenv(name, "nonsense", 1);
    const LogCapture log;
    const ModeScope standard(KFA_ATTENTION_MODE_STANDARD);  // no fallback to be logged as well
    Problem(kDecode).run_and_compare();
    EXPECT_GE(kfa_get_num_threads(), 1);
    EXPECT_EQ(log.lines().size(), 1u);
    finish(log.lines().empty() ? "silence" : log.lines()[0]);
  };
  EXPECT_EXIT(run("KFA_CPU_ISA"), testing::ExitedWithCode(0), "KFA_CPU_ISA.*nonsense");
  EXPECT_EXIT(run("KFA_NUM_THREADS"), testing::ExitedWithCode(0), "KFA_NUM_THREADS.*nonsense");
}
}  // namespace
}  // namespace kfa_test
