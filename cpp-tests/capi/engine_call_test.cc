// Level 2: the engine's calls through the kernels and the layer.
#include "capi/engine_call.h"

#include <functional>
#include <limits>
#include <regex>

#include "capi/refused.h"
#include "support/accuracy.h"
#include "support/process.h"

namespace kfa_test {
namespace {
class Engine : public testing::TestWithParam<Route> {};
INSTANTIATE_TEST_SUITE_P(Capi, Engine, testing::ValuesIn(kRoutes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(Engine, ComputesTheDefinition) {
  EngineCall call;
  const auto before = call.snapshot();
  ASSERT_EQ(call.run(GetParam()), KFA_OK) << kfa_last_error_message();
  const Expected want = call.expected_output();
  expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
  EXPECT_TRUE(call.output_memory.guards_intact());
  EXPECT_TRUE(call.score_memory.guards_intact());
  EXPECT_EQ(call.query_memory.snapshot(), before[0]);
  EXPECT_EQ(call.key_memory.snapshot(), before[1]);
  EXPECT_EQ(call.value_memory.snapshot(), before[2]);
  EXPECT_EQ(GetParam() == Route::kMhaKernel, !call.score_memory.untouched());
}

TEST_P(Engine, ComputesInPlaceOverTheQuery) {
  EngineCall call;
  const Expected want = call.expected_output();
  call.output = call.query;
  ASSERT_EQ(call.run(GetParam()), KFA_OK) << kfa_last_error_message();
  expect_accurate(call.query_memory.data(), want.output.data(), want.output.size());
}

TEST(EngineKernels, NotCausalMeansThatEveryRowSeesEveryKey) {
  EngineCall call;
  call.is_causal = false;
  ASSERT_EQ(call.run(Route::kFlashKernel), KFA_OK) << kfa_last_error_message();
  const Expected want = call.expected_output();
  expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
}

TEST(EngineKernels, AnyScoreStorageOfOneRowOrMoreServes) {
  for (size_t rows : {1, 2, 3, 5}) {
    SCOPED_TRACE(rows);
    EngineCall call;
    call.score_memory = Array(rows * 4 * 24 + (rows == 2 ? 7 : 0));
    call.score = EngineCall::tensor(call.score_memory);
    ASSERT_EQ(call.run(Route::kMhaKernel), KFA_OK) << kfa_last_error_message();
    const Expected want = call.expected_output();
    expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
    EXPECT_TRUE(call.score_memory.guards_intact());
  }
}

TEST(EngineKernels, GettersNameTheDeviceTheyLack) {
  for (kfa_device_type device : {KFA_DEVICE_UNKNOWN, KFA_DEVICE_CUDA, 3, -1}) {
    if (device == KFA_DEVICE_CUDA && cuda_available()) continue;
    SCOPED_TRACE(device);
    const std::string value = device == KFA_DEVICE_CUDA ? "CUDA" : std::to_string(device);
    forget_last_error();
    EXPECT_EQ(kfa_get_flash_attention_kernel(device), nullptr);
    EXPECT_TRUE(contains(kfa_last_error_message(), "device is")) << kfa_last_error_message();
    EXPECT_TRUE(contains(kfa_last_error_message(), value)) << kfa_last_error_message();
    forget_last_error();
    EXPECT_EQ(kfa_get_mha_kernel(device), nullptr);
    EXPECT_TRUE(contains(kfa_last_error_message(), "device is")) << kfa_last_error_message();
    EXPECT_TRUE(contains(kfa_last_error_message(), value)) << kfa_last_error_message();
  }
}

TEST(EngineKernels, NullTensorsAreRefused) {
  EngineCall call;
  const auto before = call.snapshot();
  static const char* const kFlashNames[] = {"query", "key", "value", "output"};
  for (int missing = 0; missing < 4; ++missing) {
    const kfa_tensor* t[] = {&call.query, &call.key, &call.value, &call.output};
    t[missing] = nullptr;
    expect_refused(
        kfa_get_flash_attention_kernel(KFA_DEVICE_CPU)(t[0], t[1], t[2], t[3], 4, 2, 16, 24, 9, 1,
                                                       0, true, KFA_DEVICE_CPU, nullptr),
        KFA_ERROR_INVALID_ARGUMENT, {kFlashNames[missing], "NULL"});
  }
  static const char* const kMhaNames[] = {"mha_out", "query", "score", "key_cache", "value_cache"};
  for (int missing = 0; missing < 5; ++missing) {
    const kfa_tensor* t[] = {&call.output, &call.query, &call.score, &call.key, &call.value};
    t[missing] = nullptr;
    expect_refused(kfa_get_mha_kernel(KFA_DEVICE_CPU)(9, 4, 1, 24, 32, 2, 16, t[0], t[1], t[2],
                                                      t[3], t[4], KFA_DEVICE_CPU, nullptr),
                   KFA_ERROR_INVALID_ARGUMENT, {kMhaNames[missing], "NULL"});
  }
  EXPECT_TRUE(call.snapshot() == before);
}

// Standard MHA's signature has its own names for what the others call output, key and so on.
std::string as_named_by(Route route, std::string message) {
  if (route != Route::kMhaKernel) return message;
  const std::pair<const char*, const char*> names[] = {{"output", "mha_out"},
                                                       {"key", "key_cache"},
                                                       {"value", "value_cache"},
                                                       {"layer_idx", "layer_index"}};
  for (const auto& [name, own_name] : names) {
    message = std::regex_replace(message, std::regex("\\b" + std::string(name) + "\\b"), own_name);
  }
  return message;
}

// A bad input, the routes that can carry it, and what the message must hold.
struct BadCall {
  enum Routes { kFlash = 1, kMha = 2, kLayer = 4, kAll = 7 };
  std::string label;
  int routes;
  std::function<void(EngineCall&)> spoil;
  std::vector<std::string> message;
  kfa_status status = KFA_ERROR_INVALID_ARGUMENT;

  std::string name() const { return label; }
};

void PrintTo(const BadCall& bad, std::ostream* os) { *os << bad.label; }

void add_bad_numbers(std::vector<BadCall>& list) {
  struct Number {
    const char* name;
    int32_t EngineCall::*field;
    int routes;
    std::vector<int32_t> values;
  };
  constexpr int32_t kMin = INT32_MIN, kMax = INT32_MAX;
  const Number numbers[] = {
      {"head_num", &EngineCall::head_num, BadCall::kAll, {0, -4, kMin}},
      {"kv_head_num", &EngineCall::kv_head_num, BadCall::kFlash, {0, -2, kMin}},
      {"kv_mul", &EngineCall::kv_mul, BadCall::kMha | BadCall::kLayer, {0, -2, kMin}},
      {"kv_dim", &EngineCall::kv_dim, BadCall::kMha | BadCall::kLayer, {0, -2, 31, 64, kMin, kMax}},
      {"head_size", &EngineCall::head_size, BadCall::kAll, {0, -16, kMin}},
      {"seq_len", &EngineCall::seq_len, BadCall::kAll, {0, -24, kMin}},
      {"pos", &EngineCall::pos, BadCall::kAll, {-1, 24, kMin, kMax}},
      {"layer_idx", &EngineCall::layer_idx, BadCall::kAll, {-1, 2, kMin, kMax}},
      {"device", &EngineCall::device, BadCall::kAll, {KFA_DEVICE_UNKNOWN, 3, -1, kMax}},
  };
  for (const auto& [name, field, routes, values] : numbers) {
    for (int32_t value : values) {
      const std::string text = std::to_string(value);
      list.push_back({std::string(name) + (value < 0 ? "_minus_" : "_") + text.substr(value < 0),
                      routes,
                      [field = field, value](EngineCall& call) { call.*field = value; },
                      {name, text, "expected"}});
    }
  }
}

void add_bad_tensors(std::vector<BadCall>& list) {
  struct Named {
    const char* name;
    kfa_tensor EngineCall::*field;
    int routes;
  };
  const Named tensors[] = {{"query", &EngineCall::query, BadCall::kAll},
                           {"key", &EngineCall::key, BadCall::kAll},
                           {"value", &EngineCall::value, BadCall::kAll},
                           {"output", &EngineCall::output, BadCall::kAll},
                           {"score", &EngineCall::score, BadCall::kMha}};
  for (const auto& [name, field, routes] : tensors) {
    const auto add = [&, field = field, routes = routes](const char* what, const auto& spoil,
                                                         std::vector<std::string> message) {
      list.push_back({std::string(name) + what, routes,
                      [field, spoil](EngineCall& call) { spoil(call.*field); },
                      std::move(message)});
    };
    const std::string size = std::string(name) + ".size";
    const std::string dtype = std::string(name) + ".dtype";
    const std::string device = std::string(name) + ".device";
    add("_data_null", [](kfa_tensor& t) { t.data = nullptr; },
        {std::string(name) + ".data", "NULL"});
    add("_size_0", [](kfa_tensor& t) { t.size = 0; }, {size, " 0", "expected"});
    add("_size_minus_64", [](kfa_tensor& t) { t.size = -64; }, {size, "-64", "expected"});
    add("_size_overflows", [](kfa_tensor& t) { t.size = INT64_MAX; },
        {size, std::to_string(INT64_MAX)});
    add("_size_one_short", [](kfa_tensor& t) { --t.size; }, {name, ".size", "expected"});
    for (kfa_dtype value :
         {KFA_DTYPE_UNKNOWN, KFA_DTYPE_INT8, KFA_DTYPE_INT32, KFA_DTYPE_FP16, 99}) {
      add(("_dtype_" + std::to_string(value)).c_str(), [value](kfa_tensor& t) { t.dtype = value; },
          {dtype, std::to_string(value), "expected"});
    }
    for (kfa_device_type value : {KFA_DEVICE_UNKNOWN, KFA_DEVICE_CUDA, 99}) {
      add(("_device_" + std::to_string(value)).c_str(),
          [value](kfa_tensor& t) { t.device = value; },
          {device, std::to_string(value), "expected"});
    }
    add("_off_by_a_byte", [](kfa_tensor& t) { t.data = static_cast<char*>(t.data) + 1; },
        {name, "aligned"});
  }
}

std::vector<BadCall> bad_calls() {
  std::vector<BadCall> list;
  add_bad_numbers(list);
  add_bad_tensors(list);
  const auto add =
      [&list](const char* label, int routes, const std::function<void(EngineCall&)>& spoil,
              std::vector<std::string> message, kfa_status status = KFA_ERROR_INVALID_ARGUMENT) {
        list.push_back({label, routes, spoil, std::move(message), status});
      };
  const float infinity = std::numeric_limits<float>::infinity();
  constexpr int kScaled = BadCall::kFlash | BadCall::kLayer;
  add("scale_nan", kScaled, [](EngineCall& c) { c.scale = NAN; }, {"scale is NaN", "finite"});
  add("scale_inf", kScaled, [=](EngineCall& c) { c.scale = infinity; }, {"scale is inf", "finite"});
  add("scale_minus_inf", kScaled, [=](EngineCall& c) { c.scale = -infinity; },
      {"scale is -inf", "finite"});
  add(
      "device_cuda", BadCall::kAll, [](EngineCall& c) { c.device = KFA_DEVICE_CUDA; },
      {"device", "CUDA"}, KFA_ERROR_NO_DEVICE);
  add("stream_on_cpu", BadCall::kAll, [](EngineCall& c) { c.stream = &c; }, {"stream", "NULL"});
  add("heads_not_divisible", BadCall::kFlash, [](EngineCall& c) { c.kv_head_num = 3; },
      {"head_num is 4", "kv_head_num (3)"});
  add("more_kv_heads_than_heads", BadCall::kFlash, [](EngineCall& c) { c.kv_head_num = 8; },
      {"head_num is 4", "kv_head_num (8)"});
  add("heads_not_divisible_by_kv_mul", BadCall::kMha | BadCall::kLayer,
      [](EngineCall& c) { c.kv_mul = 3; }, {"head_num is 4", "kv_mul (3)"});
  add("row_overflows", BadCall::kAll,
      [](EngineCall& c) {
        c.head_num = c.head_size = 1 << 16;
        c.kv_head_num = 1;
        c.kv_mul = c.head_num;
        c.kv_dim = c.head_size;
      },
      {"head_num", "head_size", "65536"});
  add("cache_overflows", BadCall::kAll, [](EngineCall& c) { c.seq_len = c.layer_idx = INT32_MAX; },
      {"size", "expected"});
  add("more_rows_than_positions", BadCall::kAll, [](EngineCall& c) { c.pos = 1; },
      {"query", "3 rows", "pos is 1"});
  add("output_smaller_than_query", BadCall::kAll, [](EngineCall& c) { c.output.size = 128; },
      {"output.size is 128", "192"});
  add("output_larger_than_query", BadCall::kAll, [](EngineCall& c) { c.query.size = 128; },
      {"output.size is 192", "128"});
  add("output_over_key", BadCall::kAll,
      [](EngineCall& c) { c.output.data = c.key_memory.data() + 24 * 32; },
      {"output overlaps key"});
  add("output_over_value", BadCall::kAll,
      [](EngineCall& c) { c.output.data = c.value_memory.data() + 24 * 32; },
      {"output overlaps value"});
  add("output_over_part_of_query", BadCall::kAll,
      [](EngineCall& c) {
        c.query.size = c.output.size = 128;
        c.output.data = c.query_memory.data() + 64;
      },
      {"output overlaps query"});
  add("score_over_query", BadCall::kMha, [](EngineCall& c) { c.score.data = c.query.data; },
      {"score overlaps query"});
  add("score_over_key", BadCall::kMha,
      [](EngineCall& c) { c.score.data = c.key_memory.data() + 24 * 32; }, {"score overlaps key"});
  add("score_over_output", BadCall::kMha, [](EngineCall& c) { c.score.data = c.output.data; },
      {"score overlaps output"});
  return list;
}

class BadEngineCall : public testing::TestWithParam<BadCall> {};
INSTANTIATE_TEST_SUITE_P(Capi, BadEngineCall, testing::ValuesIn(bad_calls()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(BadEngineCall, IsRefusedAndWritesNothing) {
  if (GetParam().status == KFA_ERROR_NO_DEVICE) KFA_SKIP_WITH_CUDA();
  for (Route route : kRoutes) {
    if (!(GetParam().routes & (1 << static_cast<int>(route)))) continue;
    SCOPED_TRACE(name_of(route));
    EngineCall call;
    GetParam().spoil(call);
    const auto before = call.snapshot();
    forget_last_error();
    std::vector<std::string> message = GetParam().message;
    for (std::string& part : message) part = as_named_by(route, part);
    expect_refused(call.run(route), GetParam().status, message);
    EXPECT_TRUE(call.snapshot() == before) << "memory was written";
  }
}
}  // namespace
}  // namespace kfa_test
