// The log callback: what it may do, when it is gone, and that logging never decides about a call.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "capi/refused.h"
#include "support/problem.h"

namespace kfa_test {
namespace {
constexpr Shape kDecode{1, 40, 4, 2, 16};
constexpr Shape kTooWide{1, 10, 2, 1, 600};
// A call that waits for itself would never end.
constexpr unsigned kSeconds = 20;

kfa_status forward(const Shape& shape) {
  Problem problem(shape);
  problem.bring_workspace();
  return kfa_attention_forward(&problem.desc);
}

// The next call in this process logs, in automatic mode, that it fell back to standard MHA.
kfa_status fall_back() { return forward(kTooWide); }

// Everything a callback may ask of the library, a failing call included.
void call_everything() {
  EXPECT_STRNE(kfa_build_info(), "");
  EXPECT_GE(kfa_get_num_threads(), 1);
  EXPECT_EQ(forward(kDecode), KFA_OK);
  EXPECT_EQ(fall_back(), KFA_OK);
  EXPECT_NE(kfa_set_attention_mode(-78), KFA_OK);
  EXPECT_NE(kfa_get_mha_kernel(KFA_DEVICE_CPU), nullptr);
}

class LogCallback : public FreshProcess {};

TEST_F(LogCallback, MayCallTheLibraryWhateverIsLogged) {
  const auto run = [](const char* name, const char* value) {
    alarm(kSeconds);
    setenv(name, value, 1);
    static std::vector<std::string> lines;
    kfa_set_log_callback(
        [](kfa_log_level, const char* message, void*) {
          lines.push_back(message);
          call_everything();
        },
        nullptr);
    EXPECT_EQ(forward(kDecode), KFA_OK);
    EXPECT_GE(kfa_get_num_threads(), 1);
    EXPECT_EQ(forward(kDecode), KFA_OK);
    std::string text = std::to_string(lines.size()) + " lines";
    for (const std::string& line : lines) text += "; " + line;
    finish(text);
  };
  // The second line is the fallback that the callback's own call met; it comes with a later call.
  EXPECT_EXIT(run("KFA_CPU_ISA", "bogus"), testing::ExitedWithCode(0), "2 lines; .*KFA_CPU_ISA=bogus");
  EXPECT_EXIT(run("KFA_NUM_THREADS", "2,5"), testing::ExitedWithCode(0),
              "2 lines; .*KFA_NUM_THREADS=2,5");
}

TEST_F(LogCallback, MayBeCalledFromTheFirstCallOfSeveralThreads) {
  const auto run = [] {
    alarm(kSeconds);
    setenv("KFA_CPU_ISA", "bogus", 1);
    setenv("KFA_NUM_THREADS", "bogus", 1);
    static std::atomic<int> lines{0};
    kfa_set_log_callback(
        [](kfa_log_level, const char*, void*) {
          ++lines;
          call_everything();
        },
        nullptr);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([] {
        for (int j = 0; j < 3; ++j) EXPECT_EQ(forward({1, 700, 4, 2, 32}), KFA_OK);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_GE(lines, 2);
    finish("done");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "done");
}

TEST_F(LogCallback, LeavesTheMessageOfTheCallThatLogged) {
  const auto run = [] {
    alarm(kSeconds);
    setenv("KFA_CPU_ISA", "bogus", 1);
    kfa_set_log_callback([](kfa_log_level, const char*, void*) { call_everything(); }, nullptr);
    // Finds out the instruction set, and fails for want of a workspace.
    Problem problem(kDecode);
    problem.desc.mode = KFA_ATTENTION_MODE_STANDARD;
    expect_refused(kfa_attention_forward(&problem.desc), KFA_ERROR_INVALID_ARGUMENT,
                   {"workspace"});
    finish("done");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "done");
}

// One thread inside its callback.
struct Inside {
  std::atomic<bool> entered{false}, left{false};
  static void callback(kfa_log_level, const char*, void* user) {
    auto* self = static_cast<Inside*>(user);
    self->entered = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    self->left = true;
  }
};

TEST_F(LogCallback, IsNeverRunningAfterItWasReplaced) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto run = [](kfa_log_callback next) {
    alarm(kSeconds);
    Inside inside;
    kfa_set_log_callback(Inside::callback, &inside);
    std::thread caller([] { EXPECT_EQ(fall_back(), KFA_OK); });
    while (!inside.entered) std::this_thread::yield();
    kfa_set_log_callback(next, nullptr);
    EXPECT_TRUE(inside.left) << "the callback's user pointer would be freed under it";
    caller.join();
    finish("done");
  };
  EXPECT_EXIT(run(nullptr), testing::ExitedWithCode(0), "done");
  EXPECT_EXIT(run([](kfa_log_level, const char*, void*) {}), testing::ExitedWithCode(0), "done");
}

TEST_F(LogCallback, MayReplaceItself) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto run = [] {
    alarm(kSeconds);
    kfa_set_log_callback(
        [](kfa_log_level, const char*, void*) { kfa_set_log_callback(nullptr, nullptr); }, nullptr);
    EXPECT_EQ(fall_back(), KFA_OK);
    finish("done");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "done");
}

TEST_F(LogCallback, ThatThrowsEndsTheProcess) {
  KFA_SKIP_WITHOUT_FLASH();
  const auto run = [] {
    kfa_set_log_callback(
        [](kfa_log_level, const char*, void*) { throw std::runtime_error("thrown"); }, nullptr);
    try {
      fall_back();
    } catch (const std::runtime_error&) {
    }
    finish("caught");
  };
  EXPECT_EXIT(run(), testing::KilledBySignal(SIGABRT), "");
}

TEST_F(LogCallback, IsNotNeededForStderrThatCannotBeWritten) {
  const auto run = [](const char* name) {
    setenv(name, "nonsense", 1);
    const int kept = dup(STDERR_FILENO), full = open("/dev/full", O_WRONLY);
    ASSERT_GE(full, 0);
    ASSERT_EQ(dup2(full, STDERR_FILENO), STDERR_FILENO);
    std::string text;
    for (int i = 0; i < 2; ++i) {
      text += kfa_status_name(forward(kDecode));
      text += contains(kfa_build_info(), "cpu kernels") ? " and a build info, " : " and nothing, ";
      text += kfa_status_name(fall_back()) + std::string(", ");
    }
    dup2(kept, STDERR_FILENO);
    finish(text + "end");
  };
  const char* want =
      "KFA_OK and a build info, KFA_OK, KFA_OK and a build info, KFA_OK, end";
  EXPECT_EXIT(run("KFA_CPU_ISA"), testing::ExitedWithCode(0), want);
  EXPECT_EXIT(run("KFA_NUM_THREADS"), testing::ExitedWithCode(0), want);
}
}  // namespace
}  // namespace kfa_test
