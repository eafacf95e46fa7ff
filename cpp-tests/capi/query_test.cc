// Level 3: what the library tells about a problem before it runs.
#include "capi/refused.h"
#include "support/problem.h"

namespace kfa_test {
namespace {
size_t workspace_size(const Shape& shape, kfa_attention_mode mode) {
  Problem problem(shape);
  problem.desc.mode = mode;
  problem.desc.query.data = problem.desc.key.data = nullptr;  // shapes are enough
  size_t size = 77;
  EXPECT_EQ(kfa_attention_workspace_size(&problem.desc, &size), KFA_OK) << kfa_last_error_message();
  return size;
}

std::string explain(const Problem& problem) {
  size_t size = 0;
  EXPECT_EQ(kfa_attention_explain(&problem.desc, nullptr, 0, &size), KFA_OK);
  std::string text(size, '?');
  EXPECT_EQ(kfa_attention_explain(&problem.desc, text.data(), text.size(), nullptr), KFA_OK);
  EXPECT_EQ(text.back(), '\0');
  text.pop_back();
  EXPECT_EQ(text.size(), std::strlen(text.c_str()));
  return text;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

TEST(WorkspaceSize, IsWhatTheHeaderSays) {
  KFA_SKIP_WITHOUT_FLASH();
  EXPECT_EQ(workspace_size({100, 300, 4, 2, 32, 2}, KFA_ATTENTION_MODE_STANDARD),
            size_t{4} * 2 * 4 * 100 * 300);
  EXPECT_EQ(workspace_size({100, 300, 4, 2, 32, 2}, KFA_ATTENTION_MODE_FLASH), 0u);
  EXPECT_EQ(workspace_size({1, 8, 4, 2, 32}, KFA_ATTENTION_MODE_FLASH), 0u);
}

TEST(WorkspaceSize, StandardRunsWithOneRowsScores) {
  Problem problem({10, 30, 4, 2, 16, 2});
  problem.desc.mode = KFA_ATTENTION_MODE_STANDARD;
  problem.bring_workspace();
  const size_t row = problem.desc.workspace_size / 10;
  for (size_t rows : {1, 3, 10}) {
    SCOPED_TRACE(rows);
    Array workspace(rows * row / sizeof(float));
    problem.desc.workspace = workspace.data();
    problem.desc.workspace_size = rows * row;
    problem.output.fill(poison());
    ASSERT_EQ(kfa_attention_forward(&problem.desc), KFA_OK) << kfa_last_error_message();
    const Expected want = expected(problem.desc);
    expect_accurate(problem.output.data(), want.output.data(), problem.output.size());
    EXPECT_TRUE(workspace.guards_intact());
  }
}

TEST(WorkspaceSize, BoundsAreFarApartForALongStandardPrefill) {
  Problem problem({8, 8, 32, 32, 16});
  problem.desc.mode = KFA_ATTENTION_MODE_STANDARD;
  problem.desc.batch = 8;
  problem.desc.q_len = problem.desc.kv_len = 8192;
  problem.desc.query.data = problem.desc.key.data = problem.desc.value.data = nullptr;
  size_t min = 77, preferred = 77, size = 77;
  ASSERT_EQ(kfa_attention_workspace_bounds(&problem.desc, &min, &preferred), KFA_OK);
  ASSERT_EQ(kfa_attention_workspace_size(&problem.desc, &size), KFA_OK);
  EXPECT_EQ(min, size_t{4} * 8 * 32 * 8192);
  EXPECT_EQ(preferred, size_t{256} << 20);
  EXPECT_EQ(size, preferred);
  min = 77;
  forget_last_error();
  expect_refused(kfa_attention_workspace_bounds(&problem.desc, &min, nullptr),
                 KFA_ERROR_INVALID_ARGUMENT, {"preferred is NULL"});
  expect_refused(kfa_attention_workspace_bounds(&problem.desc, nullptr, &preferred),
                 KFA_ERROR_INVALID_ARGUMENT, {"min is NULL"});
  EXPECT_EQ(min, 77u);
}

TEST(WorkspaceSize, NullSizeIsRefused) {
  Problem problem({1, 8, 4, 2, 32});
  expect_refused(kfa_attention_workspace_size(&problem.desc, nullptr), KFA_ERROR_INVALID_ARGUMENT,
                 {"size is NULL"});
}

TEST(Explain, NamesTheKernelThatThenRuns) {
  for (kfa_attention_mode mode : {KFA_ATTENTION_MODE_AUTO, KFA_ATTENTION_MODE_STANDARD}) {
    for (int32_t q_len : {1, 5}) {
      Problem problem({q_len, 20, 4, 2, 16});
      problem.desc.mode = mode;
      const std::string text = explain(problem);
      problem.run();
      EXPECT_EQ(first_line(text), kfa_last_kernel_name());
      EXPECT_EQ(text.back(), '\n');
    }
  }
}

TEST(Explain, GivesTheReasonOfEveryKernelPassedOver) {
  KFA_SKIP_WITHOUT_FLASH();
  Problem problem({5, 20, 2, 1, 600});
  const std::string text = explain(problem);
  EXPECT_EQ(first_line(text).rfind("cpu.standard_mha.", 0), 0u) << text;
  for (const char* part : {"flash_decode", "flash_prefill", "600", "512"}) {
    EXPECT_TRUE(contains(text, part)) << "no " << part << " in: " << text;
  }
}

TEST(Explain, SaysNoneAndWhyWhereNoKernelServes) {
  Problem wide({5, 20, 2, 1, 600});
  wide.desc.mode = KFA_ATTENTION_MODE_FLASH;
  Problem half({5, 20, 2, 1, 64});
  half.desc.mode = KFA_ATTENTION_MODE_FLASH;
  half.desc.output.dtype = KFA_DTYPE_FP16;
  Problem cuda({5, 20, 2, 1, 64});
  cuda.desc.device = KFA_DEVICE_CUDA;
  const std::string texts[] = {explain(wide), explain(half), explain(cuda)};
  for (const std::string& text : {texts[0], texts[1]}) EXPECT_EQ(text.rfind("none", 0), 0u) << text;
  const bool has_gpu = kfa_get_standard_mha_kernel(KFA_DEVICE_CUDA) != nullptr;
  EXPECT_EQ(texts[2].rfind("none", 0) == 0, !has_gpu) << texts[2];
  EXPECT_TRUE(contains(texts[2], has_gpu ? "cuda." : "CUDA")) << texts[2];
  if (!flash_disabled()) {
    EXPECT_TRUE(contains(texts[0], "512")) << texts[0];
    EXPECT_TRUE(contains(texts[1], "fp16")) << texts[1];
  }
}

TEST(Explain, TruncatesLikeSnprintf) {
  Problem problem({5, 20, 2, 1, 600});
  const std::string whole = explain(problem);
  ASSERT_GT(whole.size(), 20u);
  for (size_t capacity :
       {size_t{1}, size_t{2}, size_t{7}, whole.size(), whole.size() + 1, whole.size() + 9}) {
    SCOPED_TRACE(capacity);
    std::string buffer(capacity + 8, '#');
    size_t size = 0;
    ASSERT_EQ(kfa_attention_explain(&problem.desc, buffer.data(), capacity, &size), KFA_OK);
    EXPECT_EQ(size, whole.size() + 1);
    EXPECT_STREQ(buffer.c_str(), whole.substr(0, capacity - 1).c_str());
    EXPECT_EQ(buffer.substr(capacity), "########");
  }
  // No capacity: nothing is written, wherever the text points.
  char untouched = '#';
  EXPECT_EQ(kfa_attention_explain(&problem.desc, &untouched, 0, nullptr), KFA_OK);
  EXPECT_EQ(untouched, '#');
}

TEST(Explain, NullTextWithACapacityIsRefused) {
  Problem problem({5, 20, 2, 1, 16});
  size_t size = 77;
  expect_refused(kfa_attention_explain(&problem.desc, nullptr, 12, &size),
                 KFA_ERROR_INVALID_ARGUMENT, {"text is NULL", "12"});
  EXPECT_EQ(size, 77u);
}
}  // namespace
}  // namespace kfa_test
