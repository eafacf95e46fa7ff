// Flash attention against standard MHA in an engine's own tensors: the same numbers, less memory,
// less time. kuiper_flash_attention_add_regression() builds it against the engine.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
//   KFA_REGRESSION_SHAPE=head_num,kv_head_num,head_size,seq_len   of the engine's model
//   KFA_REGRESSION_DEVICE=cuda                                    instead of the CPU
//
// Speed is measured: run TestFlashAttention.Speed* on an otherwise idle machine.
#include <base/alloc.h>
#include <gtest/gtest.h>
#include <kuiper_flash_attention/adapter/engine.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <sstream>
#include <vector>

#ifndef KFA_REGRESSION_SHAPE
#define KFA_REGRESSION_SHAPE "32,8,128,2048"
#endif

namespace kernel {
// As the engine calls them, by whatever header it declares them in.
void mha_kernel(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                const tensor::Tensor&, const tensor::Tensor&, const tensor::Tensor&,
                const tensor::Tensor&, const tensor::Tensor&, base::DeviceType, CudaConfig*);
void mha_kernel_cu(int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t,
                   const tensor::Tensor&, const tensor::Tensor&, const tensor::Tensor&,
                   const tensor::Tensor&, const tensor::Tensor&, base::DeviceType, CudaConfig*);
}  // namespace kernel

namespace {
constexpr auto kFp32 = base::DataType::kDataTypeFp32;

struct Shape {
  int32_t head_num = 0, kv_head_num = 0, head_size = 0, seq_len = 0;

  int32_t dim() const { return head_num * head_size; }
  int32_t kv_dim() const { return kv_head_num * head_size; }

  static Shape asked() {
    const char* text = std::getenv("KFA_REGRESSION_SHAPE");
    std::istringstream stream(text && *text ? text : KFA_REGRESSION_SHAPE);
    Shape shape;
    char comma = 0;
    stream >> shape.head_num >> comma >> shape.kv_head_num >> comma >> shape.head_size >> comma >>
        shape.seq_len;
    if (!stream || shape.head_num < 1 || shape.kv_head_num < 1 || shape.head_size < 1 ||
        shape.seq_len < 1 || shape.head_num % shape.kv_head_num != 0) {
      ADD_FAILURE() << "KFA_REGRESSION_SHAPE is '" << stream.str()
                    << "'; expected head_num,kv_head_num,head_size,seq_len";
      shape = {2, 1, 64, 64};
    }
    return shape;
  }
};

bool on_cuda() {
  const char* device = std::getenv("KFA_REGRESSION_DEVICE");
  return device && std::string(device) == "cuda";
}

// The engine's tensors of one attention call on the last of two layers: `rows` query rows whose
// newest stands at `pos`. Slots beyond it are NaN.
class Call {
 public:
  Call(const Shape& shape, int32_t pos, int32_t rows) : shape_(shape), pos_(pos), rows_(rows) {
    query_ = tensor(rows * shape.dim());
    output_ = tensor(rows * shape.dim());
    score_ = tensor(shape.head_num * shape.seq_len);
    key_ = tensor(2 * shape.seq_len * shape.kv_dim());
    value_ = tensor(2 * shape.seq_len * shape.kv_dim());
    std::mt19937 generator(pos);
    std::normal_distribution<float> normal;
    const auto fill = [&](tensor::Tensor& tensor, int64_t first, int64_t count) {
      for (int64_t i = 0; i < count; ++i) tensor.index<float>(first + i) = normal(generator);
    };
    fill(query_, 0, static_cast<int64_t>(query_.size()));
    const int64_t layer = int64_t{shape.seq_len} * shape.kv_dim();
    fill(key_, layer, (int64_t{pos} + 1) * shape.kv_dim());
    fill(value_, layer, (int64_t{pos} + 1) * shape.kv_dim());
    if (on_cuda()) {
      for (tensor::Tensor* tensor : {&query_, &output_, &score_, &key_, &value_}) {
        tensor->to_cuda(nullptr);
      }
    }
  }

  // Runs the engine's MHA kernel in a mode, and says which kernel of the library served it.
  std::string run(kfa_attention_mode mode) {
    kfa_set_attention_mode(mode);
    const auto device =
        on_cuda() ? base::DeviceType::kDeviceCUDA : base::DeviceType::kDeviceCPU;
    kernel::CudaConfig* config = on_cuda() ? &config_ : nullptr;
    const auto kernel = on_cuda() ? kernel::mha_kernel_cu : kernel::mha_kernel;
    kernel(pos_, shape_.head_num, 1, shape_.seq_len, shape_.kv_dim(),
           shape_.head_num / shape_.kv_head_num, shape_.head_size, output_, query_, score_, key_,
           value_, device, config);
    kfa_set_attention_mode(KFA_ATTENTION_MODE_AUTO);
    return kfa_last_kernel_name();
  }

  std::vector<float> output() const {
    tensor::Tensor fetched = output_;
    if (on_cuda()) fetched.to_cpu();
    const float* first = fetched.ptr<float>();
    return {first, first + fetched.size()};
  }

  // Bytes that a mode stores scores and partial results in.
  size_t memory(kfa_attention_mode mode) const {
    kfa_attention_desc desc;
    kfa_attention_desc_init(&desc);
    desc.device = on_cuda() ? KFA_DEVICE_CUDA : KFA_DEVICE_CPU;
    desc.mode = mode;
    desc.q_len = rows_;
    desc.kv_len = pos_ + 1;
    desc.heads = shape_.head_num;
    desc.kv_heads = shape_.kv_head_num;
    desc.head_dim = shape_.head_size;
    size_t bytes = 0;
    EXPECT_EQ(kfa_attention_workspace_size(&desc, &bytes), KFA_OK) << kfa_last_error_message();
    return bytes;
  }

  // Seconds of a call or, on CUDA, where fetching the output waits for them, of many.
  double seconds(kfa_attention_mode mode) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < (on_cuda() ? 50 : 1); ++i) run(mode);
    if (on_cuda()) output();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  static tensor::Tensor tensor(int64_t size) {
    tensor::Tensor tensor(kFp32, static_cast<int32_t>(size), true,
                          base::CPUDeviceAllocatorFactory::get_instance());
    for (int64_t i = 0; i < size; ++i) {
      tensor.index<float>(i) = std::numeric_limits<float>::quiet_NaN();
    }
    return tensor;
  }

  Shape shape_;
  int32_t pos_, rows_;
  kernel::CudaConfig config_{};  // the default stream
  tensor::Tensor query_, output_, score_, key_, value_;
};

// The report's suite.
class TestFlashAttention : public testing::Test {
 protected:
  static void SetUpTestSuite() { kfa_warm_up(on_cuda() ? KFA_DEVICE_CUDA : KFA_DEVICE_CPU); }

  // Flash attention writes what standard MHA does: within 1e-5, and 0.01% of the largest element.
  void expect_same(int32_t pos, int32_t rows) {
    SCOPED_TRACE(testing::Message() << rows << " rows up to position " << pos);
    Call call(shape_, pos, rows);
    ASSERT_NE(call.run(KFA_ATTENTION_MODE_AUTO).find("flash"), std::string::npos)
        << kfa_last_kernel_name() << ": flash attention is pinned off in this engine";
    const std::vector<float> flash = call.output();
    ASSERT_NE(call.run(KFA_ATTENTION_MODE_STANDARD).find("standard_mha"), std::string::npos)
        << kfa_last_kernel_name();
    const std::vector<float> standard = call.output();
    float largest = 0, worst = 0;
    for (size_t i = 0; i < flash.size(); ++i) {
      ASSERT_TRUE(std::isfinite(flash[i]) && std::isfinite(standard[i])) << "element " << i;
      largest = std::max(largest, std::abs(standard[i]));
      worst = std::max(worst, std::abs(flash[i] - standard[i]));
    }
    EXPECT_LT(worst, 1e-5f);
    EXPECT_LT(worst, 1e-4f * largest);
  }

  // What flash attention saves of the scores' memory: in decode or, as decode on a GPU spreads each
  // head over the device, there in a prompt's chunk of 64 rows.
  static double saved(int32_t seq_len) {
    Shape shape = Shape::asked();
    shape.seq_len = seq_len;
    const int32_t rows = on_cuda() ? 64 : 1;
    const Call call(shape, seq_len - 1, rows);
    const double scores = 4.0 * shape.head_num * rows * seq_len;
    const double saved = 1 - static_cast<double>(call.memory(KFA_ATTENTION_MODE_FLASH)) / scores;
    EXPECT_GE(static_cast<double>(call.memory(KFA_ATTENTION_MODE_STANDARD)), scores);
    std::cout << "seq_len " << seq_len << ": " << 100 * saved << "% of the score memory saved\n";
    return saved;
  }

  // Median of standard MHA's time over flash attention's, in alternating calls.
  static double speed_up(int32_t seq_len) {
    Shape shape = Shape::asked();
    shape.seq_len = seq_len;
    Call call(shape, seq_len - 1, 1);
    std::vector<double> ratios;
    for (int i = 0; i < 105; ++i) {
      const double standard = call.seconds(KFA_ATTENTION_MODE_STANDARD);
      const double flash = call.seconds(KFA_ATTENTION_MODE_AUTO);
      if (i >= 5) ratios.push_back(standard / flash);
    }
    std::nth_element(ratios.begin(), ratios.begin() + ratios.size() / 2, ratios.end());
    const double ratio = ratios[ratios.size() / 2];
    std::cout << "seq_len " << seq_len << ": " << ratio << " times as fast\n";
    return ratio;
  }

  Shape shape_ = Shape::asked();
};

TEST_F(TestFlashAttention, DecodeMatchesStandardMha) {
  for (int32_t pos : {0, shape_.seq_len / 3, shape_.seq_len - 1}) expect_same(pos, 1);
}

TEST_F(TestFlashAttention, PrefillMatchesStandardMha) {
  const int32_t rows = std::min(shape_.seq_len, 300);
  expect_same(rows - 1, rows);
  expect_same(shape_.seq_len - 1, std::min(shape_.seq_len, 7));
}

TEST_F(TestFlashAttention, ScoreMemoryAt2048) { EXPECT_GE(saved(2048), 0.75); }
TEST_F(TestFlashAttention, ScoreMemoryAt4096) { EXPECT_GE(saved(4096), 0.87); }
TEST_F(TestFlashAttention, ScoreMemoryAt8192) { EXPECT_GE(saved(8192), 0.93); }

TEST_F(TestFlashAttention, SpeedAt511) { EXPECT_GE(speed_up(511), 1.1); }
TEST_F(TestFlashAttention, SpeedAt2047) { EXPECT_GE(speed_up(2047), 1.5); }
TEST_F(TestFlashAttention, SpeedAt4096) { EXPECT_GE(speed_up(4096), 2.0); }
}  // namespace
