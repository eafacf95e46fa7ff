// Level 3: tensors that are not packed, not aligned, or share memory in permitted ways.
#include <cmath>

#include "support/problem.h"

namespace kfa_test {
namespace {
constexpr Shape kShape{6, 20, 4, 2, 16, 3};

kfa_tensor_view view(Array& array, int64_t batch, int64_t row, int64_t head, size_t offset = 0) {
  return {array.data() + offset, KFA_DTYPE_FP32, 0, batch, row, head};
}

// The elements of an output view, packed.
std::vector<float> packed(const kfa_attention_desc& d) {
  std::vector<float> out;
  for (int32_t b = 0; b < d.batch; ++b) {
    for (int32_t row = 0; row < d.q_len; ++row) {
      for (int32_t head = 0; head < d.heads; ++head) {
        const float* first = head_of(d.output, d.q_len, d.heads, d.head_dim, b, row, head);
        out.insert(out.end(), first, first + d.head_dim);
      }
    }
  }
  return out;
}

class Views : public testing::TestWithParam<std::tuple<kfa_attention_mode, int32_t>> {
 public:
  static std::string name(const testing::TestParamInfo<ParamType>& info) {
    return std::string(std::get<0>(info.param) ? "standard_" : "auto_") +
           (std::get<1>(info.param) == 1 ? "decode" : "prefill");
  }

 protected:
  Problem make() const {
    Shape shape = kShape;
    shape.q_len = std::get<1>(GetParam());
    Problem problem(shape);
    problem.desc.mode = std::get<0>(GetParam());
    return problem;
  }
  static void run_and_compare(Problem& problem) {
    problem.run();
    const Expected want = expected(problem.desc);
    const std::vector<float> got = packed(problem.desc);
    expect_accurate(got.data(), want.output.data(), got.size());
  }
};
INSTANTIATE_TEST_SUITE_P(Capi, Views,
                         testing::Combine(testing::Values(KFA_ATTENTION_MODE_AUTO,
                                                          KFA_ATTENTION_MODE_STANDARD),
                                          testing::Values(1, kShape.q_len)),
                         Views::name);

TEST_P(Views, HeadMajorTensorsWork) {
  Problem problem = make();
  const int64_t q = problem.desc.q_len;
  problem.desc.query = view(problem.query, q * 64, 16, q * 16);
  problem.desc.key = view(problem.key, 20 * 32, 16, 20 * 16);
  problem.desc.value = view(problem.value, 20 * 32, 16, 20 * 16);
  problem.desc.output = view(problem.output, q * 64, 16, q * 16);
  run_and_compare(problem);
}

TEST_P(Views, RowMajorBatchInnerTensorsWork) {
  // [rows, batch, heads, head_dim]
  Problem problem = make();
  problem.desc.query = view(problem.query, 64, 3 * 64, 16);
  problem.desc.key = view(problem.key, 32, 3 * 32, 16);
  problem.desc.value = view(problem.value, 32, 3 * 32, 16);
  problem.desc.output = view(problem.output, 64, 3 * 64, 16);
  run_and_compare(problem);
}

TEST_P(Views, TheLseGoesWhereItsStridesSay) {
  Problem packed = make(), strided = make();
  packed.run();
  const int64_t rows = strided.desc.q_len, heads = 4, row = 2 * heads + 3, sequence = rows * row + 5;
  strided.lse = Array(3 * sequence);
  strided.desc.lse = strided.lse.data();
  strided.desc.lse_batch_stride = sequence;  // [batch, rows, heads] with gaps
  strided.desc.lse_row_stride = row;
  strided.desc.lse_head_stride = 2;
  strided.run();
  std::vector<bool> written(strided.lse.size());
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = b * sequence + r * row + 2 * h;
        EXPECT_EQ(strided.lse[at], packed.lse[(b * heads + h) * rows + r]) << b << h << r;
        written[at] = true;
      }
    }
  }
  for (size_t i = 0; i < written.size(); ++i) {
    EXPECT_TRUE(written[i] || std::isnan(strided.lse[i])) << "wrote between rows at " << i;
  }
}

TEST_P(Views, GapsBetweenOutputsStayUntouched) {
  Problem problem = make();
  const int64_t rows = problem.desc.q_len;
  const int64_t head = 19, row = 4 * head + 5, sequence = rows * row + 11;
  problem.output = Array(3 * sequence);
  problem.desc.output = view(problem.output, sequence, row, head);
  run_and_compare(problem);
  // Poison what may be written; poison must be all there is then.
  for (int64_t b = 0; b < 3; ++b) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < 4; ++h) {
        float* first = problem.output.data() + b * sequence + r * row + h * head;
        std::fill(first, first + 16, poison());
      }
    }
  }
  EXPECT_TRUE(problem.output.untouched());
}

TEST_P(Views, InputsMayBroadcast) {
  // One cache for all sequences, one key/value head stored for both.
  Problem problem = make();
  problem.desc.key = view(problem.key, 0, 32, 16);
  problem.desc.value = view(problem.value, 0, 32, 0);
  run_and_compare(problem);
  // One query for all rows, one value for all keys.
  problem = make();
  problem.desc.query = view(problem.query, 64, 0, 16);
  problem.desc.value = view(problem.value, 32, 0, 16);
  run_and_compare(problem);
}

TEST_P(Views, MisalignedTensorsWork) {
  Problem aligned = make();
  aligned.run();
  for (size_t shift = 1; shift < 16; ++shift) {
    SCOPED_TRACE(shift);
    // Each tensor off by another number of elements.
    Problem problem = make();
    const auto move = [](Array& array, size_t by) {
      Array moved(array.size(), by);
      std::copy(array.begin(), array.end(), moved.begin());
      array = std::move(moved);
      return static_cast<void*>(array.data());
    };
    problem.desc.query.data = move(problem.query, shift);
    problem.desc.key.data = move(problem.key, 3 * shift);
    problem.desc.value.data = move(problem.value, 5 * shift);
    problem.desc.output.data = move(problem.output, 7 * shift);
    problem.desc.lse = static_cast<float*>(move(problem.lse, shift));
    problem.run();
    EXPECT_TRUE(problem.output.same_bits(aligned.output));
  }
}

TEST_P(Views, AFusedBufferOfQueryKeyValueAndOutputWorks) {
  // One token after another, each with its query, key, value and output side by side.
  Problem problem = make();
  const int64_t rows = problem.desc.q_len;
  constexpr int64_t kQuery = 0, kKey = 64, kValue = 96, kOutput = 128, kRow = 192;
  Array fused(3 * 20 * kRow);
  fused.fill_normal(3);
  problem.desc.query = view(fused, 20 * kRow, kRow, 16, kQuery);
  problem.desc.key = view(fused, 20 * kRow, kRow, 16, kKey);
  problem.desc.value = view(fused, 20 * kRow, kRow, 16, kValue);
  problem.desc.output = view(fused, 20 * kRow, kRow, 16, kOutput);
  const std::vector<float> before(fused.begin(), fused.end());
  run_and_compare(problem);
  EXPECT_TRUE(fused.guards_intact());
  for (size_t i = 0; i < before.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / kRow % 20,
                  column = static_cast<int64_t>(i) % kRow;
    const bool is_output = column >= kOutput && row < rows;
    ASSERT_TRUE(is_output || fused[i] == before[i]) << "element " << i;
  }

  // In place of the query's columns.
  Problem in_place = make();
  Array again(before.size());
  std::copy(before.begin(), before.end(), again.begin());
  in_place.desc.query = in_place.desc.output = view(again, 20 * kRow, kRow, 16, kQuery);
  in_place.desc.key = view(again, 20 * kRow, kRow, 16, kKey);
  in_place.desc.value = view(again, 20 * kRow, kRow, 16, kValue);
  in_place.bring_workspace();
  ASSERT_EQ(kfa_attention_forward(&in_place.desc), KFA_OK) << kfa_last_error_message();
  EXPECT_EQ(packed(in_place.desc), packed(problem.desc));

  // A column too far is an overlap.
  const auto untouched = fused.snapshot();
  problem.desc.output = view(fused, 20 * kRow, kRow, 16, kOutput - 1);
  EXPECT_EQ(kfa_attention_forward(&problem.desc), KFA_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(contains(kfa_last_error_message(), "output overlaps value"))
      << kfa_last_error_message();
  EXPECT_TRUE(fused.snapshot() == untouched);
}
}  // namespace
}  // namespace kfa_test
