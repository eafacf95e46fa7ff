#ifndef KFA_TESTS_SUPPORT_ARRAY_H_
#define KFA_TESTS_SUPPORT_ARRAY_H_
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace kfa_test {
// A quiet NaN that no arithmetic yields: memory that still holds it was not written, and what is
// computed from it is NaN.
inline float poison() {
  constexpr uint32_t kBits = 0x7fc0dead;
  float value;
  std::memcpy(&value, &kBits, sizeof(value));
  return value;
}

// Floats with a guard on both sides. Memory starts `shift` floats past a 64-byte boundary.
class Array {
 public:
  explicit Array(size_t size = 0, size_t shift = 0) : size_(size) {
    memory_.assign(kGuard + size + kGuard + kLine, poison());
    const size_t misfit =
        reinterpret_cast<uintptr_t>(memory_.data() + kGuard) / sizeof(float) % kLine;
    start_ = kGuard + (kLine - misfit) % kLine + shift % kLine;
  }
  Array(Array&&) = default;
  Array& operator=(Array&&) = default;

  float* data() { return memory_.data() + start_; }
  const float* data() const { return memory_.data() + start_; }
  size_t size() const { return size_; }
  float& operator[](size_t index) { return data()[index]; }
  float operator[](size_t index) const { return data()[index]; }
  float* begin() { return data(); }
  float* end() { return data() + size_; }

  void fill(float value) { std::fill(begin(), end(), value); }

  // Unit-normal numbers.
  void fill_normal(uint32_t seed) { fill_normal(seed, 0, size_); }
  void fill_normal(uint32_t seed, size_t first, size_t count) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::generate_n(data() + first, count, [&] { return normal(generator); });
  }

  bool same_bits(const Array& other) const {
    return size_ == other.size_ && std::memcmp(data(), other.data(), size_ * sizeof(float)) == 0;
  }

  // The memory's bits, guards included, to compare with later.
  std::vector<uint32_t> snapshot() const {
    std::vector<uint32_t> bits(memory_.size());
    std::memcpy(bits.data(), memory_.data(), memory_.size() * sizeof(float));
    return bits;
  }

  bool guards_intact() const {
    return all_poison(0, start_) && all_poison(start_ + size_, memory_.size());
  }
  bool untouched() const { return all_poison(0, memory_.size()); }

 private:
  static constexpr size_t kLine = 16;
  static constexpr size_t kGuard = 64;

  bool all_poison(size_t first, size_t last) const {
    const float expected = poison();
    return std::all_of(memory_.begin() + first, memory_.begin() + last, [&](const float& value) {
      return std::memcmp(&value, &expected, sizeof(value)) == 0;
    });
  }

  size_t size_;
  size_t start_;
  std::vector<float> memory_;
};
}  // namespace kfa_test
#endif  // KFA_TESTS_SUPPORT_ARRAY_H_
