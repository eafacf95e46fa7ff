// What the engine hands over wrongly gives a Status, or a line in the log, and writes nothing.
#include "adapter/host.h"

namespace kfa_test {
namespace {
constexpr Model kModel{4, 2, 16, 24, 2};

void expect_nothing_written(const Host& host, const std::vector<std::vector<uint32_t>>& before) {
  EXPECT_TRUE(host.snapshot() == before) << "memory was written";
}

// Runs the layer and expects a Status of this code whose message holds the part.
void expect_status(const Host& host, op::FlashAttention& layer, int code, const std::string& part) {
  const auto before = host.snapshot();
  const base::Status status = host.forward(layer);
  EXPECT_FALSE(status);
  EXPECT_EQ(status.get_err_code(), code) << status.get_err_msg();
  EXPECT_TRUE(contains(status.get_err_msg(), part))
      << "no '" << part << "' in: " << status.get_err_msg();
  expect_nothing_written(host, before);
}

void expect_invalid(const Host& host, const std::string& part) {
  op::FlashAttention layer = host.make_layer();
  expect_status(host, layer, base::StatusCode::kInvalidArgument, part);
}

using Member = tensor::Tensor Host::*;
const std::pair<const char*, Member> kTensors[] = {{"query", &Host::query},
                                                   {"key", &Host::key},
                                                   {"value", &Host::value},
                                                   {"output", &Host::output}};

TEST_F(TestFlashAttention, EmptyTensorsAreRefused) {
  for (const auto& [name, member] : kTensors) {
    SCOPED_TRACE(name);
    Host host(kModel, 9);
    host.*member = tensor::Tensor();
    expect_invalid(host, name);
    // Dimensions, but no memory.
    host.*member = tensor::Tensor(kFp32, 64);
    expect_invalid(host, name);
  }
}

TEST_F(TestFlashAttention, TensorsOfAnotherTypeAreRefused) {
  for (const auto& [name, member] : kTensors) {
    for (base::DataType type : {base::DataType::kDataTypeInt8, base::DataType::kDataTypeInt32}) {
      SCOPED_TRACE(name);
      Host host(kModel, 9);
      Array memory(2 * 24 * 32);
      host.*member = Host::tensor(memory, {2, 24, 32}, kCpu, type);
      expect_invalid(host, name);
      EXPECT_TRUE(memory.untouched());
    }
  }
}

TEST_F(TestFlashAttention, TensorsOnAnotherDeviceAreRefused) {
  for (const auto& [name, member] : kTensors) {
    SCOPED_TRACE(name);
    Host host(kModel, 9);
    (host.*member).set_device_type(kCuda);
    expect_invalid(host, name);
  }
}

TEST_F(TestFlashAttention, ACudaLayerSaysThatThereIsNoDevice) {
  KFA_SKIP_WITH_CUDA();
  Host host(kModel, 9);
  op::FlashAttention layer = host.make_layer(0, kCuda);
  EXPECT_EQ(layer.input_size(), 3u);
  // CPU tensors first: still an argument error.
  expect_status(host, layer, base::StatusCode::kInvalidArgument, "query");
  for (const auto& [name, member] : kTensors) (host.*member).set_device_type(kCuda);
  const auto before = host.snapshot();
  const base::Status status = host.forward(layer);
  EXPECT_FALSE(status);
  EXPECT_TRUE(contains(status.get_err_msg(), "CUDA")) << status.get_err_msg();
  expect_nothing_written(host, before);
}

TEST_F(TestFlashAttention, ALayerOfNoDeviceIsRefused) {
  Host host(kModel, 9);
  op::FlashAttention layer = host.make_layer(0, base::DeviceType::kDeviceUnknown);
  const auto before = host.snapshot();
  EXPECT_EQ(host.forward(layer).get_err_code(), base::StatusCode::kInvalidArgument);
  expect_nothing_written(host, before);
}

TEST_F(TestFlashAttention, PositionsAndLayersOutsideTheCacheAreRefused) {
  for (int32_t pos : {-1, 24, INT32_MIN, INT32_MAX}) {
    Host host(kModel, 9);
    host.pos = pos;
    expect_invalid(host, "pos is " + std::to_string(pos));
  }
  for (int32_t layer : {-1, 2, INT32_MIN, INT32_MAX}) {
    Host host(kModel, 9);
    host.layer_idx = layer;
    expect_invalid(host, "layer_idx");
  }
}

TEST_F(TestFlashAttention, MoreRowsThanPositionsAreRefused) {
  Host host(kModel, 9, 4);
  host.pos = 2;
  expect_invalid(host, "4 rows");
}

TEST_F(TestFlashAttention, TensorsOfTheWrongSizeAreRefused) {
  Array memory(1000);
  for (int32_t size : {63, 65, 128}) {
    Host host(kModel, 9);
    host.output = Host::tensor(memory, {size});
    expect_invalid(host, "output.size is " + std::to_string(size));
  }
  for (int32_t size : {63, 65}) {
    Host host(kModel, 9);
    host.query = host.output = Host::tensor(memory, {size});
    expect_invalid(host, "query.size is " + std::to_string(size));
  }
  for (const auto& [name, member] : {kTensors[1], kTensors[2]}) {
    Host host(kModel, 9, 1, 1);
    host.*member = Host::tensor(memory, {1, 24, 32});
    expect_invalid(host, std::string(name) + ".size is 768");
  }
  EXPECT_TRUE(memory.untouched());
}

TEST_F(TestFlashAttention, ImpossibleConstructionIsReportedByForward) {
  struct Construction {
    int32_t kv_mul, kv_dim, seq_len, head_num, head_size;
    float scale;
    const char* part;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Construction& c : {
           Construction{0, 32, 24, 4, 16, 0, "kv_mul is 0"},
           Construction{-2, 32, 24, 4, 16, 0, "kv_mul is -2"},
           Construction{3, 32, 24, 4, 16, 0, "kv_mul is 3"},
           Construction{2, 31, 24, 4, 16, 0, "kv_dim is 31"},
           Construction{2, 0, 24, 4, 16, 0, "kv_dim is 0"},
           Construction{2, 32, 0, 4, 16, 0, "seq_len is 0"},
           Construction{2, 32, -24, 4, 16, 0, "seq_len is -24"},
           Construction{2, 0, 24, 0, 16, 0, "head_num"},
           Construction{2, 0, 24, 4, 0, 0, "head_size"},
           Construction{2, -32, 24, 4, -16, 0, "head_size"},
           Construction{2, 32, 24, 4, 16, nan, "scale is NaN"},
           Construction{2, 32, 24, 4, 16, infinity, "scale is inf"},
       }) {
    SCOPED_TRACE(c.part);
    Host host(kModel, 9);
    op::FlashAttention layer(kCpu, 0, c.kv_mul, c.kv_dim, c.seq_len, c.head_num, c.head_size,
                             c.scale);
    expect_status(host, layer, base::StatusCode::kInvalidArgument, c.part);
  }
}

TEST_F(TestFlashAttention, OverlappingOutputIsRefused) {
  Host host(kModel, 9);
  host.output = Host::tensor(host.key_memory, {64});
  expect_invalid(host, "output overlaps key");
}

TEST_F(TestFlashAttention, ALayerRecoversFromAnError) {
  Host host(kModel, 9);
  op::FlashAttention layer = host.make_layer();
  host.pos = 99;
  EXPECT_FALSE(host.forward(layer));
  host.pos = 9;
  ASSERT_TRUE(host.forward(layer));
  host.expect_output_accurate();
}

TEST_F(TestFlashAttention, TheVoidKernelsLeaveTheOutputUntouched) {
  Host host(kModel, 9);
  host.pos = 24;
  const auto before = host.snapshot();
  testing::internal::CaptureStderr();
  host.run_flash_kernel();
  host.run_mha(host.output);
  // The engine has a function for CUDA, too, and the same goes for it.
  host.run_flash_kernel(0, true, kCuda);
  host.run_mha(host.output, kCuda);
  testing::internal::GetCapturedStderr();
  expect_nothing_written(host, before);
}

class Report : public FreshProcess {};

TEST_F(Report, AKernelLogsAKindOfErrorOnce) {
  KFA_SKIP_WITH_CUDA();
  const auto run = [] {
    Host host(kModel, 9);
    for (host.pos = 24; host.pos < 30; ++host.pos) host.run_flash_kernel();
    host.pos = 24;
    host.run_mha(host.output);
    host.pos = 9;
    host.run_flash_kernel(0, true, kCuda);
    finish("end");
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0),
              "error: flash_attention_kernel: pos is 24[^\n]*\n"
              "error: mha_kernel: pos is 24[^\n]*\n"
              "error: flash_attention_kernel: [^\n]*CUDA[^\n]*\nend");
}
}  // namespace
}  // namespace kfa_test
