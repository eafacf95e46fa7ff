#ifndef KFA_TESTS_SUPPORT_PROBLEM_H_
#define KFA_TESTS_SUPPORT_PROBLEM_H_
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

#include "kuiper_flash_attention/kfa.h"
#include "support/accuracy.h"
#include "support/array.h"
#include "support/oracle.h"
#include "support/process.h"

namespace kfa_test {
struct Shape {
  int32_t q_len, kv_len, heads, kv_heads, head_dim;
  int32_t batch = 1;
  int32_t causal = 1;

  std::string name() const {
    const auto part = [](const char* label, int32_t value) {
      return label + std::to_string(value);
    };
    return part("q", q_len) + part("_kv", kv_len) + part("_h", heads) + part("_", kv_heads) +
           part("_d", head_dim) + part("_b", batch) + (causal ? "" : "_full");
  }
};

inline std::ostream& operator<<(std::ostream& os, const Shape& shape) { return os << shape.name(); }

// An attention problem with its memory: random inputs, poisoned outputs. Tests may change `desc`.
class Problem {
 public:
  explicit Problem(const Shape& shape, uint32_t seed = 1, size_t shift = 0)
      : query(elements(shape, shape.q_len, shape.heads), shift),
        key(elements(shape, shape.kv_len, shape.kv_heads), shift),
        value(elements(shape, shape.kv_len, shape.kv_heads), shift),
        output(query.size(), shift),
        lse(static_cast<size_t>(shape.batch) * shape.heads * shape.q_len, shift) {
    query.fill_normal(seed);
    key.fill_normal(seed + 1);
    value.fill_normal(seed + 2);
    EXPECT_EQ(kfa_attention_desc_init(&desc), KFA_OK);
    desc.is_causal = shape.causal;
    desc.batch = shape.batch;
    desc.q_len = shape.q_len;
    desc.kv_len = shape.kv_len;
    desc.heads = shape.heads;
    desc.kv_heads = shape.kv_heads;
    desc.head_dim = shape.head_dim;
    desc.query.data = query.data();
    desc.key.data = key.data();
    desc.value.data = value.data();
    desc.output.data = output.data();
    desc.lse = lse.data();
  }

  // Brings the workspace that the library asks for, and poison in it.
  void bring_workspace() {
    size_t bytes = 0;
    ASSERT_EQ(kfa_attention_workspace_size(&desc, &bytes), KFA_OK) << kfa_last_error_message();
    workspace = Array((bytes + sizeof(float) - 1) / sizeof(float));
    desc.workspace = bytes > 0 ? workspace.data() : nullptr;
    desc.workspace_size = bytes;
  }

  // Computes, and sees that nothing outside output, LSE and workspace was written.
  void run() {
    bring_workspace();
    const auto before = inputs();
    ASSERT_EQ(kfa_attention_forward(&desc), KFA_OK) << kfa_last_error_message();
    EXPECT_TRUE(inputs() == before) << "an input was written";
    EXPECT_TRUE(output.guards_intact());
    EXPECT_TRUE(lse.guards_intact());
    EXPECT_TRUE(workspace.guards_intact());
  }

  // Computes and compares output and LSE with the definition. For packed outputs.
  void run_and_compare() {
    run();
    const Expected want = expected(desc);
    expect_accurate(output.data(), want.output.data(), output.size());
    if (desc.lse) {
      for (size_t row = 0; row < lse.size(); ++row) {
        ASSERT_NEAR(lse[row], want.lse[row], kMaxAbsError) << "LSE of row " << row;
      }
    }
  }

  kfa_attention_desc desc;
  Array query, key, value, output, lse, workspace;

 private:
  static size_t elements(const Shape& shape, int32_t rows, int32_t heads) {
    return static_cast<size_t>(shape.batch) * rows * heads * shape.head_dim;
  }
  std::vector<std::vector<uint32_t>> inputs() const {
    // What is computed in place is no longer an input.
    if (desc.output.data == query.data()) return {key.snapshot(), value.snapshot()};
    return {query.snapshot(), key.snapshot(), value.snapshot()};
  }
};

// Names of parametrised tests from what they run on.
struct NameOf {
  template <typename Info>
  std::string operator()(const Info& info) const {
    return info.param.name();
  }
};
}  // namespace kfa_test
#endif  // KFA_TESTS_SUPPORT_PROBLEM_H_
