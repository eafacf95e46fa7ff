// Which keys a row sees, and that nothing else has any influence.
#include <cmath>

#include "cpu/modes.h"

namespace kfa_test {
namespace {
class Masking : public EachMode {};
KFA_FOR_EACH_MODE(Masking);

// The reference of this test is another call: one row over its own keys.
TEST_P(Masking, EachRowEqualsDecodeAtItsPosition) {
  const Shape shape{33, 80, 4, 2, 40};
  Problem chunk = make(shape);
  chunk.run();
  const size_t row_size = size_t{4} * 40;
  for (int32_t row = 0; row < shape.q_len; ++row) {
    SCOPED_TRACE(row);
    Problem decode = make({1, shape.kv_len - shape.q_len + 1 + row, 4, 2, 40});
    decode.desc.query.data = chunk.query.data() + row * row_size;
    decode.desc.key.data = chunk.key.data();
    decode.desc.value.data = chunk.value.data();
    decode.run();
    expect_accurate(chunk.output.data() + row * row_size, decode.output.data(), row_size, "decode");
  }
}

TEST_P(Masking, KeysAreSeenExactlyUpToThePosition) {
  // Key j's value is one in element j alone, so the output shows each key's weight.
  constexpr int32_t kLen = 48;
  Problem problem = make({kLen - 8, kLen, 1, 1, kLen});
  problem.value.fill(0);
  for (int32_t key = 0; key < kLen; ++key) problem.value[key * kLen + key] = 1;
  problem.run();
  for (int32_t row = 0; row < kLen - 8; ++row) {
    double sum = 0;
    for (int32_t key = 0; key < kLen; ++key) {
      const float weight = problem.output[row * kLen + key];
      sum += weight;
      if (key <= row + 8) {
        ASSERT_GT(weight, 0) << "row " << row << ", key " << key;
      } else {
        ASSERT_EQ(weight, 0) << "row " << row << ", key " << key;
      }
    }
    ASSERT_NEAR(sum, 1, 1e-6) << "row " << row;
  }
}

TEST_P(Masking, NothingBeyondTheValidKeysHasInfluence) {
  // A cache of 90 slots per sequence, 61 valid, NaN in the others.
  constexpr int32_t kCapacity = 90, kValid = 61, kKvDim = 2 * 32;
  for (int32_t q_len : {1, 20, kValid}) {
    SCOPED_TRACE(q_len);
    Problem problem = make({q_len, kValid, 4, 2, 32, 2});
    for (Array* cache : {&problem.key, &problem.value}) {
      *cache = Array(2 * kCapacity * kKvDim);
      cache->fill(poison());
      for (int32_t b = 0; b < 2; ++b) {
        cache->fill_normal(40 + b, static_cast<size_t>(b) * kCapacity * kKvDim, kValid * kKvDim);
      }
    }
    problem.desc.key = {problem.key.data(), KFA_DTYPE_FP32, 0, kCapacity * kKvDim, kKvDim, 32};
    problem.desc.value = {problem.value.data(), KFA_DTYPE_FP32, 0, kCapacity * kKvDim, kKvDim, 32};
    problem.run_and_compare();
  }
}

TEST_P(Masking, NaNInFutureKeysDoesNotReachEarlierRows) {
  // The newest key and value are NaN: only the newest row may be.
  Problem problem = make({40, 40, 2, 1, 16});
  std::fill(problem.key.end() - 16, problem.key.end(), poison());
  std::fill(problem.value.end() - 16, problem.value.end(), poison());
  problem.run();
  const Expected want = expected(problem.desc);
  const size_t newest = problem.output.size() - 2 * 16;
  expect_accurate(problem.output.data(), want.output.data(), newest);
  EXPECT_TRUE(std::isnan(problem.output[newest]));
}

TEST_P(Masking, RowsThatSeeNoKeyGiveZeroAndMinusInfinity) {
  // 70 rows over 30 keys: rows 0 to 39 come before the first key.
  Problem problem = make({70, 30, 4, 2, 24, 2});
  problem.run();
  const Expected want = expected(problem.desc);
  expect_accurate(problem.output.data(), want.output.data(), problem.output.size());
  for (int32_t b = 0; b < 2; ++b) {
    for (int32_t head = 0; head < 4; ++head) {
      for (int32_t row = 0; row < 70; ++row) {
        const size_t at = (b * 4 + head) * 70 + row;
        if (row >= 40) {
          ASSERT_NEAR(problem.lse[at], want.lse[at], kMaxAbsError);
          continue;
        }
        ASSERT_EQ(problem.lse[at], -std::numeric_limits<float>::infinity());
        const float* out = problem.output.data() + ((b * 70 + row) * 4 + head) * 24;
        for (int32_t i = 0; i < 24; ++i) ASSERT_EQ(out[i], 0) << "row " << row;
      }
    }
  }
}
}  // namespace
}  // namespace kfa_test
