// LSE and merge: results over parts of the keys make up the result over all of them.
#include <cmath>
#include <functional>
#include <limits>

#include "capi/refused.h"
#include "support/problem.h"
#include "support/process.h"

namespace kfa_test {
namespace {
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Partial results and their merge; `desc` describes it and may be changed.
class Merge {
 public:
  Merge(const Shape& shape, int32_t parts) : output(elements(shape)), lse(rows(shape)) {
    for (int32_t part = 0; part < parts; ++part) {
      outputs.emplace_back(elements(shape)).fill_normal(part);
      lses.emplace_back(rows(shape)).fill_normal(part + 50);
    }
    desc.struct_size = sizeof(desc);
    desc.device = KFA_DEVICE_CPU;
    desc.parts = parts;
    desc.batch = shape.batch;
    desc.q_len = shape.q_len;
    desc.heads = shape.heads;
    desc.head_dim = shape.head_dim;
    point();
  }
  Merge(const Merge&) = delete;
  Merge& operator=(const Merge&) = delete;

  // Aims the description at the arrays.
  void point() {
    output_pointers.clear();
    lse_pointers.clear();
    for (Array& part : outputs) output_pointers.push_back(part.data());
    for (Array& part : lses) lse_pointers.push_back(part.data());
    desc.outputs = output_pointers.data();
    desc.lses = lse_pointers.data();
    desc.output = output.data();
    desc.lse = lse.data();
  }

  std::vector<std::vector<uint32_t>> snapshot() const {
    std::vector<std::vector<uint32_t>> all = {output.snapshot(), lse.snapshot()};
    for (const Array& part : outputs) all.push_back(part.snapshot());
    for (const Array& part : lses) all.push_back(part.snapshot());
    return all;
  }

  kfa_merge_desc desc{};
  std::vector<Array> outputs, lses;
  std::vector<const float*> output_pointers, lse_pointers;
  Array output, lse;

 private:
  static size_t rows(const Shape& s) { return size_t{1} * s.batch * s.q_len * s.heads; }
  static size_t elements(const Shape& s) { return rows(s) * s.head_dim; }
};

// Attention over keys first..last alone, by strides into the whole problem's tensors.
void attend_part(const Problem& whole, int32_t first, int32_t last, Array& output, Array& lse) {
  kfa_attention_desc desc = whole.desc;
  const int64_t row = int64_t{desc.kv_heads} * desc.head_dim;
  const auto part = [&](const kfa_tensor_view& all) {
    return kfa_tensor_view{static_cast<float*>(all.data) + first * row,
                           KFA_DTYPE_FP32,
                           0,
                           desc.kv_len * row,
                           row,
                           desc.head_dim};
  };
  desc.key = part(whole.desc.key);
  desc.value = part(whole.desc.value);
  desc.kv_len = last - first;
  desc.output.data = output.data();
  desc.lse = lse.data();
  size_t bytes = 0;
  ASSERT_EQ(kfa_attention_workspace_size(&desc, &bytes), KFA_OK) << kfa_last_error_message();
  Array workspace(bytes / sizeof(float));
  desc.workspace = bytes ? workspace.data() : nullptr;
  desc.workspace_size = bytes;
  ASSERT_EQ(kfa_attention_forward(&desc), KFA_OK) << kfa_last_error_message();
}

TEST(Merging, PartsOfTheKeysMakeUpTheWhole) {
  for (const Shape& shape : {Shape{1, 100, 4, 2, 32, 2, 0}, Shape{9, 100, 4, 2, 32, 2, 0}}) {
    for (const std::vector<int32_t>& cuts :
         {std::vector<int32_t>{0, 37, 100}, std::vector<int32_t>{0, 1, 99, 100},
          std::vector<int32_t>{0, 100}}) {
      SCOPED_TRACE(testing::Message() << shape << ", " << cuts.size() - 1 << " parts");
      Problem whole(shape);
      Merge merge(shape, static_cast<int32_t>(cuts.size()) - 1);
      for (size_t part = 0; part + 1 < cuts.size(); ++part) {
        attend_part(whole, cuts[part], cuts[part + 1], merge.outputs[part], merge.lses[part]);
      }
      ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
      const Expected want = expected(whole.desc);
      expect_accurate(merge.output.data(), want.output.data(), merge.output.size());
      for (size_t row = 0; row < merge.lse.size(); ++row) {
        ASSERT_NEAR(merge.lse[row], want.lse[row], kMaxAbsError);
      }
      EXPECT_TRUE(merge.output.guards_intact() && merge.lse.guards_intact());
    }
  }
}

TEST(Merging, ACausalChunkSplitsIntoItsPastAndItself) {
  // 8 rows at positions 32 to 39: all see the past, and each other causally.
  Problem whole({8, 40, 4, 2, 16});
  Merge merge({8, 40, 4, 2, 16}, 2);
  whole.desc.is_causal = 0;
  attend_part(whole, 0, 32, merge.outputs[0], merge.lses[0]);
  whole.desc.is_causal = 1;
  attend_part(whole, 32, 40, merge.outputs[1], merge.lses[1]);
  ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
  const Expected want = expected(whole.desc);
  expect_accurate(merge.output.data(), want.output.data(), merge.output.size());
}

TEST(Merging, PartsWithoutKeysAreIgnoredWhateverTheyHold) {
  Merge merge({2, 1, 3, 3, 8}, 3);
  merge.outputs[1].fill(poison());
  merge.lses[1].fill(-kInfinity);
  ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
  Merge without({2, 1, 3, 3, 8}, 3);
  without.outputs.erase(without.outputs.begin() + 1);
  without.lses.erase(without.lses.begin() + 1);
  without.desc.parts = 2;
  without.point();
  ASSERT_EQ(kfa_attention_merge(&without.desc), KFA_OK) << kfa_last_error_message();
  EXPECT_TRUE(merge.output.same_bits(without.output));
  EXPECT_TRUE(merge.lse.same_bits(without.lse));

  // No part has any: zero and -infinity.
  for (Array& lse : merge.lses) lse.fill(-kInfinity);
  ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
  for (float element : merge.output) ASSERT_EQ(element, 0);
  for (float element : merge.lse) ASSERT_EQ(element, -kInfinity);
}

TEST(Merging, APartWithAnImpossibleLseSpoilsItsRowAlone) {
  for (float impossible : {std::nanf(""), -std::nanf(""), kInfinity}) {
    SCOPED_TRACE(impossible);
    const Shape shape{2, 1, 3, 3, 40};
    Merge merge(shape, 3), without(shape, 3);
    // LSEs are [heads, q_len], outputs [q_len, heads, head_dim]: row 1 of head 2.
    merge.lses[1][2 * 2 + 1] = impossible;
    ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
    ASSERT_EQ(kfa_attention_merge(&without.desc), KFA_OK) << kfa_last_error_message();
    for (int32_t row = 0; row < 2; ++row) {
      for (int32_t head = 0; head < 3; ++head) {
        const bool spoilt = row == 1 && head == 2;
        const float lse = merge.lse[head * 2 + row];
        EXPECT_EQ(std::isnan(lse), spoilt);
        if (!spoilt) {
          EXPECT_EQ(lse, without.lse[head * 2 + row]);
        }
        for (int32_t d = 0; d < 40; ++d) {
          const size_t i = (row * 3 + head) * 40 + d;
          ASSERT_EQ(std::isnan(merge.output[i]), spoilt) << row << " " << head << " " << d;
          if (!spoilt) {
            ASSERT_EQ(merge.output[i], without.output[i]);
          }
        }
      }
    }
    EXPECT_TRUE(merge.output.guards_intact() && merge.lse.guards_intact());
  }
}

TEST(Merging, ANanInAnOutputReachesItsElementAlone) {
  Merge merge({2, 1, 3, 3, 40}, 3);
  merge.outputs[2][17] = std::nanf("");
  ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
  for (size_t i = 0; i < merge.output.size(); ++i) {
    EXPECT_EQ(std::isnan(merge.output[i]), i == 17);
  }
}

TEST(Merging, LsesMayHaveBase2) {
  const float log2_e = std::log2(std::exp(1.0f));
  Merge natural({4, 1, 3, 3, 40}, 3), binary({4, 1, 3, 3, 40}, 3);
  for (Array& lse : binary.lses) {
    for (float& element : lse) element *= log2_e;
  }
  binary.desc.flags = KFA_FLAG_LSE_BASE2;
  ASSERT_EQ(kfa_attention_merge(&natural.desc), KFA_OK) << kfa_last_error_message();
  ASSERT_EQ(kfa_attention_merge(&binary.desc), KFA_OK) << kfa_last_error_message();
  for (size_t i = 0; i < natural.output.size(); ++i) {
    ASSERT_NEAR(binary.output[i], natural.output[i], 2e-6);
  }
  for (size_t i = 0; i < natural.lse.size(); ++i) {
    ASSERT_NEAR(binary.lse[i], natural.lse[i] * log2_e, 2e-6);
  }
}

TEST(Merging, RowsMayHavePartsOfTheirOwnNumber) {
  // Three rows of 2 heads with 2, 0 and 1 parts, which lie one after the other.
  const int32_t offsets[] = {0, 2, 2, 3};
  Array parts(3 * 2 * 16), lses(2 * 3), output(3 * 2 * 16), lse(2 * 3);
  parts.fill_normal(1);
  lses.fill_normal(2);
  const float* outputs_of[] = {parts.data()};
  const float* lses_of[] = {lses.data()};
  Merge merge({3, 1, 2, 2, 16}, 1);
  merge.desc.outputs = outputs_of;
  merge.desc.lses = lses_of;
  merge.desc.output = output.data();
  merge.desc.lse = lse.data();
  merge.desc.part_offsets = offsets;
  merge.desc.part_rows = 3;
  ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
  for (int32_t head = 0; head < 2; ++head) {
    const double first = std::exp(lses[head * 3]), second = std::exp(lses[head * 3 + 1]);
    EXPECT_NEAR(lse[head * 3], std::log(first + second), 1e-6);
    EXPECT_EQ(lse[head * 3 + 1], -kInfinity);
    EXPECT_NEAR(lse[head * 3 + 2], lses[head * 3 + 2], 1e-6);
    for (int32_t d = 0; d < 16; ++d) {
      const auto part = [&](int32_t row) { return parts[(row * 2 + head) * 16 + d]; };
      const auto result = [&](int32_t row) { return output[(row * 2 + head) * 16 + d]; };
      EXPECT_NEAR(result(0), (first * part(0) + second * part(1)) / (first + second), 1e-6);
      EXPECT_EQ(result(1), 0);
      EXPECT_NEAR(result(2), part(2), 1e-6);
    }
  }
  EXPECT_TRUE(output.guards_intact() && lse.guards_intact());
}

TEST(Merging, LargeLsesDoNotOverflow) {
  for (float shift : {-1e4f, 1e4f, 1e30f}) {
    Merge merge({2, 1, 3, 3, 8}, 2);
    for (Array& lse : merge.lses) lse.fill(shift);
    ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK) << kfa_last_error_message();
    for (size_t i = 0; i < merge.output.size(); ++i) {
      ASSERT_NEAR(merge.output[i], (merge.outputs[0][i] + merge.outputs[1][i]) / 2, 1e-6);
    }
    ASSERT_FLOAT_EQ(merge.lse[0], shift + std::log(2.0f));
  }
}

TEST(Merging, ThePartsMayReceiveTheResult) {
  Merge apart({4, 1, 3, 3, 8}, 3);
  ASSERT_EQ(kfa_attention_merge(&apart.desc), KFA_OK) << kfa_last_error_message();
  for (int32_t part : {0, 1, 2}) {
    Merge over({4, 1, 3, 3, 8}, 3);
    over.desc.output = over.outputs[part].data();
    over.desc.lse = over.lses[part].data();
    ASSERT_EQ(kfa_attention_merge(&over.desc), KFA_OK) << kfa_last_error_message();
    EXPECT_TRUE(over.outputs[part].same_bits(apart.output));
    EXPECT_TRUE(over.lses[part].same_bits(apart.lse));
  }
}

TEST(Merging, TheLseIsOptional) {
  Merge merge({4, 1, 3, 3, 8}, 2), without({4, 1, 3, 3, 8}, 2);
  without.desc.lse = nullptr;
  ASSERT_EQ(kfa_attention_merge(&merge.desc), KFA_OK);
  ASSERT_EQ(kfa_attention_merge(&without.desc), KFA_OK);
  EXPECT_TRUE(without.output.same_bits(merge.output));
  EXPECT_TRUE(without.lse.untouched());
}

struct BadMerge {
  std::string label;
  std::function<void(Merge&)> spoil;
  std::vector<std::string> message;
  kfa_status status = KFA_ERROR_INVALID_ARGUMENT;

  std::string name() const { return label; }
};

void PrintTo(const BadMerge& bad, std::ostream* os) { *os << bad.label; }

std::vector<BadMerge> bad_merges() {
  std::vector<BadMerge> list;
  struct Number {
    const char* name;
    int32_t kfa_merge_desc::*field;
    std::vector<int32_t> values;
  };
  const Number numbers[] = {{"device", &kfa_merge_desc::device, {0, 5, -1}},
                            {"parts", &kfa_merge_desc::parts, {0, -1, INT32_MIN}},
                            {"batch", &kfa_merge_desc::batch, {0, -1}},
                            {"q_len", &kfa_merge_desc::q_len, {0, -1}},
                            {"heads", &kfa_merge_desc::heads, {0, -1}},
                            {"head_dim", &kfa_merge_desc::head_dim, {0, -1}},
                            {"reserved", &kfa_merge_desc::reserved, {1, -1}}};
  for (const auto& [name, field, values] : numbers) {
    for (int32_t value : values) {
      const std::string text = std::to_string(value);
      list.push_back({std::string(name) + (value < 0 ? "_minus_" : "_") + text.substr(value < 0),
                      [field = field, value](Merge& m) { m.desc.*field = value; },
                      {std::string(name) + " is " + text, "expected"}});
    }
  }
  const auto add = [&list](const char* label, const std::function<void(Merge&)>& spoil,
                           std::vector<std::string> message,
                           kfa_status status = KFA_ERROR_INVALID_ARGUMENT) {
    list.push_back({label, spoil, std::move(message), status});
  };
  add("struct_size_0", [](Merge& m) { m.desc.struct_size = 0; }, {"struct_size is 0", "expected"});
  add("struct_size_too_large", [](Merge& m) { m.desc.struct_size += 4; },
      {"struct_size", "expected"});
  add(
      "device_cuda", [](Merge& m) { m.desc.device = KFA_DEVICE_CUDA; }, {"CUDA"},
      KFA_ERROR_NO_DEVICE);
  add("sizes_overflow",
      [](Merge& m) { m.desc.batch = m.desc.q_len = m.desc.heads = m.desc.head_dim = INT32_MAX; },
      {"overflow"});
  add("outputs_null", [](Merge& m) { m.desc.outputs = nullptr; }, {"outputs is NULL"});
  add("lses_null", [](Merge& m) { m.desc.lses = nullptr; }, {"lses is NULL"});
  add("output_null", [](Merge& m) { m.desc.output = nullptr; }, {"output is NULL"});
  add("a_part_null", [](Merge& m) { m.output_pointers[1] = nullptr; }, {"outputs[1] is NULL"});
  add("a_parts_lse_null", [](Merge& m) { m.lse_pointers[0] = nullptr; }, {"lses[0] is NULL"});
  add("stream_on_cpu", [](Merge& m) { m.desc.stream = &m; }, {"stream", "NULL"});
  const auto odd = [](const float* pointer) {
    return reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(pointer) + 1);
  };
  add("output_off_by_a_byte", [=](Merge& m) { m.desc.output = odd(m.desc.output); },
      {"output is 0x", "aligned"});
  add("lse_off_by_a_byte", [=](Merge& m) { m.desc.lse = odd(m.desc.lse); },
      {"lse is 0x", "aligned"});
  add("a_part_off_by_a_byte", [=](Merge& m) { m.output_pointers[1] = odd(m.output_pointers[1]); },
      {"outputs[1] is 0x", "aligned"});
  add("output_over_part_of_a_part", [](Merge& m) { m.desc.output = m.outputs[1].data() + 1; },
      {"output overlaps outputs[1]"});
  add("output_over_an_lse", [](Merge& m) { m.lse_pointers[1] = m.output.data() + 2; },
      {"output overlaps lses[1]"});
  add("lse_over_a_part", [](Merge& m) { m.desc.lse = m.outputs[0].data(); },
      {"lse overlaps outputs[0]"});
  add("lse_over_part_of_an_lse", [](Merge& m) { m.desc.lse = m.lses[0].data() + 1; },
      {"lse overlaps lses[0]"});
  add("lse_over_output", [](Merge& m) { m.desc.lse = m.output.data() + 3; },
      {"lse overlaps output"});
  add("an_unknown_flag", [](Merge& m) { m.desc.flags = KFA_FLAG_DETERMINISTIC; },
      {"flags is 0x1", "KFA_FLAG_LSE_BASE2"});
  add("an_integer_type", [](Merge& m) { m.desc.outputs_dtype = KFA_DTYPE_INT8; },
      {"outputs_dtype is 2", "expected"});
  add("an_unknown_type", [](Merge& m) { m.desc.output_dtype = -5; },
      {"output_dtype is -5", "expected"});
  add("a_negative_stride", [](Merge& m) { m.desc.lses_head_stride = -1; },
      {"lses_head_stride is -1", "expected"});
  add("strides_that_overflow",
      [](Merge& m) { m.desc.outputs_row_stride = INT64_MAX; }, {"outputs overflows"});
  add("a_result_over_itself",
      [](Merge& m) {
        m.desc.output_row_stride = 24;
        m.desc.output_head_stride = 4;
      },
      {"output_head_stride is 4", "share memory"});
  add("an_lse_over_itself", [](Merge& m) { m.desc.lse_row_stride = 1; },
      {"lse_head_stride is 0", "share memory"});
  add("a_part_of_another_layout",
      [](Merge& m) {
        m.desc.output = m.outputs[1].data();
        m.desc.outputs_row_stride = 24;
        m.desc.outputs_head_stride = 16;
      },
      {"output overlaps outputs[1]"});
  add("part_rows_alone", [](Merge& m) { m.desc.part_rows = 4; }, {"part_rows is 4", "expected 0"});
  const auto ragged = [](std::vector<int32_t> offsets) {
    return [offsets](Merge& m) {
      static std::vector<int32_t> kept;
      kept = offsets;
      m.desc.parts = 1;
      m.desc.part_offsets = kept.data();
      m.desc.part_rows = 4;
    };
  };
  add("ragged_and_several_parts",
      [=](Merge& m) {
        ragged({0, 1, 2, 3, 4})(m);
        m.desc.parts = 2;
      },
      {"parts is 2", "part_offsets"});
  add("offsets_that_fall", ragged({0, 2, 1, 3, 4}), {"part_offsets[2] is 1", "expected 2 to"});
  add("an_offset_below_0", ragged({-1, 2, 3, 3, 4}), {"part_offsets[0] is -1", "expected 0 to"});
  add("offsets_past_the_end", ragged({0, 1, 2, 3, 5}), {"part_offsets[4] is 5", "part_rows (4)"});
  return list;
}

class BadMergeDescription : public testing::TestWithParam<BadMerge> {};
INSTANTIATE_TEST_SUITE_P(Capi, BadMergeDescription, testing::ValuesIn(bad_merges()), NameOf());

TEST_P(BadMergeDescription, IsRefusedAndWritesNothing) {
  if (GetParam().status == KFA_ERROR_NO_DEVICE) KFA_SKIP_WITH_CUDA();
  Merge merge({4, 1, 3, 3, 8}, 2);
  GetParam().spoil(merge);
  const auto before = merge.snapshot();
  forget_last_error();
  expect_refused(kfa_attention_merge(&merge.desc), GetParam().status, GetParam().message);
  EXPECT_TRUE(merge.snapshot() == before) << "memory was written";
}
}  // namespace
}  // namespace kfa_test
