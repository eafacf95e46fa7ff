// 16-bit tensors: kernels widen what they read and compute as on float32, so numbers that 16 bits hold
// exactly give the same bits.
#include <cmath>

#include "cpu/modes.h"

namespace kfa_test {
namespace {
struct Half {
  kfa_dtype dtype;
  const char* name;
  // Of a number between 2^-8 and 2^8, or 0, that the type holds exactly.
  uint16_t (*from_float)(float);
};

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

uint16_t bf16(float value) { return static_cast<uint16_t>(bits_of(value) >> 16); }

uint16_t fp16(float value) {
  const uint32_t bits = bits_of(value);
  if (value == 0) return 0;
  const uint32_t exponent = (bits >> 23 & 0xff) - 127 + 15;
  return static_cast<uint16_t>(bits >> 16 & 0x8000) |
         static_cast<uint16_t>(exponent << 10 | (bits >> 13 & 0x3ff));
}

constexpr Half kHalves[] = {{KFA_DTYPE_FP16, "fp16", fp16}, {KFA_DTYPE_BF16, "bf16", bf16}};

// Sixteenths between -4 and 4, which both types hold.
void round_to_sixteenths(Array& array) {
  for (float& value : array) value = std::round(std::fmax(-4.0f, std::fmin(4.0f, value)) * 16) / 16;
}

std::vector<uint16_t> narrow(const Array& array, const Half& half) {
  std::vector<uint16_t> words;
  for (size_t i = 0; i < array.size(); ++i) words.push_back(half.from_float(array[i]));
  return words;
}

class HalfTensors : public EachMode {
 protected:
  static std::vector<Shape> shapes() {
    return {{1, 700, 8, 2, 64}, {1, 5000, 4, 1, 80}, {70, 200, 6, 2, 48}, {3, 40, 2, 2, 13, 2}};
  }
  Problem make_exact(const Shape& shape) const {
    Problem problem = make(shape);
    for (Array* array : {&problem.query, &problem.key, &problem.value}) round_to_sixteenths(*array);
    return problem;
  }
};
KFA_FOR_EACH_MODE(HalfTensors);

TEST_P(HalfTensors, CacheUnderFloat32Query) {
  for (const Half& half : kHalves) {
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(testing::Message() << half.name << " " << shape);
      Problem wide = make_exact(shape), narrowed = make_exact(shape);
      wide.run();
      std::vector<uint16_t> key = narrow(narrowed.key, half), value = narrow(narrowed.value, half);
      narrowed.desc.key.dtype = narrowed.desc.value.dtype = half.dtype;
      narrowed.desc.key.data = key.data();
      narrowed.desc.value.data = value.data();
      narrowed.run();
      EXPECT_TRUE(narrowed.output.same_bits(wide.output));
      EXPECT_TRUE(narrowed.lse.same_bits(wide.lse));
    }
  }
}

TEST_P(HalfTensors, AllFourTensors) {
  for (const Half& half : kHalves) {
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(testing::Message() << half.name << " " << shape);
      Problem wide = make_exact(shape), narrowed = make_exact(shape);
      wide.run();
      std::vector<uint16_t> query = narrow(narrowed.query, half);
      std::vector<uint16_t> key = narrow(narrowed.key, half), value = narrow(narrowed.value, half);
      std::vector<uint16_t> output(narrowed.output.size() + 1, 0xfeed);
      auto& desc = narrowed.desc;
      desc.query.data = query.data();
      desc.key.data = key.data();
      desc.value.data = value.data();
      desc.output.data = output.data();
      desc.query.dtype = desc.key.dtype = desc.value.dtype = desc.output.dtype = half.dtype;
      narrowed.run();
      EXPECT_TRUE(narrowed.lse.same_bits(wide.lse));
      EXPECT_EQ(output.back(), 0xfeed) << "wrote past the output";
      // Half a unit of the last of 11 or 8 bits, and of the smallest float16.
      const double unit = half.dtype == KFA_DTYPE_FP16 ? 1.0 / 2048 : 1.0 / 256;
      for (size_t i = 0; i < wide.output.size(); ++i) {
        float got;
        const uint32_t bits = uint32_t{output[i]} << 16;
        if (half.dtype == KFA_DTYPE_FP16) {
          const int exponent = output[i] >> 10 & 0x1f;
          const int mantissa = output[i] & 0x3ff;
          got = std::ldexp(exponent ? 1024.0f + mantissa : mantissa, (exponent ? exponent : 1) - 25);
          if (output[i] & 0x8000) got = -got;
        } else {
          std::memcpy(&got, &bits, sizeof(got));
        }
        const double want = wide.output[i];
        ASSERT_LE(std::fabs(got - want), std::fmax(std::fabs(want) * unit, 1.0 / (1 << 25)))
            << "element " << i;
      }
    }
  }
}
}  // namespace
}  // namespace kfa_test
