#ifndef KFA_TESTS_CAPI_REFUSED_H_
#define KFA_TESTS_CAPI_REFUSED_H_
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/process.h"

namespace kfa_test {
// Expects that a call failed with `want`, and that its message holds every part: the argument, its
// value, what was expected.
inline void expect_refused(kfa_status got, kfa_status want, const std::vector<std::string>& parts) {
  ASSERT_STREQ(kfa_status_name(got), kfa_status_name(want));
  const std::string message = kfa_last_error_message();
  for (const std::string& part : parts) {
    EXPECT_TRUE(contains(message, part)) << "no '" << part << "' in: " << message;
  }
  EXPECT_FALSE(contains(message, "\n")) << message;
}

// Puts a message of another failure there, so that a stale one is not taken for the call's own.
inline void forget_last_error() {
  ASSERT_EQ(kfa_set_attention_mode(-77), KFA_ERROR_INVALID_ARGUMENT);
}
}  // namespace kfa_test
#endif  // KFA_TESTS_CAPI_REFUSED_H_
