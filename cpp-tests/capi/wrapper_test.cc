// kfa.hpp, the C++ wrapper.
#include <gtest/gtest.h>

#include <type_traits>

#include "capi/engine_call.h"
#include "kuiper_flash_attention/kfa.hpp"
#include "support/problem.h"
#include "support/process.h"

namespace kfa_test {
namespace {
template <typename Call>
kfa::Error error_of(const Call& call) {
  try {
    call();
  } catch (const kfa::Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {KFA_OK, ""};
}

TEST(Wrapper, RunsAProblem) {
  Problem problem({5, 20, 4, 2, 16});
  kfa_attention_desc desc = kfa::desc();
  EXPECT_EQ(desc.struct_size, sizeof(desc));
  desc = problem.desc;
  EXPECT_EQ(kfa::workspace_size(desc) > 0, flash_disabled());
  problem.bring_workspace();
  kfa::forward(problem.desc);
  const Expected want = expected(problem.desc);
  expect_accurate(problem.output.data(), want.output.data(), problem.output.size());
  const std::string text = kfa::explain(problem.desc);
  EXPECT_EQ(text.substr(0, text.find('\n')), kfa_last_kernel_name());
  EXPECT_EQ(text.find('\0'), std::string::npos);
}

TEST(Wrapper, ThrowsWithStatusAndMessage) {
  kfa_attention_desc desc = kfa::desc();
  desc.q_len = -5;
  for (const kfa::Error& error :
       {error_of([&] { kfa::forward(desc); }), error_of([&] { (void)kfa::workspace_size(desc); }),
        error_of([&] { (void)kfa::explain(desc); })}) {
    EXPECT_EQ(error.status(), KFA_ERROR_INVALID_ARGUMENT);
    EXPECT_TRUE(contains(error.what(), "KFA_ERROR_INVALID_ARGUMENT")) << error.what();
    EXPECT_TRUE(contains(error.what(), "-5")) << error.what();
  }
  static_assert(std::is_base_of_v<std::runtime_error, kfa::Error>);
  EXPECT_NO_THROW(kfa::check(KFA_OK));
  EXPECT_THROW(kfa::check(KFA_ERROR_INTERNAL), kfa::Error);
}

TEST(Wrapper, Merges) {
  const float outputs[2][2] = {{1, 2}, {3, 6}}, lses[2] = {0, 0};
  const float* output_pointers[] = {outputs[0], outputs[1]};
  const float* lse_pointers[] = {&lses[0], &lses[1]};
  float merged[2] = {};
  kfa_merge_desc desc = kfa::merge_desc();
  desc.parts = 2;
  desc.batch = desc.q_len = desc.heads = 1;
  desc.head_dim = 2;
  desc.outputs = output_pointers;
  desc.lses = lse_pointers;
  desc.output = merged;
  kfa::merge(desc);
  EXPECT_FLOAT_EQ(merged[0], 2);
  EXPECT_FLOAT_EQ(merged[1], 4);
  EXPECT_EQ(error_of([] { kfa::merge(kfa::merge_desc()); }).status(), KFA_ERROR_INVALID_ARGUMENT);
}

TEST(Wrapper, TheLayerOwnsItsHandle) {
  EngineCall call;
  kfa::FlashAttentionLayer first(KFA_DEVICE_CPU, 0, 2, 32, 24, 4, 16);
  kfa::FlashAttentionLayer layer = std::move(first);
  EXPECT_EQ(first.get(), nullptr);
  EXPECT_THROW(first.forward(), kfa::Error);
  EXPECT_EQ(layer.input_size(), 3u);
  EXPECT_EQ(layer.output_size(), 1u);
  layer.set_input(0, call.query);
  layer.set_input(1, call.key);
  layer.set_input(2, call.value);
  layer.set_output(0, call.output);
  layer.set_pos(9);
  layer.set_layer_idx(1);
  layer.set_stream(nullptr);
  layer.forward();
  const Expected want = call.expected_output();
  expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
  EXPECT_THROW(layer.set_pos(24), kfa::Error);
  static_assert(!std::is_copy_constructible_v<kfa::FlashAttentionLayer>);
}

TEST(Wrapper, AnImpossibleLayerThrows) {
  KFA_SKIP_WITH_CUDA();
  EXPECT_EQ(
      error_of([] { kfa::FlashAttentionLayer(KFA_DEVICE_CUDA, 0, 2, 32, 24, 4, 16); }).status(),
      KFA_ERROR_NO_DEVICE);
}
}  // namespace
}  // namespace kfa_test
