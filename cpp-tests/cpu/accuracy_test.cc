// Every algorithm against the definition in float64, over the shapes that select its branches.
#include <gtest/gtest.h>

#include <tuple>

#include "support/problem.h"

namespace kfa_test {
namespace {
std::vector<Shape> head_dims() {
  std::vector<Shape> shapes;
  for (int32_t head_dim : {1, 3, 8, 48, 64, 65, 80, 96, 128, 256, 512}) {
    for (int32_t q_len : {1, 5, 37}) shapes.push_back({q_len, 37, 4, 2, head_dim});
  }
  return shapes;
}

std::vector<Shape> group_sizes() {
  std::vector<Shape> shapes;
  for (int32_t group = 1; group <= 16; ++group) {
    for (int32_t q_len : {1, 9}) shapes.push_back({q_len, 70, 2 * group, 2, 32});
  }
  return shapes;
}

// Around the sizes of vectors, blocks and splits.
std::vector<Shape> key_counts() {
  std::vector<Shape> shapes;
  for (int32_t power = 1; power <= 1024; power *= 2) {
    for (int32_t kv_len = std::max(1, power - 1); kv_len <= power + 1; ++kv_len) {
      shapes.push_back({1, kv_len, 2, 1, 16});
      if (kv_len > 2) shapes.push_back({kv_len / 2, kv_len, 2, 1, 16});
    }
  }
  std::sort(shapes.begin(), shapes.end(),
            [](const Shape& a, const Shape& b) { return a.name() < b.name(); });
  const auto same = [](const Shape& a, const Shape& b) { return a.name() == b.name(); };
  shapes.erase(std::unique(shapes.begin(), shapes.end(), same), shapes.end());
  return shapes;
}

std::vector<Shape> batches() {
  return {{1, 50, 6, 3, 24, 3},    {7, 50, 6, 3, 24, 3},    {50, 50, 6, 3, 24, 3},
          {1, 50, 6, 3, 24, 1, 0}, {7, 50, 6, 3, 24, 2, 0}, {60, 50, 6, 3, 24, 2, 0}};
}

std::vector<Shape> long_sequences() {
  return {{1, 5000, 2, 1, 64}, {130, 1000, 4, 2, 64}, {300, 300, 4, 2, 64}, {1, 2048, 8, 8, 128}};
}

class Accuracy : public testing::TestWithParam<std::tuple<kfa_attention_mode, Shape>> {
 public:
  static std::string name(const testing::TestParamInfo<ParamType>& info) {
    const bool flash = std::get<0>(info.param) == KFA_ATTENTION_MODE_FLASH;
    return (flash ? "flash_" : "standard_") + std::get<1>(info.param).name();
  }
};

TEST_P(Accuracy, MatchesTheDefinition) {
  const auto& [mode, shape] = GetParam();
  const bool flash = mode == KFA_ATTENTION_MODE_FLASH;
  if (flash) KFA_SKIP_WITHOUT_FLASH();
  // Odd addresses for every other problem: 4-byte alignment is all that is asked.
  Problem problem(shape, 7, shape.kv_len % 2);
  problem.desc.mode = mode;
  problem.run_and_compare();

  const char* algorithm = !flash             ? "cpu.standard_mha."
                          : shape.q_len == 1 ? "cpu.flash_decode."
                                             : "cpu.flash_prefill.";
  EXPECT_TRUE(contains(kfa_last_kernel_name(), algorithm)) << kfa_last_kernel_name();
}

const auto kModes = testing::Values(KFA_ATTENTION_MODE_FLASH, KFA_ATTENTION_MODE_STANDARD);
#define KFA_ACCURACY_OVER(label, shapes)                                                           \
  INSTANTIATE_TEST_SUITE_P(label, Accuracy, testing::Combine(kModes, testing::ValuesIn(shapes())), \
                           Accuracy::name)
KFA_ACCURACY_OVER(HeadDims, head_dims);
KFA_ACCURACY_OVER(GroupSizes, group_sizes);
KFA_ACCURACY_OVER(KeyCounts, key_counts);
KFA_ACCURACY_OVER(Batches, batches);
KFA_ACCURACY_OVER(LongSequences, long_sequences);
#undef KFA_ACCURACY_OVER
}  // namespace
}  // namespace kfa_test
