// Same inputs, same bits: from run to run, whatever the threads if so asked, and from two callers at
// once.
#include <thread>

#include "cpu/modes.h"

namespace kfa_test {
namespace {
class Determinism : public EachMode {
 protected:
  static std::vector<Shape> shapes() {
    return {{1, 1500, 4, 2, 64}, {1, 1500, 8, 1, 128}, {90, 200, 4, 2, 48}, {64, 64, 3, 3, 80, 2}};
  }
};
KFA_FOR_EACH_MODE(Determinism);

TEST_P(Determinism, BitsDoNotChangeFromRunToRun) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape);
    Problem first = make(shape), again = make(shape);
    first.run();
    for (int i = 0; i < 3; ++i) {
      again.run();
      ASSERT_TRUE(again.output.same_bits(first.output));
      ASSERT_TRUE(again.lse.same_bits(first.lse));
    }
  }
}

TEST_P(Determinism, BitsDoNotDependOnTheNumberOfThreads) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape);
    Problem alone = make(shape);
    alone.desc.flags = KFA_FLAG_DETERMINISTIC;
    {
      const ThreadScope one(1);
      alone.run();
    }
    for (int32_t threads : {2, 7}) {
      SCOPED_TRACE(threads);
      const ThreadScope many(threads);
      Problem together = make(shape);
      together.desc.flags = KFA_FLAG_DETERMINISTIC;
      together.run();
      ASSERT_TRUE(together.output.same_bits(alone.output));
      ASSERT_TRUE(together.lse.same_bits(alone.lse));
    }
  }
}

TEST_P(Determinism, HostThreadsDoNotDisturbEachOther) {
  const ThreadScope two(2);
  std::vector<Problem> alone;
  for (uint32_t seed : {100, 200}) {
    for (const Shape& shape : shapes()) alone.emplace_back(make(shape, seed)).run();
  }
  const auto work = [&](uint32_t seed, const Problem* want) {
    std::vector<Problem> problems;
    for (const Shape& shape : shapes()) problems.push_back(make(shape, seed));
    for (int i = 0; i < 6; ++i) {
      for (size_t shape = 0; shape < problems.size(); ++shape) {
        problems[shape].run();
        ASSERT_TRUE(problems[shape].output.same_bits(want[shape].output));
        ASSERT_TRUE(problems[shape].lse.same_bits(want[shape].lse));
      }
    }
  };
  std::thread other(work, 100, &alone[0]);
  work(200, &alone[shapes().size()]);
  other.join();
}
}  // namespace
}  // namespace kfa_test
