// Structs that grow: callers of an older and of a newer header than the library's.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstddef>

#include "capi/refused.h"
#include "support/problem.h"

extern "C" {
size_t kfa_old_desc_size(void);
size_t kfa_old_merge_desc_size(void);
int kfa_old_client(void* desc, float* query, float* key, float* value, float* output, float* lse);
int kfa_old_merge(void* desc, const float* const* outputs, const float* const* lses, float* output);
}

namespace kfa_test {
namespace {
// `size` bytes that end where memory ends: the byte behind them cannot be touched.
class Fenced {
 public:
  explicit Fenced(size_t size) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory = mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory, MAP_FAILED);
    start_ = static_cast<char*>(memory);
    EXPECT_EQ(mprotect(start_ + page_, page_, PROT_NONE), 0);
    data_ = start_ + page_ - size;
    std::memset(data_, 0xab, size);
  }
  ~Fenced() { munmap(start_, 2 * page_); }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  void* data() const { return data_; }

 private:
  size_t page_;
  char *start_, *data_;
};

TEST(Growth, AProgramOfTheFirstHeaderRuns) {
  // All that the new library touches of the old struct lies before its end.
  ASSERT_LT(kfa_old_desc_size(), sizeof(kfa_attention_desc));
  Fenced desc(kfa_old_desc_size());
  Problem problem({3, 7, 2, 1, 8});
  ASSERT_EQ(kfa_old_client(desc.data(), problem.query.data(), problem.key.data(),
                           problem.value.data(), problem.output.data(), problem.lse.data()),
            KFA_OK)
      << kfa_last_error_message();
  const Expected want = expected(problem.desc);
  expect_accurate(problem.output.data(), want.output.data(), problem.output.size());
}

TEST(Growth, AMergeOfTheFirstHeaderRuns) {
  ASSERT_LT(kfa_old_merge_desc_size(), sizeof(kfa_merge_desc));
  Fenced desc(kfa_old_merge_desc_size());
  const float outputs[2][2] = {{1, 2}, {3, 6}}, lses[2] = {0, 0};
  const float *output_pointers[] = {outputs[0], outputs[1]}, *lse_pointers[] = {&lses[0], &lses[1]};
  float merged[2] = {};
  ASSERT_EQ(kfa_old_merge(desc.data(), output_pointers, lse_pointers, merged), KFA_OK)
      << kfa_last_error_message();
  EXPECT_FLOAT_EQ(merged[0], 2);
  EXPECT_FLOAT_EQ(merged[1], 4);
}

TEST(Growth, InitFillsTheSizeThatTheCallerHas) {
  for (size_t size : {kfa_old_desc_size(), sizeof(kfa_attention_desc) - 16,
                      sizeof(kfa_attention_desc), sizeof(kfa_attention_desc) + 64}) {
    SCOPED_TRACE(size);
    Fenced memory(size);
    auto* desc = static_cast<kfa_attention_desc*>(memory.data());
    ASSERT_EQ(kfa_attention_desc_init_sized(desc, size), KFA_OK);
    EXPECT_EQ(desc->struct_size, size);
    EXPECT_EQ(desc->is_causal, 1);
    // Every field that came later, known to us or not, is all zero bits.
    const auto* bytes = static_cast<const unsigned char*>(memory.data());
    for (size_t i = kfa_old_desc_size(); i < size; ++i) ASSERT_EQ(bytes[i], 0) << i;
  }
  kfa_attention_desc desc;
  for (size_t size : {size_t{0}, size_t{8}, kfa_old_desc_size() - 8, kfa_old_desc_size() + 4,
                      size_t{1} << 20}) {
    std::memset(&desc, 0xab, sizeof(desc));
    forget_last_error();
    expect_refused(kfa_attention_desc_init_sized(&desc, size), KFA_ERROR_INVALID_ARGUMENT,
                   {"size is " + std::to_string(size)});
    EXPECT_EQ(desc.struct_size, 0xabababab);
  }
}

// A description as a newer header would have it.
struct Newer {
  kfa_attention_desc desc;
  uint64_t beyond[4];
};

TEST(Growth, AProgramOfANewerHeaderRunsUnlessItAsksForMore) {
  Problem problem({3, 7, 2, 1, 8});
  problem.bring_workspace();
  Newer newer;
  ASSERT_EQ(kfa_attention_desc_init_sized(&newer.desc, sizeof(newer)), KFA_OK);
  newer.desc = problem.desc;
  newer.desc.struct_size = sizeof(newer);
  ASSERT_EQ(kfa_attention_forward(&newer.desc), KFA_OK) << kfa_last_error_message();
  const Expected want = expected(problem.desc);
  expect_accurate(problem.output.data(), want.output.data(), problem.output.size());

  problem.output.fill(poison());
  const auto before = problem.output.snapshot();
  reinterpret_cast<unsigned char*>(newer.beyond)[31] = 1;
  EXPECT_EQ(kfa_attention_supported(&newer.desc), KFA_ERROR_UNSUPPORTED);
  size_t size = 77;
  for (kfa_status status : {kfa_attention_forward(&newer.desc),
                            kfa_attention_workspace_size(&newer.desc, &size)}) {
    expect_refused(status, KFA_ERROR_UNSUPPORTED,
                   {"struct_size is " + std::to_string(sizeof(newer)),
                    std::to_string(sizeof(kfa_attention_desc)), "newer"});
  }
  EXPECT_EQ(size, 77u);
  EXPECT_TRUE(problem.output.snapshot() == before);
}
}  // namespace
}  // namespace kfa_test
