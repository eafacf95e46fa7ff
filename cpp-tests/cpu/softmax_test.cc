// The softmax itself: extreme scores, normalisation, scale.
#include <cmath>

#include "cpu/modes.h"

namespace kfa_test {
namespace {
class Softmax : public EachMode {
 protected:
  // One head of `dim` elements in which key j scores exactly scores[j] against every row.
  Problem with_scores(int32_t q_len, const std::vector<float>& scores, int32_t dim = 8) const {
    Problem problem = make({q_len, static_cast<int32_t>(scores.size()), 1, 1, dim, 1, 0});
    problem.desc.softmax_scale = 1;
    problem.query.fill(0);
    problem.key.fill(0);
    for (int32_t row = 0; row < q_len; ++row) problem.query[row * dim] = 1;
    for (size_t key = 0; key < scores.size(); ++key) problem.key[key * dim] = scores[key];
    return problem;
  }
};
KFA_FOR_EACH_MODE(Softmax);

TEST_P(Softmax, ScoresFarApartDoNotOverflow) {
  // The largest score comes first, last and in the middle, far beyond what e^x holds.
  constexpr int32_t kKeys = 300;
  for (int32_t winner : {0, 150, kKeys - 1}) {
    for (float step : {100.0f, -1e4f, 1e30f}) {
      for (int32_t q_len : {1, 4}) {
        SCOPED_TRACE(testing::Message()
                     << "winner " << winner << ", step " << step << ", q " << q_len);
        std::vector<float> scores(kKeys);
        for (int32_t key = 0; key < kKeys; ++key) {
          scores[key] = (step < 0 ? step : 0) - std::fabs(step) * std::abs(key - winner);
        }
        Problem problem = with_scores(q_len, scores);
        problem.run();
        for (int32_t i = 0; i < q_len * 8; ++i) {
          ASSERT_EQ(problem.output[i], problem.value[winner * 8 + i % 8]);
        }
        ASSERT_EQ(problem.lse[0], scores[winner]);
      }
    }
  }
}

TEST_P(Softmax, SteadilyRisingScoresAreRescaledRight) {
  // Every key is a new maximum, so an online softmax rescales at every step.
  std::vector<float> scores(200);
  for (size_t key = 0; key < scores.size(); ++key) scores[key] = 0.25f * static_cast<float>(key);
  for (int32_t q_len : {1, 6}) with_scores(q_len, scores).run_and_compare();
}

TEST_P(Softmax, ValuesWhoseSumIsInRangeStayFinite) {
  // The header's bound: 110 keys of 3e36 make 3.3e38.
  for (int32_t q_len : {1, 6}) {
    for (float value : {3e36f, -3e36f}) {
      Problem problem = with_scores(q_len, std::vector<float>(110, 5.0f));
      problem.value.fill(value);
      problem.run();
      for (float element : problem.output) ASSERT_NEAR(element / value, 1, 1e-5);
    }
  }
}

TEST_P(Softmax, EqualScoresGiveTheMean) {
  for (float score : {0.0f, -1e30f, 88.0f}) {
    SCOPED_TRACE(score);
    Problem problem = with_scores(1, std::vector<float>(129, score));
    problem.run();
    for (int32_t i = 0; i < 8; ++i) {
      double mean = 0;
      for (int32_t key = 0; key < 129; ++key) mean += problem.value[key * 8 + i] / 129.0;
      ASSERT_NEAR(problem.output[i], mean, 1e-6);
    }
  }
}

TEST_P(Softmax, WeightsSumToOne) {
  for (int32_t q_len : {1, 17, 100}) {
    Problem problem = make({q_len, 100, 4, 2, 64});
    problem.value.fill(1);
    problem.run();
    for (float element : problem.output) ASSERT_NEAR(element, 1, 1e-6);
  }
}

TEST_P(Softmax, ScaleIsAppliedAndZeroMeansTheDefault) {
  for (int32_t q_len : {1, 12}) {
    for (float scale : {0.0f, 0.05f, 1.0f, -0.3f}) {
      SCOPED_TRACE(scale);
      Problem problem = make({q_len, 60, 2, 2, 32});
      problem.desc.softmax_scale = scale;
      problem.run_and_compare();
    }
    // The oracle could share a mistake about the default; here it is in numbers.
    Problem by_default = make({q_len, 60, 2, 2, 64}), by_number = make({q_len, 60, 2, 2, 64});
    by_number.desc.softmax_scale = 0.125f;
    by_default.run();
    by_number.run();
    EXPECT_TRUE(by_default.output.same_bits(by_number.output));
  }
}

TEST_P(Softmax, InPlaceOverTheQueryGivesTheSame) {
  for (int32_t q_len : {1, 40, 77}) {
    SCOPED_TRACE(q_len);
    Problem apart = make({q_len, 77, 6, 2, 48}), in_place = make({q_len, 77, 6, 2, 48});
    apart.run();
    in_place.desc.output = in_place.desc.query;
    in_place.run();
    EXPECT_TRUE(in_place.query.same_bits(apart.output));
  }
}

TEST_P(Softmax, LseIsOptional) {
  for (int32_t q_len : {1, 40}) {
    Problem with = make({q_len, 77, 6, 2, 48}), without = make({q_len, 77, 6, 2, 48});
    with.run();
    without.desc.lse = nullptr;
    without.run();
    EXPECT_TRUE(without.output.same_bits(with.output));
    EXPECT_TRUE(without.lse.untouched());
  }
}
}  // namespace
}  // namespace kfa_test
