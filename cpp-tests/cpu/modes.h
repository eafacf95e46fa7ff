#ifndef KFA_TESTS_CPU_MODES_H_
#define KFA_TESTS_CPU_MODES_H_
#include <gtest/gtest.h>

#include "support/problem.h"

namespace kfa_test {
// For properties that flash and standard attention share, decode and prefill alike.
class EachMode : public testing::TestWithParam<kfa_attention_mode> {
 public:
  static std::string name(const testing::TestParamInfo<kfa_attention_mode>& info) {
    return info.param == KFA_ATTENTION_MODE_FLASH ? "flash" : "standard";
  }

 protected:
  void SetUp() override {
    if (GetParam() == KFA_ATTENTION_MODE_FLASH) KFA_SKIP_WITHOUT_FLASH();
  }

  Problem make(const Shape& shape, uint32_t seed = 1) const {
    Problem problem(shape, seed);
    problem.desc.mode = GetParam();
    return problem;
  }
};

#define KFA_FOR_EACH_MODE(suite)                                                                   \
  INSTANTIATE_TEST_SUITE_P(Cpu, suite,                                                             \
                           testing::Values(KFA_ATTENTION_MODE_FLASH, KFA_ATTENTION_MODE_STANDARD), \
                           EachMode::name)
}  // namespace kfa_test
#endif  // KFA_TESTS_CPU_MODES_H_
