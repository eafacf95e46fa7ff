// After fork a child has none of its parent's threads; calls finish all the same.
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/modes.h"

namespace kfa_test {
namespace {
class Fork : public EachMode {};
KFA_FOR_EACH_MODE(Fork);

TEST_P(Fork, ChildComputesTheSame) {
  const ThreadScope two(2);
  // Short and long work have threads of their own.
  for (const Shape& shape : {Shape{1, 3000, 8, 2, 64}, Shape{600, 600, 8, 2, 64}}) {
    SCOPED_TRACE(shape);
    Problem parents = make(shape), childs = make(shape);
    parents.run();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(60);  // a call that waits for a thread that is not there would never end
      childs.run();
      _exit(childs.output.same_bits(parents.output) ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0) << "the child's output differs";
  }
}
}  // namespace
}  // namespace kfa_test
