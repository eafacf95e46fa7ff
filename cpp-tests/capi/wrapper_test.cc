// kfa.hpp, the C++ wrapper.
#include <gtest/gtest.h>

#include <functional>
#include <type_traits>
#include <vector>

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

TEST(Wrapper, BuildsTheProblemThatItRuns) {
  Problem problem({5, 20, 4, 2, 16, 2});
  kfa::Attention attention(4, 2, 16);
  attention.batch(2).rows(5).keys(20);
  EXPECT_TRUE(attention.supported());  // shapes are enough
  attention.query(problem.query.data()).key(problem.key.data()).value(problem.value.data());
  attention.output(problem.output.data()).lse(problem.lse.data()).deterministic();
  const kfa::WorkspaceBounds bounds = attention.workspace_bounds();
  EXPECT_LE(bounds.min, bounds.preferred);
  EXPECT_EQ(attention.workspace_size(), bounds.preferred);
  std::vector<float> workspace(bounds.preferred / sizeof(float) + 1);
  attention.workspace(workspace.data(), bounds.preferred);
  attention.forward();
  const Expected want = expected(problem.desc);
  expect_accurate(problem.output.data(), want.output.data(), problem.output.size());
  const std::string text = attention.explain();
  EXPECT_EQ(text.substr(0, text.find('\n')), kfa_last_kernel_name());
  attention.fast_math();
  EXPECT_FALSE(attention.supported());
  EXPECT_TRUE(contains(error_of([&] { attention.forward(); }).what(), "KFA_FLAG_FAST_MATH"));
}

TEST(Wrapper, BuilderStartsFromTheDefaults) {
  const kfa::Attention attention(0, 0, 0);
  const kfa_attention_desc built = attention.desc(), raw = kfa::desc();
  EXPECT_EQ(std::memcmp(&built, &raw, sizeof(raw)), 0);
}

TEST(Wrapper, EverySetterReachesItsField) {
  float floats[8];
  int32_t ints[8];
  int64_t longs[8];
  char half[8];
  struct Pool {
    int32_t ran = 0;
    void parallel(int32_t tasks, const std::function<void(int32_t)>& run) {
      for (int32_t i = 0; i < tasks; ++i) run(i), ++ran;
    }
  } pool;
  kfa::Attention a(8, 2, 64, 32);
  kfa_quant quant = kfa::quant(kfa::Tensor(half, KFA_DTYPE_BF16));
  quant.head_stride = 1;
  a.batch(3).rows(4).keys(50).device(KFA_DEVICE_CUDA, half, 1).mode(KFA_ATTENTION_MODE_FLASH);
  a.deterministic().batch_invariant(128).lse_base2().causal(kfa::Causal::kTopLeft);
  a.window(11).window_right(12).chunk(13).span_ends(ints).scale(0.5f).softcap(30).sinks(floats);
  a.alibi(floats + 1, 8).query_offsets(ints + 1, 21).kv_offsets(ints + 2, 22).q_lens(ints + 3);
  a.kv_lens(ints + 4).kv_starts(ints + 5).cache_index(ints + 6, 9).pos_device(ints + 7);
  a.pages({16, 99, ints, 7, ints + 1, ints + 2}).key_quant(quant).value_quant(quant);
  a.query(kfa::Tensor(half, KFA_DTYPE_FP16).strides(1, 2, 3)).output(floats).lse(floats + 2);
  a.lse_strides(4, 5, 6).workspace(floats, 32).threads(pool, 2);
  a.mask({KFA_MASK_ADDITIVE, half, KFA_DTYPE_FP16, 1, 2, 3, 40, true, longs, floats});
  a.rope(kfa::rope(floats, floats + 1, 60)).norm(kfa::norm(floats, floats + 1, 1e-6f));
  a.append(floats, floats + 4, longs + 1);

  const kfa::Attention copy = a;  // what it holds by value moves along
  const kfa_attention_desc d = copy.desc();
  EXPECT_NE(d.key_quant, a.desc().key_quant);
  const auto all = [](std::initializer_list<bool> facts) {
    int n = 0;
    for (bool fact : facts) EXPECT_TRUE(fact) << "fact " << n, ++n;
  };
  all({d.heads == 8, d.kv_heads == 2, d.head_dim == 64, d.value_head_dim == 32, d.batch == 3,
       d.q_len == 4, d.kv_len == 50, d.device == KFA_DEVICE_CUDA, d.stream == half,
       d.device_index == 1, d.mode == KFA_ATTENTION_MODE_FLASH, d.is_causal == 2,
       d.flags == (KFA_FLAG_DETERMINISTIC | KFA_FLAG_BATCH_INVARIANT | KFA_FLAG_LSE_BASE2),
       d.split_keys == 128});
  all({d.sliding_window == 11, d.window_right == 12, d.attention_chunk == 13, d.span_ends == ints,
       d.softmax_scale == 0.5f, d.softcap == 30, d.sinks == floats, d.alibi_slopes == floats + 1,
       d.alibi_batch_stride == 8});
  all({d.query_offsets == ints + 1, d.query_rows == 21, d.kv_offsets == ints + 2, d.kv_rows == 22,
       d.q_lens == ints + 3, d.kv_lens == ints + 4, d.kv_starts == ints + 5,
       d.cache_index == ints + 6, d.cache_batch == 9, d.pos_device == ints + 7});
  all({d.page_size == 16, d.pages == 99, d.page_table == ints, d.page_table_stride == 7,
       d.page_offsets == ints + 1, d.value_page_table == ints + 2});
  all({d.key_quant->struct_size == sizeof(kfa_quant), d.key_quant->dtype == KFA_DTYPE_BF16,
       d.key_quant->scale == half, d.value_quant->head_stride == 1});
  all({d.query.data == half, d.query.dtype == KFA_DTYPE_FP16, d.query.batch_stride == 1,
       d.query.row_stride == 2, d.query.head_stride == 3, d.output.data == floats,
       d.output.dtype == KFA_DTYPE_FP32, d.lse == floats + 2, d.lse_batch_stride == 4,
       d.lse_head_stride == 5, d.lse_row_stride == 6, d.workspace == floats,
       d.workspace_size == 32});
  all({d.mask.kind == KFA_MASK_ADDITIVE, d.mask.data == half, d.mask.dtype == KFA_DTYPE_FP16,
       d.mask.batch_stride == 1, d.mask.head_stride == 2, d.mask.row_stride == 3,
       d.mask_columns == 40, d.mask_newest == 1, d.mask_offsets == longs,
       d.mask_head_factor == floats});
  all({d.rope->cos == floats, d.rope->sin == floats + 1, d.rope->rows == 60,
       d.norm->query_weight == floats, d.norm->key_weight == floats + 1, d.norm->epsilon == 1e-6f,
       d.append->key.data == floats, d.append->value.data == floats + 4,
       d.append->slots == longs + 1});
  int32_t sum = 0;
  ASSERT_EQ(d.threads, 2);
  d.parallel(d.pool, 4, [](void* to, int32_t i) { *static_cast<int32_t*>(to) += i; }, &sum);
  EXPECT_EQ(sum, 0 + 1 + 2 + 3);
  EXPECT_EQ(pool.ran, 4);
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
