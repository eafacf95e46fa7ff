#ifndef KFA_TESTS_SUPPORT_ACCURACY_H_
#define KFA_TESTS_SUPPORT_ACCURACY_H_
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace kfa_test {
constexpr double kMaxAbsError = 1e-5;
constexpr double kMaxRelativeError = 1e-4;  // 0.01 %

struct Errors {
  double max_abs = 0;
  double norm_relative = 0;  // ||out - ref|| / ||ref||
  double max_relative = 0;   // max |out - ref| / max |ref|, as the report has it
};

template <typename Reference>
Errors measure(const float* out, const Reference* reference, size_t size) {
  Errors errors;
  double squared_error = 0, squared = 0, largest = 0;
  for (size_t i = 0; i < size; ++i) {
    const double want = reference[i];
    double error = std::fabs(out[i] - want);
    // NaN would slip through max().
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    errors.max_abs = std::max(errors.max_abs, error);
    largest = std::max(largest, std::fabs(want));
    squared_error += error * error;
    squared += want * want;
  }
  errors.norm_relative = std::sqrt(squared_error / squared);
  errors.max_relative = errors.max_abs / largest;
  return errors;
}

// Holds `out` to the accuracy bars. The reference must not be all zeros.
template <typename Reference>
void expect_accurate(const float* out, const Reference* reference, size_t size,
                     const char* against = "float64") {
  ASSERT_GT(size, 0u);
  const Errors errors = measure(out, reference, size);
  EXPECT_LT(errors.max_abs, kMaxAbsError) << "against " << against;
  EXPECT_LT(errors.norm_relative, kMaxRelativeError) << "against " << against;
  EXPECT_LT(errors.max_relative, kMaxRelativeError) << "against " << against;
}
}  // namespace kfa_test
#endif  // KFA_TESTS_SUPPORT_ACCURACY_H_
