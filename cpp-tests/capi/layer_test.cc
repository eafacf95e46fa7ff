// Level 2: the life of a layer.
#include <malloc.h>

#include "capi/engine_call.h"
#include "capi/refused.h"
#include "support/accuracy.h"
#include "support/process.h"

namespace kfa_test {
namespace {
kfa_flash_attention_layer* create_layer() {
  kfa_flash_attention_layer* layer = nullptr;
  EXPECT_EQ(kfa_flash_attention_layer_create(KFA_DEVICE_CPU, 1, 2, 32, 24, 4, 16, 0, &layer),
            KFA_OK)
      << kfa_last_error_message();
  return layer;
}

TEST(Layer, HasThreeInputsAndOneOutput) {
  kfa_flash_attention_layer* layer = create_layer();
  ASSERT_NE(layer, nullptr);
  EXPECT_EQ(kfa_flash_attention_layer_input_size(layer), 3u);
  EXPECT_EQ(kfa_flash_attention_layer_output_size(layer), 1u);
  kfa_flash_attention_layer_destroy(layer);
}

TEST(Layer, NullHandlesAreRefusedEverywhere) {
  EngineCall call;
  kfa_flash_attention_layer_destroy(nullptr);
  EXPECT_EQ(kfa_flash_attention_layer_input_size(nullptr), 0u);
  EXPECT_EQ(kfa_flash_attention_layer_output_size(nullptr), 0u);
  const auto refused = [](kfa_status status) {
    expect_refused(status, KFA_ERROR_INVALID_ARGUMENT, {"layer", "NULL", "expected"});
    forget_last_error();
  };
  forget_last_error();
  refused(kfa_flash_attention_layer_set_pos(nullptr, 0));
  refused(kfa_flash_attention_layer_set_layer_idx(nullptr, 0));
  refused(kfa_flash_attention_layer_set_input(nullptr, 0, &call.query));
  refused(kfa_flash_attention_layer_set_output(nullptr, 0, &call.output));
  refused(kfa_flash_attention_layer_set_stream(nullptr, nullptr));
  refused(kfa_flash_attention_layer_forward(nullptr));
  refused(kfa_flash_attention_layer_create(KFA_DEVICE_CPU, 0, 2, 32, 24, 4, 16, 0, nullptr));
}

TEST(Layer, AFailedCreateLeavesTheHandleAlone) {
  auto* const sentinel = reinterpret_cast<kfa_flash_attention_layer*>(0x10);
  kfa_flash_attention_layer* layer = sentinel;
  EXPECT_EQ(kfa_flash_attention_layer_create(KFA_DEVICE_CPU, 0, 0, 32, 24, 4, 16, 0, &layer),
            KFA_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(layer, sentinel);
  KFA_SKIP_WITH_CUDA();
  EXPECT_EQ(kfa_flash_attention_layer_create(KFA_DEVICE_CUDA, 0, 2, 32, 24, 4, 16, 0, &layer),
            KFA_ERROR_NO_DEVICE);
  EXPECT_EQ(layer, sentinel);
}

TEST(Layer, ForwardNamesTheTensorThatIsMissing) {
  EngineCall call;
  kfa_flash_attention_layer* layer = create_layer();
  const kfa_tensor* inputs[] = {&call.query, &call.key, &call.value};
  static const char* const kNames[] = {"query", "key", "value"};
  for (int32_t i = 0; i < 3; ++i) {
    expect_refused(kfa_flash_attention_layer_forward(layer), KFA_ERROR_INVALID_ARGUMENT,
                   {"input " + std::to_string(i), kNames[i], "not set"});
    EXPECT_EQ(kfa_flash_attention_layer_set_input(layer, i, inputs[i]), KFA_OK);
  }
  expect_refused(kfa_flash_attention_layer_forward(layer), KFA_ERROR_INVALID_ARGUMENT,
                 {"output 0", "not set"});
  EXPECT_TRUE(call.output_memory.untouched());
  kfa_flash_attention_layer_destroy(layer);
}

TEST(Layer, IndicesAndTensorsOfSettersAreChecked) {
  EngineCall call;
  kfa_flash_attention_layer* layer = create_layer();
  for (int32_t index : {-1, 3, INT32_MAX}) {
    expect_refused(kfa_flash_attention_layer_set_input(layer, index, &call.query),
                   KFA_ERROR_INVALID_ARGUMENT, {"index is " + std::to_string(index), "expected"});
  }
  for (int32_t index : {-1, 1}) {
    expect_refused(kfa_flash_attention_layer_set_output(layer, index, &call.output),
                   KFA_ERROR_INVALID_ARGUMENT, {"index is " + std::to_string(index), "expected"});
  }
  expect_refused(kfa_flash_attention_layer_set_input(layer, 0, nullptr), KFA_ERROR_INVALID_ARGUMENT,
                 {"tensor", "NULL"});
  expect_refused(kfa_flash_attention_layer_set_output(layer, 0, nullptr),
                 KFA_ERROR_INVALID_ARGUMENT, {"tensor", "NULL"});
  kfa_flash_attention_layer_destroy(layer);
}

TEST(Layer, ARefusedSetterKeepsTheOldValue) {
  EngineCall call;
  kfa_flash_attention_layer* layer = create_layer();
  for (int32_t i = 0; i < 3; ++i) {
    const kfa_tensor* inputs[] = {&call.query, &call.key, &call.value};
    ASSERT_EQ(kfa_flash_attention_layer_set_input(layer, i, inputs[i]), KFA_OK);
  }
  ASSERT_EQ(kfa_flash_attention_layer_set_output(layer, 0, &call.output), KFA_OK);
  ASSERT_EQ(kfa_flash_attention_layer_set_pos(layer, 9), KFA_OK);
  EXPECT_NE(kfa_flash_attention_layer_set_pos(layer, 24), KFA_OK);
  EXPECT_NE(kfa_flash_attention_layer_set_pos(layer, -1), KFA_OK);
  EXPECT_NE(kfa_flash_attention_layer_set_layer_idx(layer, -1), KFA_OK);
  EXPECT_NE(kfa_flash_attention_layer_set_input(layer, 0, nullptr), KFA_OK);
  ASSERT_EQ(kfa_flash_attention_layer_forward(layer), KFA_OK) << kfa_last_error_message();
  const Expected want = call.expected_output();
  expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
  kfa_flash_attention_layer_destroy(layer);
}

// valgrind sees leaks of any size; this sees them in every run.
TEST(Layer, CreateForwardDestroyLeaksNothing) {
  EngineCall call;
  const auto cycle = [&call] {
    for (int i = 0; i < 50; ++i) ASSERT_EQ(call.run(Route::kLayer), KFA_OK);
  };
  cycle();  // what the library keeps for ever is there now
  const size_t before = mallinfo2().uordblks;
  for (int i = 0; i < 4; ++i) cycle();
  const size_t after = mallinfo2().uordblks;
  // A layer leaked 200 times would be far more.
  EXPECT_LT(after, before + 16 * 200);
}
}  // namespace
}  // namespace kfa_test
