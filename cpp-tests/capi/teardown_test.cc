// Calls while a thread, the process or the library's place in it ends.
#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "capi/engine_call.h"
#include "support/problem.h"

namespace kfa_test {
namespace {
// What a host may do at any time; ends the process with 3 where the answer is wrong, as a handler
// of exit has no other way to say so.
void use_library() {
  const auto expect = [](bool holds) {
    if (!holds) _exit(3);
  };
  for (const Shape& shape : {Shape{1, 3000, 8, 2, 64}, Shape{300, 300, 8, 2, 64}}) {
    Problem problem(shape);
    problem.bring_workspace();
    expect(kfa_attention_forward(&problem.desc) == KFA_OK);
    const Expected want = kfa_test::expected(problem.desc);
    for (size_t i = 0; i < problem.output.size(); ++i) {
      expect(std::abs(problem.output[i] - want.output[i]) < kMaxAbsError);
    }
  }
  expect(contains(kfa_last_kernel_name(), "cpu."));
  expect(kfa_attention_forward(nullptr) == KFA_ERROR_INVALID_ARGUMENT);
  expect(kfa_last_error_message() != nullptr && *kfa_last_error_message() != '\0');
  expect(kfa_set_num_threads(-1) == KFA_ERROR_INVALID_ARGUMENT);
  expect(kfa_set_num_threads(2) == KFA_OK);
  expect(kfa_get_num_threads() == 2);
  expect(contains(kfa_build_info(), "cpu kernels"));
  kfa_set_log_callback(nullptr, nullptr);

  for (const Route route : kRoutes) {
    EngineCall call;
    expect(call.run(route) == KFA_OK && !call.output_memory.untouched());
  }
}

struct UseWhenDestroyed {
  ~UseWhenDestroyed() { use_library(); }
};

class Teardown : public FreshProcess {};

// A thread's variables are destroyed latest first, so that what is made before the library's is
// destroyed after them.
TEST_F(Teardown, ADestructorOfAThreadMayCall) {
  const auto run = [](bool first) {
    std::thread([first] {
      if (!first) use_library();
      thread_local UseWhenDestroyed late;
      (void)&late;
      if (first) use_library();
    }).join();
    finish("done");
  };
  EXPECT_EXIT(run(true), testing::ExitedWithCode(0), "done");
  EXPECT_EXIT(run(false), testing::ExitedWithCode(0), "done");
}

TEST_F(Teardown, AHandlerOfExitMayCall) {
  const auto run = [](bool used_before) {
    std::atexit(use_library);
    if (used_before) use_library();
    finish("done");
  };
  EXPECT_EXIT(run(true), testing::ExitedWithCode(0), "done");
  EXPECT_EXIT(run(false), testing::ExitedWithCode(0), "done");
}

TEST_F(Teardown, AStaticDestructorMayCall) {
  const auto run = [](bool used_before) {
    static const UseWhenDestroyed late;
    if (used_before) use_library();
    finish("done");
  };
  EXPECT_EXIT(run(true), testing::ExitedWithCode(0), "done");
  EXPECT_EXIT(run(false), testing::ExitedWithCode(0), "done");
}

// Helper threads run the library's code, so it stays when the last handle is closed, whether or not
// one has started yet.
TEST_F(Teardown, TheLibraryStaysWhenItIsClosed) {
  const auto run = [] {
    Dl_info info{};
    ASSERT_NE(dladdr(reinterpret_cast<void*>(&kfa_version), &info), 0);
    // A copy, as this program holds the library itself.
    const std::filesystem::path copy = std::filesystem::temp_directory_path() /
                                       ("kfa-teardown-" + std::to_string(getpid()) + ".so");
    std::filesystem::copy_file(info.dli_fname, copy);
    void* library = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    EXPECT_EQ(dlclose(library), 0);
    EXPECT_NE(dlopen(copy.c_str(), RTLD_NOW | RTLD_NOLOAD), nullptr) << "the library is gone";
    std::filesystem::remove(copy);
    finish("done");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "done");
}
}  // namespace
}  // namespace kfa_test
