// Level 2: the engine's calls through the kernels and the layer.
#include "capi/engine_call.h"

#include <filesystem>
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
  const bool standard = GetParam() == Route::kStandardMhaKernel ||
                        (GetParam() == Route::kMhaKernel && flash_disabled());
  EXPECT_EQ(standard, !call.score_memory.untouched());
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
    ASSERT_EQ(call.run(Route::kStandardMhaKernel), KFA_OK) << kfa_last_error_message();
    const Expected want = call.expected_output();
    expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
    EXPECT_TRUE(call.score_memory.guards_intact());
  }
}

TEST(EngineKernels, MhaRunsWithoutScoreStorage) {
  for (auto getter : {kfa_get_mha_kernel, kfa_get_standard_mha_kernel}) {
    for (int kind = 0; kind < 3; ++kind) {
      SCOPED_TRACE(kind);
      EngineCall call;
      if (kind == 1) call.score.data = nullptr;
      if (kind == 2) call.score = kfa_tensor{};
      ASSERT_EQ(call.run_mha(getter(KFA_DEVICE_CPU), kind == 0 ? nullptr : &call.score), KFA_OK)
          << kfa_last_error_message();
      const Expected want = call.expected_output();
      expect_accurate(call.output_memory.data(), want.output.data(), want.output.size());
      EXPECT_TRUE(call.score_memory.untouched());
    }
  }
}

TEST(EngineKernels, TheModePinsTheMhaKernelButNotTheStandardOne) {
  EngineCall call;
  const auto kernel_of = [&](Route route, kfa_attention_mode mode) -> std::string {
    const ModeScope scope(mode);
    EXPECT_EQ(call.run(route), KFA_OK) << kfa_last_error_message();
    return kfa_last_kernel_name();
  };
  for (kfa_attention_mode mode : {KFA_ATTENTION_MODE_AUTO, KFA_ATTENTION_MODE_STANDARD}) {
    const bool flash = mode == KFA_ATTENTION_MODE_AUTO && !flash_disabled();
    EXPECT_EQ(contains(kernel_of(Route::kMhaKernel, mode), "standard_mha"), !flash);
    EXPECT_TRUE(contains(kernel_of(Route::kStandardMhaKernel, mode), "standard_mha"));
  }
  EXPECT_TRUE(
      contains(kernel_of(Route::kStandardMhaKernel, KFA_ATTENTION_MODE_FLASH), "standard_mha"));
}

// float16 and bfloat16 hold small whole numbers exactly; with one visible key the output is its
// value.
TEST_P(Engine, ServesSixteenBitTensors) {
  for (kfa_dtype dtype : {KFA_DTYPE_FP16, KFA_DTYPE_BF16}) {
    SCOPED_TRACE(dtype);
    const uint16_t two = 0x4000, nan = 0x7fff;  // in both types
    std::vector<uint16_t> query(64, two), output(64, nan), key(2 * 24 * 32, nan), value = key;
    std::fill_n(key.begin() + 24 * 32, 32, two);
    std::fill_n(value.begin() + 24 * 32, 32, two);
    EngineCall call;
    call.pos = 0;
    const auto tensor = [&](std::vector<uint16_t>& memory) {
      return kfa_tensor{memory.data(), static_cast<int64_t>(memory.size()), dtype, KFA_DEVICE_CPU};
    };
    call.query = tensor(query);
    call.key = tensor(key);
    call.value = tensor(value);
    call.output = tensor(output);
    ASSERT_EQ(call.run(GetParam()), KFA_OK) << kfa_last_error_message();
    EXPECT_EQ(output, query);
  }
}

TEST(EngineKernels, WarmUpServesEveryDeviceThatIsThere) {
  EXPECT_EQ(kfa_warm_up(KFA_DEVICE_CPU), KFA_OK);
  EXPECT_EQ(kfa_warm_up(KFA_DEVICE_CPU), KFA_OK);
  EXPECT_EQ(kfa_warm_up(KFA_DEVICE_CUDA), cuda_available() ? KFA_OK : KFA_ERROR_NO_DEVICE);
  forget_last_error();
  EXPECT_EQ(kfa_warm_up(99), KFA_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(contains(kfa_last_error_message(), "device is 99")) << kfa_last_error_message();
}

class Threads : public FreshProcess {};

TEST_F(Threads, WarmUpStartsThem) {
  const auto count = [] {
    const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const auto run = [&] {
    kfa_set_num_threads(1);
    const auto before = count();
    kfa_set_num_threads(3);
    kfa_warm_up(KFA_DEVICE_CPU);
    finish(count() >= before + 2 ? "started" : "not started");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "^started");
}

TEST(EngineKernels, AProblemRunsInTheLibrarysScratch) {
  // Decode of a long context needs a workspace, standard MHA one for its scores.
  constexpr int32_t kKeys = 3000;
  Array query(4 * 16), output(4 * 16), key(kKeys * 32), value(kKeys * 32);
  query.fill_normal(1);
  key.fill_normal(2);
  value.fill_normal(3);
  kfa_attention_desc desc;
  kfa_attention_desc_init(&desc);
  desc.q_len = 1;
  desc.kv_len = kKeys;
  desc.heads = 4;
  desc.kv_heads = 2;
  desc.head_dim = 16;
  desc.query.data = query.data();
  desc.key.data = key.data();
  desc.value.data = value.data();
  desc.output.data = output.data();
  const Expected want = expected(desc);
  for (kfa_attention_mode mode : {KFA_ATTENTION_MODE_AUTO, KFA_ATTENTION_MODE_STANDARD}) {
    desc.mode = mode;
    output.fill_normal(4);
    ASSERT_EQ(kfa_attention_forward_in_scratch(&desc, kKeys), KFA_OK) << kfa_last_error_message();
    expect_accurate(output.data(), want.output.data(), want.output.size());
  }
  expect_refused(kfa_attention_forward_in_scratch(&desc, -1), KFA_ERROR_INVALID_ARGUMENT,
                 {"kv_capacity is -1", "expected"});
  expect_refused(kfa_attention_forward_in_scratch(nullptr, 0), KFA_ERROR_INVALID_ARGUMENT,
                 {"desc", "NULL"});
  Array workspace(64);
  desc.workspace = workspace.data();
  desc.workspace_size = 64 * sizeof(float);
  expect_refused(kfa_attention_forward_in_scratch(&desc, 0), KFA_ERROR_INVALID_ARGUMENT,
                 {"workspace is set", "expected"});
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
    forget_last_error();
    EXPECT_EQ(kfa_get_standard_mha_kernel(device), nullptr);
    EXPECT_TRUE(contains(kfa_last_error_message(), value)) << kfa_last_error_message();
  }
}

TEST(EngineKernels, ALayerOffsetBeyond64BitsIsNoSmallOne) {
  // (2^31 - 1 + 1) layers of 2^20 slots of 2^13 elements are 2^64: 0, to arithmetic that wraps.
  for (Route route : {Route::kFlashKernel, Route::kMhaKernel, Route::kLayer}) {
    SCOPED_TRACE(name_of(route));
    EngineCall call;
    call.head_num = call.kv_head_num = 64;
    call.head_size = 128;
    call.kv_mul = 1;
    call.kv_dim = 64 * 128;
    call.seq_len = 1 << 20;
    call.layer_idx = INT32_MAX;
    call.query_memory = Array(3 * 64 * 128);
    call.output_memory = Array(3 * 64 * 128);
    call.query = EngineCall::tensor(call.query_memory);
    call.output = EngineCall::tensor(call.output_memory);
    call.score = {};  // dropped, as engines may
    forget_last_error();
    expect_refused(call.run(route), KFA_ERROR_INVALID_ARGUMENT,
                   {"size is", "18446744073709551616", "2147483647"});
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
  static const char* const kMhaNames[] = {"mha_out", "query", "key_cache", "value_cache"};
  for (auto getter : {kfa_get_mha_kernel, kfa_get_standard_mha_kernel}) {
    for (int missing = 0; missing < 4; ++missing) {
      const kfa_tensor* t[] = {&call.output, &call.query, &call.key, &call.value};
      t[missing] = nullptr;
      expect_refused(getter(KFA_DEVICE_CPU)(9, 4, 1, 24, 32, 2, 16, t[0], t[1], &call.score, t[2],
                                            t[3], KFA_DEVICE_CPU, nullptr),
                     KFA_ERROR_INVALID_ARGUMENT, {kMhaNames[missing], "NULL"});
    }
  }
  EXPECT_TRUE(call.snapshot() == before);
}

// MHA's signature has its own names for what the others call output, key and so on.
std::string as_named_by(Route route, std::string message) {
  if (route != Route::kMhaKernel && route != Route::kStandardMhaKernel) return message;
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
  enum Routes { kFlash = 1, kMha = 2 | 8, kLayer = 4, kAll = 15 };
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
      {"device", &EngineCall::device, BadCall::kAll, {KFA_DEVICE_UNKNOWN, 5, -1, kMax}},
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
    if (std::string(name) != "score") {  // which may be missing
      add("_data_null", [](kfa_tensor& t) { t.data = nullptr; },
          {std::string(name) + ".data", "NULL"});
      add("_size_0", [](kfa_tensor& t) { t.size = 0; }, {size, " 0", "expected"});
    }
    add("_size_minus_64", [](kfa_tensor& t) { t.size = -64; }, {size, "-64", "expected"});
    add("_size_overflows", [](kfa_tensor& t) { t.size = INT64_MAX; },
        {size, std::to_string(INT64_MAX)});
    add("_size_one_short", [](kfa_tensor& t) { --t.size; }, {name, ".size", "expected"});
    for (kfa_dtype value :
         {KFA_DTYPE_UNKNOWN, KFA_DTYPE_INT8, KFA_DTYPE_INT32, KFA_DTYPE_FP8_E4M3, 99}) {
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
  add("score_of_16_bits", BadCall::kMha, [](EngineCall& c) { c.score.dtype = KFA_DTYPE_FP16; },
      {"score.dtype is 4", "expected"});
  add(
      "key_of_integers", BadCall::kAll, [](EngineCall& c) { c.key.dtype = KFA_DTYPE_INT32; },
      {"key", "dtype is 3", "expected"}, KFA_ERROR_INVALID_ARGUMENT);
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
