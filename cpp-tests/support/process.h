#ifndef KFA_TESTS_SUPPORT_PROCESS_H_
#define KFA_TESTS_SUPPORT_PROCESS_H_
#include <gtest/gtest.h>

#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "kuiper_flash_attention/kfa.h"

namespace kfa_test {
// Whether the run takes flash attention away, as one of the lowered runs does.
inline bool flash_disabled() {
  const char* value = std::getenv("KFA_DISABLE_FLASH_ATTENTION");
  return value && *value && std::string(value) != "0";
}

#define KFA_SKIP_WITHOUT_FLASH() \
  if (kfa_test::flash_disabled()) GTEST_SKIP() << "KFA_DISABLE_FLASH_ATTENTION is set"

// Whether CUDA requests are served here: then their refusal cannot be seen.
inline bool cuda_available() { return kfa_get_mha_kernel(KFA_DEVICE_CUDA) != nullptr; }

#define KFA_SKIP_WITH_CUDA() \
  if (kfa_test::cuda_available()) GTEST_SKIP() << "this machine has a CUDA device"

// Sets the process's attention mode while in scope.
class ModeScope {
 public:
  explicit ModeScope(kfa_attention_mode mode) : before_(current_) { set(mode); }
  ~ModeScope() { set(before_); }
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;

 private:
  static void set(kfa_attention_mode mode) {
    EXPECT_EQ(kfa_set_attention_mode(mode), KFA_OK);
    current_ = mode;
  }

  static inline kfa_attention_mode current_ = KFA_ATTENTION_MODE_AUTO;
  kfa_attention_mode before_;
};

// Sets the number of threads while in scope.
class ThreadScope {
 public:
  explicit ThreadScope(int32_t threads) : before_(kfa_get_num_threads()) {
    EXPECT_EQ(kfa_set_num_threads(threads), KFA_OK) << kfa_last_error_message();
  }
  ~ThreadScope() { kfa_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int32_t before_;
};

// Collects the library's warnings while in scope.
class LogCapture {
 public:
  LogCapture() { kfa_set_log_callback(&LogCapture::append, this); }
  ~LogCapture() { kfa_set_log_callback(nullptr, nullptr); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  std::vector<std::string> lines() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lines_;
  }

 private:
  static void append(kfa_log_level level, const char* message, void* user) {
    auto* self = static_cast<LogCapture*>(user);
    const std::lock_guard<std::mutex> lock(self->mutex_);
    self->lines_.push_back((level == KFA_LOG_WARNING ? "" : "not a warning: ") +
                           std::string(message));
  }

  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

// For what happens once per process: each EXPECT_EXIT of such a test runs in a process of its own
// that has not called the library yet.
class FreshProcess : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// Ends a fresh process: what it printed is compared, and shown where it differs.
[[noreturn]] inline void finish(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
  std::exit(testing::Test::HasFailure() ? 1 : 0);
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
}  // namespace kfa_test
#endif  // KFA_TESTS_SUPPORT_PROCESS_H_
