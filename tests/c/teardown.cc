// The library is called when a thread, or the process, is ending: from the destructor of a
// thread_local or of a static object, from an exit handler, from a thread-specific key's destructor.
#include <pthread.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "problem.h"

namespace {
enum class Call { kForward, kFailure, kMessage };
Call call;

void make_call() {
  switch (call) {
    case Call::kForward:
      problem_must_run(1, 500, 20);
      problem_must_run(40, 40, 21);
      break;
    case Call::kFailure:
      problem_must_fail(22);
      break;
    case Call::kMessage:
      if (kfa_last_error_message() == nullptr) std::_Exit(23);
      if (kfa_last_kernel_name() == nullptr) std::_Exit(24);
      break;
  }
}

struct CallsWhenDestroyed {
  bool armed = false;
  ~CallsWhenDestroyed() {
    if (armed) make_call();
  }
};

CallsWhenDestroyed static_object;
thread_local CallsWhenDestroyed thread_object;

void key_destructor(void*) { make_call(); }
}  // namespace

// usage: teardown WHERE CALL [warm]: warm makes calls before, too, so that the thread has scratch and
// a message of its own.
int main(int argc, char** argv) {
  if (argc < 3) return 1;
  const char* where = argv[1];
  call = std::strcmp(argv[2], "forward") == 0   ? Call::kForward
         : std::strcmp(argv[2], "failure") == 0 ? Call::kFailure
                                                : Call::kMessage;
  const bool warm = argc > 3;
  const auto warm_up = [warm] {
    if (!warm) return;
    problem_must_run(1, 500, 10);
    problem_must_fail(11);
  };
  if (std::strcmp(where, "thread_local") == 0) {
    // The object is made before the library's own, and so destroyed after them.
    std::thread([&] {
      thread_object.armed = true;
      warm_up();
    }).join();
  } else if (std::strcmp(where, "key") == 0) {
    std::thread([&] {
      pthread_key_t key;
      if (pthread_key_create(&key, key_destructor) != 0) std::_Exit(12);
      pthread_setspecific(key, &key);
      warm_up();
    }).join();
  } else if (std::strcmp(where, "atexit") == 0) {
    if (std::atexit(make_call) != 0) return 2;
    warm_up();
  } else if (std::strcmp(where, "static") == 0) {
    static_object.armed = true;
    warm_up();
  } else {
    return 3;
  }
  return 0;
}
