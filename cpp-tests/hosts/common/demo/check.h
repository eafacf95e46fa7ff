// An engine's tensors with random contents, and the definition of attention to hold a host to.
#ifndef HOSTS_DEMO_CHECK_H_
#define HOSTS_DEMO_CHECK_H_
#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/alloc.h"
#include "base/cuda.h"
#include "tensor/tensor.h"

constexpr int32_t kHeads = 6, kKvHeads = 2, kHeadSize = 32, kSeqLen = 70, kLayers = 2, kLayer = 1;
constexpr int32_t kKvMul = kHeads / kKvHeads, kKvDim = kKvHeads * kHeadSize;
constexpr int32_t kDim = kHeads * kHeadSize;

inline bool all_right = true;

inline uint16_t to_half(float value) {  // of numbers that float16 holds exactly
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude == 0) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | ((magnitude - 0x38000000) >> 13));
}

inline float from_half(uint16_t half) {
  const uint32_t magnitude = half & 0x7fff;
  const uint32_t bits = (half & 0x8000u) << 16 | (magnitude ? (magnitude << 13) + 0x38000000 : 0);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// A device, and the stream of one that has streams.
struct Place {
  base::DeviceType type = base::DeviceType::kDeviceCPU;
  std::shared_ptr<kernel::CudaConfig> config;

  // From the program's argument, `cpu` (the default) or `cuda`.
  static Place named(int argc, char** argv) {
    Place place;
    if (argc > 1 && std::string(argv[1]) == "cuda") {
      place.type = base::DeviceType::kDeviceCUDA;
      const base::Status status = base::create_cuda_config(place.config);
      if (!status) {
        std::cerr << "skipped: " << status.get_err_msg() << "\n";
        std::exit(77);
      }
    }
    return place;
  }

  bool is_cuda() const { return type == base::DeviceType::kDeviceCUDA; }

  tensor::Tensor tensor(const std::vector<float>& values, base::DataType data_type) const {
    tensor::Tensor tensor(data_type, static_cast<int32_t>(values.size()), true,
                          base::CPUDeviceAllocatorFactory::get_instance());
    for (size_t i = 0; i < values.size(); ++i) {
      if (data_type == base::DataType::kDataTypeFp32) {
        tensor.index<float>(i) = values[i];
      } else {
        tensor.index<uint16_t>(i) = to_half(values[i]);
      }
    }
    if (is_cuda()) CHECK(tensor.to_cuda(config->stream));
    return tensor;
  }

  std::vector<float> values(tensor::Tensor tensor) const {
    if (is_cuda()) CHECK(tensor.to_cpu(config->stream));
    std::vector<float> values(tensor.size());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = tensor.data_type() == base::DataType::kDataTypeFp32
                      ? tensor.index<float>(i)
                      : from_half(tensor.index<uint16_t>(i));
    }
    return values;
  }
};

// `rows` query rows from position `start`, on the second of two layers. Slots that no row may see
// are NaN, and so is the output.
struct Attention {
  Attention(const Place& place, int32_t start, int32_t rows,
            base::DataType data_type = base::DataType::kDataTypeFp32)
      : place(place), start(start), rows(rows), data_type(data_type) {
    std::mt19937 generator(start * 100 + rows);
    // Multiples of 1/64 up to 3, which float16 holds exactly.
    std::uniform_int_distribution<int> any(-192, 192);
    const auto fill = [&](std::vector<float>& values, size_t first, size_t count) {
      for (size_t i = 0; i < count; ++i) values[first + i] = any(generator) / 64.0f;
    };
    query_values.resize(rows * kDim);
    fill(query_values, 0, query_values.size());
    const float nan = std::numeric_limits<float>::quiet_NaN();
    key_values.assign(kLayers * kSeqLen * kKvDim, nan);
    value_values = key_values;
    fill(key_values, kLayer * kSeqLen * kKvDim, (start + rows) * kKvDim);
    fill(value_values, kLayer * kSeqLen * kKvDim, (start + rows) * kKvDim);
    query = place.tensor(query_values, data_type);
    output = place.tensor(std::vector<float>(rows * kDim, nan), data_type);
    key = place.tensor(key_values, data_type);
    value = place.tensor(value_values, data_type);
  }

  int32_t pos() const { return start + rows - 1; }

  // Holds a tensor to the definition, computed in float64.
  void expect(const std::string& what, const tensor::Tensor& result) const {
    const std::vector<float> got = place.values(result);
    const bool half = data_type != base::DataType::kDataTypeFp32;
    double worst = 0;
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t head = 0; head < kHeads; ++head) {
        const size_t at = (row * kHeads + head) * kHeadSize;
        const size_t cache = kLayer * kSeqLen * kKvDim + head / kKvMul * kHeadSize;
        std::vector<double> weights(start + row + 1), want(kHeadSize);
        double sum = 0;
        for (size_t k = 0; k < weights.size(); ++k) {
          double score = 0;
          for (int32_t i = 0; i < kHeadSize; ++i) {
            score += double{query_values[at + i]} * key_values[cache + k * kKvDim + i];
          }
          sum += weights[k] = std::exp(score / std::sqrt(double{kHeadSize}));
        }
        for (int32_t i = 0; i < kHeadSize; ++i) {
          for (size_t k = 0; k < weights.size(); ++k) {
            want[i] += weights[k] / sum * value_values[cache + k * kKvDim + i];
          }
          const double error = std::abs(got[at + i] - want[i]);
          worst = error <= worst ? worst : error;  // NaN is the worst
        }
      }
    }
    const bool good = worst <= (half ? 2e-3 : 1e-5);
    all_right = all_right && good;
    std::cout << (good ? "right: " : "WRONG: ") << what << ", error " << worst << std::endl;
  }

  const Place& place;
  int32_t start, rows;
  base::DataType data_type;
  std::vector<float> query_values, key_values, value_values;
  tensor::Tensor query, output, key, value;
};

inline void expect_success(const std::string& what, const base::Status& status) {
  if (status) return;
  all_right = false;
  std::cout << "WRONG: " << what << ": " << status.get_err_msg() << std::endl;
}
#endif  // HOSTS_DEMO_CHECK_H_
