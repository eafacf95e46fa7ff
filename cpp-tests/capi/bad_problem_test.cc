// Level 3: bad descriptions, and features that are not implemented yet.
#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "capi/refused.h"
#include "kuiper_flash_attention/kfa.hpp"
#include "support/problem.h"
#include "support/process.h"

namespace kfa_test {
namespace {
constexpr int32_t kMin = INT32_MIN, kMax = INT32_MAX;

// Two sequences of 5 rows over 12 keys.
constexpr Shape kShape{5, 12, 4, 2, 16, 2};

struct BadProblem {
  std::string label;
  std::function<void(Problem&)> spoil;
  std::vector<std::string> message;
  kfa_status status = KFA_ERROR_INVALID_ARGUMENT;
  // Whether the queries that take a description without data refuse it as well.
  bool seen_without_data = true;

  std::string name() const { return label; }
};

void PrintTo(const BadProblem& bad, std::ostream* os) { *os << bad.label; }

class List {
 public:
  void add(const std::string& label, const std::function<void(Problem&)>& spoil,
           std::vector<std::string> message, kfa_status status = KFA_ERROR_INVALID_ARGUMENT,
           bool seen_without_data = true) {
    cases.push_back({label, spoil, std::move(message), status, seen_without_data});
  }
  void add_data(const std::string& label, const std::function<void(Problem&)>& spoil,
                std::vector<std::string> message) {
    add(label, spoil, std::move(message), KFA_ERROR_INVALID_ARGUMENT, false);
  }
  // A number of the description that takes none of these values.
  void add_numbers(const std::string& name, int32_t& (*field)(kfa_attention_desc&),
                   const std::vector<int32_t>& values) {
    for (int32_t value : values) {
      const std::string text = std::to_string(value);
      std::string label = name + (value < 0 ? "_minus_" : "_") + text.substr(value < 0);
      std::replace(label.begin(), label.end(), '.', '_');
      add(label, [=](Problem& p) { field(p.desc) = value; }, {name + " is " + text, "expected"});
    }
  }

  std::vector<BadProblem> cases;
};

constexpr std::pair<const char*, kfa_tensor_view kfa_attention_desc::*> kViews[] = {
    {"query", &kfa_attention_desc::query},
    {"key", &kfa_attention_desc::key},
    {"value", &kfa_attention_desc::value},
    {"output", &kfa_attention_desc::output}};

#define KFA_FIELD(path) [](kfa_attention_desc& desc) -> int32_t& { return desc.path; }

void add_sizes_and_enums(List& list) {
  list.add_numbers("device", KFA_FIELD(device), {KFA_DEVICE_UNKNOWN, 5, -1, kMin, kMax});
  list.add_numbers("mode", KFA_FIELD(mode), {3, -1, kMin, kMax});
  list.add_numbers("is_causal", KFA_FIELD(is_causal), {3, -1, kMin});
  list.add_numbers("batch", KFA_FIELD(batch), {0, -1, kMin});
  list.add_numbers("q_len", KFA_FIELD(q_len), {0, -1, kMin});
  list.add_numbers("kv_len", KFA_FIELD(kv_len), {0, -1, kMin});
  list.add_numbers("heads", KFA_FIELD(heads), {0, -1, kMin, 3, 5});
  list.add_numbers("kv_heads", KFA_FIELD(kv_heads), {0, -1, kMin});
  list.add_numbers("head_dim", KFA_FIELD(head_dim), {0, -1, kMin});
  list.add_numbers("value_head_dim", KFA_FIELD(value_head_dim), {-1, kMin});
  list.add_numbers("sliding_window", KFA_FIELD(sliding_window), {-1, kMin});
  list.add_numbers("page_size", KFA_FIELD(page_size), {-1, kMin});
  list.add_numbers("device_index", KFA_FIELD(device_index), {-2, kMin});
  list.add_numbers("mask.kind", KFA_FIELD(mask.kind), {4, -1, kMax});
  list.add_numbers("reserved", KFA_FIELD(reserved), {1, -1});
  list.add_numbers("window_right", KFA_FIELD(window_right), {-1, kMin, 2});  // causal: none but 0
  list.add_numbers("attention_chunk", KFA_FIELD(attention_chunk), {-1, kMin});
  list.add_numbers("split_keys", KFA_FIELD(split_keys), {-1, 1, 63, 64});  // 64: not asked for
  list.add_numbers("threads", KFA_FIELD(threads), {-1, kMin});
  list.add_numbers("pages", KFA_FIELD(pages), {-1});
  list.add_numbers("query_rows", KFA_FIELD(query_rows), {-1, 5});
  list.add_numbers("kv_rows", KFA_FIELD(kv_rows), {-1, 5});
  list.add_numbers("cache_batch", KFA_FIELD(cache_batch), {-1, 5});
  list.add_numbers("query.dtype", KFA_FIELD(query.dtype), {KFA_DTYPE_UNKNOWN, 11, -1, kMax});
  list.add_numbers("key.dtype", KFA_FIELD(key.dtype), {KFA_DTYPE_UNKNOWN, 11});
  list.add_numbers("value.dtype", KFA_FIELD(value.dtype), {KFA_DTYPE_UNKNOWN, 11});
  list.add_numbers("output.dtype", KFA_FIELD(output.dtype), {KFA_DTYPE_UNKNOWN, 11});
  list.add_numbers("query.reserved", KFA_FIELD(query.reserved), {1});
  list.add_numbers("output.reserved", KFA_FIELD(output.reserved), {-1});
  list.add("kv_heads_not_a_divisor", [](Problem& p) { p.desc.kv_heads = 3; },
           {"heads is 4", "kv_heads (3)"});
  list.add("more_kv_heads_than_heads", [](Problem& p) { p.desc.kv_heads = 8; },
           {"heads is 4", "kv_heads (8)"});
  list.add("unknown_flag", [](Problem& p) { p.desc.flags = 0x80000001; },
           {"flags is 0x80000001", "expected"});
  list.add("stream_on_cpu", [](Problem& p) { p.desc.stream = &p; }, {"stream", "NULL"});
  list.add(
      "device_cuda", [](Problem& p) { p.desc.device = KFA_DEVICE_CUDA; }, {"device", "CUDA"},
      KFA_ERROR_NO_DEVICE, false);
  for (const auto& [name, device] :
       {std::pair{"ROCM", KFA_DEVICE_ROCM}, std::pair{"XPU", KFA_DEVICE_XPU}}) {
    list.add(std::string("device_") + name, [d = device](Problem& p) { p.desc.device = d; },
             {std::string("device is KFA_DEVICE_") + name}, KFA_ERROR_NO_DEVICE);
  }
  for (int difference : {-4, 4, -1, 1}) {
    list.add(std::string("struct_size_") + (difference < 0 ? "minus_" : "plus_") +
                 std::to_string(std::abs(difference)),
             [=](Problem& p) { p.desc.struct_size += difference; },
             {"struct_size is " + std::to_string(sizeof(kfa_attention_desc) + difference),
              std::to_string(sizeof(kfa_attention_desc)) + " in this version"});
  }
}

void add_floats(List& list) {
  struct Float {
    const char* label;
    float value;
    const char* text;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [label, value, text] : {Float{"nan", NAN, "NaN"}, Float{"inf", infinity, "inf"},
                                           Float{"minus_inf", -infinity, "-inf"}}) {
    list.add(std::string("softmax_scale_") + label,
             [value = value](Problem& p) { p.desc.softmax_scale = value; },
             {std::string("softmax_scale is ") + text, "finite"});
    list.add(std::string("softcap_") + label,
             [value = value](Problem& p) { p.desc.softcap = value; },
             {std::string("softcap is ") + text, "expected"});
  }
  list.add("softcap_minus_1", [](Problem& p) { p.desc.softcap = -1; },
           {"softcap is -1", "expected"});
}

void add_overflows(List& list) {
  list.add("all_sizes_overflow",
           [](Problem& p) {
             p.desc.batch = p.desc.q_len = p.desc.heads = p.desc.kv_heads = p.desc.head_dim = kMax;
           },
           {"query", std::to_string(kMax), "overflow"});
  list.add("kv_sizes_overflow",
           [](Problem& p) {
             p.desc.kv_len = p.desc.head_dim = kMax;
             p.desc.batch = 1 << 20;
           },
           {std::to_string(kMax), "overflow"});
  list.add("addresses_overflow",
           [](Problem& p) {
             p.desc.batch = kMax;
             p.desc.q_len = kMax;
           },
           {"overflow"});
  for (int64_t stride : {INT64_MAX, INT64_MAX / 4, INT64_MAX / 8}) {
    list.add("stride_" + std::to_string(stride),
             [=](Problem& p) {
               p.desc.key.batch_stride = stride;
               p.desc.key.row_stride = stride;
             },
             {"key", "overflow"});
  }
}

void add_strides(List& list) {
  struct Axis {
    const char* name;
    int64_t kfa_tensor_view::*stride;
  };
  for (const auto& [view_name, view] : kViews) {
    for (const auto& [axis_name, stride] :
         {Axis{"batch", &kfa_tensor_view::batch_stride}, Axis{"row", &kfa_tensor_view::row_stride},
          Axis{"head", &kfa_tensor_view::head_stride}}) {
      const std::string name = std::string(view_name) + "." + axis_name + "_stride";
      list.add(std::string(view_name) + "_" + axis_name + "_stride_minus_64",
               [view = view, stride = stride](Problem& p) { p.desc.*view.*stride = -64; },
               {name + " is -64", "expected"});
    }
  }
  // Elements of an output that share memory.
  const auto output = [&list](const char* label, int64_t batch, int64_t row, int64_t head,
                              std::string message) {
    list.add(label,
             [=](Problem& p) {
               p.desc.output.batch_stride = batch;
               p.desc.output.row_stride = row;
               p.desc.output.head_stride = head;
             },
             {std::move(message), "expected"});
  };
  output("output_broadcast_over_batch", 0, 64, 16, "output.batch_stride is 0");
  output("output_broadcast_over_rows", 320, 0, 16, "output.row_stride is 0");
  output("output_broadcast_over_heads", 320, 64, 0, "output.head_stride is 0");
  output("output_heads_overlap", 320, 64, 15, "output.head_stride is 15");
  output("output_rows_overlap", 320, 63, 16, "output.row_stride is 63");
  output("output_sequences_overlap", 319, 64, 16, "output.batch_stride is 319");
}

void add_pointers(List& list) {
  for (const auto& [name, view] : kViews) {
    list.add_data(std::string(name) + "_null",
                  [view = view](Problem& p) { (p.desc.*view).data = nullptr; },
                  {std::string(name) + ".data is NULL"});
    for (int bytes : {1, 2, 3}) {
      list.add_data(std::string(name) + "_off_by_" + std::to_string(bytes),
                    [view = view, bytes](Problem& p) {
                      (p.desc.*view).data = static_cast<char*>((p.desc.*view).data) + bytes;
                    },
                    {std::string(name) + ".data is 0x", "aligned"});
    }
    list.add_data(std::string(name) + "_at_the_end_of_memory",
                  [view = view](Problem& p) {
                    (p.desc.*view).data = reinterpret_cast<void*>(~uintptr_t{0} - 15);
                  },
                  {name, "overflow"});
  }
  list.add_data("lse_off_by_a_byte",
                [](Problem& p) {
                  p.desc.lse =
                      reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(p.desc.lse) + 1);
                },
                {"lse is 0x", "aligned"});
  list.add_data("workspace_off_by_a_byte",
                [](Problem& p) { p.desc.workspace = static_cast<char*>(p.desc.workspace) + 2; },
                {"workspace is 0x", "aligned"});
  list.add_data("workspace_null_with_a_size", [](Problem& p) { p.desc.workspace = nullptr; },
                {"workspace is NULL", "expected"});
  list.add_data("workspace_size_0",
                [](Problem& p) {
                  p.desc.workspace = nullptr;
                  p.desc.workspace_size = 0;
                },
                {"workspace_size is 0", "expected at least"});
  // Standard MHA runs with the scores of one row of every head, and not with a byte less.
  list.add_data("workspace_one_byte_short",
                [](Problem& p) { p.desc.workspace_size = 4 * 2 * 4 * 12 - 1; },
                {"workspace_size is 383", "expected at least 384"});
}

void add_overlaps(List& list) {
  const auto over = [&list](const std::string& label, const std::function<void(Problem&)>& spoil,
                            const std::string& who, const std::string& whom) {
    list.add_data(label, spoil, {who + " overlaps " + whom, "expected separate memory"});
  };
  over(
      "output_over_key", [](Problem& p) { p.desc.output.data = p.key.data(); }, "output", "key");
  over(
      "output_over_value", [](Problem& p) { p.desc.output.data = p.value.data(); }, "output",
      "value");
  over(
      "output_over_the_last_key",
      [](Problem& p) {
        // Room behind the keys, so that nothing else is there.
        const size_t last = p.key.size() - 1;
        p.key = Array(p.key.size() + p.output.size());
        p.desc.key.data = p.key.data();
        p.desc.output.data = p.key.data() + last;
      },
      "output", "key");
  over(
      "output_before_the_query", [](Problem& p) { p.desc.output.data = p.query.data() - 1; },
      "output", "query");
  over(
      "output_behind_the_query", [](Problem& p) { p.desc.output.data = p.query.data() + 16; },
      "output", "query");
  over(
      "output_at_the_query_with_other_strides",
      [](Problem& p) {
        p.desc.output.data = p.query.data();
        p.desc.output.batch_stride = 5 * 16;
        p.desc.output.row_stride = 16;
        p.desc.output.head_stride = 2 * 5 * 16;
      },
      "output", "query");
  using Get = Array& (*)(Problem&);
  const std::pair<const char*, Get> targets[] = {
      {"query", [](Problem& p) -> Array& { return p.query; }},
      {"key", [](Problem& p) -> Array& { return p.key; }},
      {"value", [](Problem& p) -> Array& { return p.value; }},
      {"output", [](Problem& p) -> Array& { return p.output; }}};
  for (const auto& [name, get] : targets) {
    over(
        std::string("lse_over_") + name, [get = get](Problem& p) { p.desc.lse = get(p).end() - 1; },
        "lse", name);
    over(
        std::string("workspace_over_") + name,
        [get = get](Problem& p) { p.desc.workspace = get(p).data() + 4; }, "workspace", name);
  }
  over(
      "workspace_over_lse",
      [](Problem& p) {
        p.desc.workspace = p.lse.data() + 1;
        p.desc.workspace_size = 4 * 2 * 4 * 12;  // ends in the guard
      },
      "workspace", "lse");
}

// Arrays for features that no kernel serves, and for fields that contradict each other.
float floats[64];
int32_t ints[64];

void add_contradictions(List& list) {
  const auto add = [&list](const char* label, const std::function<void(Problem&)>& spoil,
                           std::vector<std::string> message) {
    list.add(label, spoil, std::move(message));
  };
  add("mask_without_a_kind", [](Problem& p) { p.desc.mask.data = floats; },
      {"mask.data is set", "mask.kind"});
  add("mask_columns_beyond_kv_len",
      [](Problem& p) {
        p.desc.mask.kind = KFA_MASK_BOOLEAN;
        p.desc.mask.data = floats;
        p.desc.mask_columns = 13;
      },
      {"mask_columns is 13", "kv_len (12)"});
  add("mask_of_integers",
      [](Problem& p) {
        p.desc.mask.kind = KFA_MASK_ADDITIVE;
        p.desc.mask.dtype = KFA_DTYPE_INT8;
      },
      {"mask.dtype is 2", "fp32"});
  add("factor_on_a_bit_mask",
      [](Problem& p) {
        p.desc.mask.kind = KFA_MASK_BITS;
        p.desc.mask.data = floats;
        p.desc.mask_head_factor = floats;
      },
      {"mask_head_factor", "additive"});
  add("page_table_without_a_page_size", [](Problem& p) { p.desc.page_table = ints; },
      {"page_size is 0", "page_table"});
  add("pages_without_their_number", [](Problem& p) { p.desc.page_size = 16; }, {"pages is 0"});
  add("pages_and_packed_keys",
      [](Problem& p) {
        p.desc.page_size = 16;
        p.desc.kv_offsets = ints;
      },
      {"kv_offsets is set with page_size"});
  add("cache_index_without_a_bound", [](Problem& p) { p.desc.cache_index = ints; },
      {"cache_batch is 0"});
  add("page_table_too_narrow",
      [](Problem& p) {
        p.desc.page_size = 4;
        p.desc.pages = 9;
        p.desc.page_table = ints;
        p.desc.page_table_stride = 2;
      },
      {"page_table_stride is 2", "at least 3"});
  add("spans_without_causality",
      [](Problem& p) {
        p.desc.is_causal = 0;
        p.desc.span_ends = ints;
      },
      {"span_ends", "is_causal"});
  add("threads_of_a_pool_unsaid",
      [](Problem& p) { p.desc.parallel = [](void*, int32_t, kfa_task, void*) {}; },
      {"threads is 0", "parallel"});
  add("int8_query", [](Problem& p) { p.desc.query.dtype = KFA_DTYPE_INT8; }, {"query.dtype is 2"});
  list.cases.back().status = KFA_ERROR_UNSUPPORTED;
  add("int32_key", [](Problem& p) { p.desc.key.dtype = KFA_DTYPE_INT32; }, {"key.dtype is 3"});
  list.cases.back().status = KFA_ERROR_UNSUPPORTED;
  add("int8_value_without_scales", [](Problem& p) { p.desc.value.dtype = KFA_DTYPE_INT8; },
      {"value_quant is NULL", "int8"});
  static const kfa_quant kQuant{sizeof(kfa_quant), KFA_DTYPE_FP32, floats, nullptr, 0, 0, 0, 0, 0, 0};
  add("scales_of_floats", [](Problem& p) { p.desc.key_quant = &kQuant; }, {"key_quant is set", "fp32"});
  add("head_of_no_whole_blocks", [](Problem& p) { p.desc.key.dtype = KFA_DTYPE_Q8_0; },
      {"16 elements", "multiple of 32", "q8_0"});
  add("odd_stride_of_packed_elements",
      [](Problem& p) {
        p.desc.key.dtype = KFA_DTYPE_INT4;
        p.desc.key.row_stride = 33;
      },
      {"key.row_stride is 33", "even"});
  add("negative_lse_stride", [](Problem& p) { p.desc.lse_row_stride = -1; },
      {"lse_row_stride is -1", "expected"});
  add("lse_rows_share_memory",
      [](Problem& p) {
        p.desc.lse_batch_stride = 20;
        p.desc.lse_head_stride = 4;
        p.desc.lse_row_stride = 1;
      },
      {"lse_head_stride is 4", "at least 5"});
  list.add_data("mla_with_the_default_scale", [](Problem& p) { p.desc.value.data = p.key.data(); },
                {"softmax_scale is 0", "share memory"});
  list.add_data("kv_len_beyond_the_bound",
                [](Problem& p) {
                  ints[0] = 12, ints[1] = 13;
                  p.desc.kv_lens = ints;
                },
                {"kv_lens[1] is 13", "0 to 12"});
  list.add_data("offsets_that_fall",
                [](Problem& p) {
                  ints[0] = 0, ints[1] = 4, ints[2] = 3;
                  p.desc.query_offsets = ints;
                },
                {"query_offsets[2] is 3", "4 or more"});
  list.add_data("a_packed_sequence_beyond_q_len",
                [](Problem& p) {
                  ints[0] = 0, ints[1] = 6, ints[2] = 7;
                  p.desc.query_offsets = ints;
                },
                {"query_offsets[1] - query_offsets[0] is 6", "at most 5"});
  list.add_data("slopes_over_the_output", [](Problem& p) { p.desc.alibi_slopes = p.output.data(); },
                {"output overlaps alibi_slopes"});
  list.add_data("sinks_over_the_lse", [](Problem& p) { p.desc.sinks = p.lse.data(); },
                {"lse overlaps sinks"});
  list.add_data("mask_over_the_output",
                [](Problem& p) {
                  p.desc.mask.kind = KFA_MASK_ADDITIVE;
                  p.desc.mask.data = p.output.data() + 8;
                },
                {"output overlaps mask.data"});
}

struct Unserved {
  const char* label;
  std::function<void(Problem&)> ask;
  const char* named;
};

// Valid, but more than any kernel of this version computes.
std::vector<Unserved> unserved() {
  return {
      {"batch_invariant", [](Problem& p) { p.desc.flags = KFA_FLAG_BATCH_INVARIANT; },
       "KFA_FLAG_BATCH_INVARIANT"},
      {"fast_math", [](Problem& p) { p.desc.flags = KFA_FLAG_FAST_MATH; }, "KFA_FLAG_FAST_MATH"},
      {"pos_device", [](Problem& p) { p.desc.pos_device = ints; }, "pos_device"},
  };
}

TEST(NotServed, IsRefusedByEveryQueryAndNamed) {
  std::fill(std::begin(ints), std::end(ints), 0);
  for (const Unserved& feature : unserved()) {
    SCOPED_TRACE(feature.label);
    Problem problem(kShape);
    feature.ask(problem);
    const auto before = problem.output.snapshot();
    forget_last_error();
    EXPECT_EQ(kfa_attention_supported(&problem.desc), KFA_ERROR_UNSUPPORTED);
    EXPECT_FALSE(contains(kfa_last_error_message(), feature.named)) << "text where none is due";
    expect_refused(kfa_attention_forward(&problem.desc), KFA_ERROR_UNSUPPORTED, {feature.named});
    EXPECT_TRUE(problem.output.snapshot() == before);
    size_t size = 77;
    forget_last_error();
    expect_refused(kfa_attention_workspace_size(&problem.desc, &size), KFA_ERROR_UNSUPPORTED,
                   {feature.named});
    EXPECT_EQ(size, 77u);
    const std::string text = kfa::explain(problem.desc);
    EXPECT_EQ(text.rfind("none", 0), 0u) << text;
    EXPECT_TRUE(contains(text, std::string("does not implement ") + feature.named)) << text;
  }
}

std::vector<BadProblem> bad_problems() {
  List list;
  add_sizes_and_enums(list);
  add_floats(list);
  add_overflows(list);
  add_strides(list);
  add_pointers(list);
  add_overlaps(list);
  add_contradictions(list);
  return list.cases;
}

class BadDescription : public testing::TestWithParam<BadProblem> {};
INSTANTIATE_TEST_SUITE_P(Capi, BadDescription, testing::ValuesIn(bad_problems()), NameOf());

TEST_P(BadDescription, IsRefusedAndWritesNothing) {
  if (GetParam().status == KFA_ERROR_NO_DEVICE) KFA_SKIP_WITH_CUDA();
  // Standard MHA, because it needs a workspace.
  Problem problem(kShape);
  problem.desc.mode = KFA_ATTENTION_MODE_STANDARD;
  problem.bring_workspace();
  GetParam().spoil(problem);
  const auto memory = [&problem] {
    return std::vector<std::vector<uint32_t>>{
        problem.query.snapshot(),  problem.key.snapshot(), problem.value.snapshot(),
        problem.output.snapshot(), problem.lse.snapshot(), problem.workspace.snapshot()};
  };
  const auto before = memory();
  forget_last_error();
  expect_refused(kfa_attention_forward(&problem.desc), GetParam().status, GetParam().message);
  EXPECT_TRUE(memory() == before) << "memory was written";

  if (!GetParam().seen_without_data) return;
  for (kfa_tensor_view* view :
       {&problem.desc.query, &problem.desc.key, &problem.desc.value, &problem.desc.output}) {
    view->data = nullptr;
  }
  size_t size = 77;
  forget_last_error();
  expect_refused(kfa_attention_workspace_size(&problem.desc, &size), GetParam().status,
                 GetParam().message);
  EXPECT_EQ(size, 77u);
  char text[8] = "before";
  forget_last_error();
  expect_refused(kfa_attention_explain(&problem.desc, text, sizeof(text), &size), GetParam().status,
                 GetParam().message);
  EXPECT_EQ(size, 77u);
  EXPECT_STREQ(text, "before");
}

TEST(Description, NullIsRefusedEverywhere) {
  size_t size = 77;
  char text[4] = "old";
  const auto refused = [](kfa_status status) {
    expect_refused(status, KFA_ERROR_INVALID_ARGUMENT, {"desc is NULL", "expected"});
    forget_last_error();
  };
  forget_last_error();
  refused(kfa_attention_desc_init(nullptr));
  refused(kfa_attention_forward(nullptr));
  refused(kfa_attention_workspace_size(nullptr, &size));
  refused(kfa_attention_explain(nullptr, text, sizeof(text), &size));
  refused(kfa_attention_merge(nullptr));
  EXPECT_EQ(size, 77u);
  EXPECT_STREQ(text, "old");
}

TEST(Description, OnlyItsSizeIsReadUntilThatIsRight) {
  // Nothing lies behind the size, which valgrind and sanitizers would see read.
  for (uint32_t size : {0u, 4u, 8u, UINT32_MAX}) {
    const auto alone = std::make_unique<uint32_t>(size);
    const auto* desc = reinterpret_cast<const kfa_attention_desc*>(alone.get());
    size_t bytes = 0;
    const std::string text = "struct_size is " + std::to_string(size);
    expect_refused(kfa_attention_forward(desc), KFA_ERROR_INVALID_ARGUMENT, {text});
    expect_refused(kfa_attention_workspace_size(desc, &bytes), KFA_ERROR_INVALID_ARGUMENT, {text});
    expect_refused(kfa_attention_explain(desc, nullptr, 0, &bytes), KFA_ERROR_INVALID_ARGUMENT,
                   {text});
  }
}

TEST(Description, InitGivesTheDocumentedDefaults) {
  kfa_attention_desc desc;
  std::memset(&desc, 0xab, sizeof(desc));
  ASSERT_EQ(kfa_attention_desc_init(&desc), KFA_OK);
  EXPECT_EQ(desc.struct_size, sizeof(desc));
  EXPECT_EQ(desc.flags, 0u);
  EXPECT_EQ(desc.device, KFA_DEVICE_CPU);
  EXPECT_EQ(desc.device_index, -1);
  EXPECT_EQ(desc.mode, KFA_ATTENTION_MODE_AUTO);
  EXPECT_EQ(desc.is_causal, 1);
  EXPECT_EQ(desc.batch, 1);
  EXPECT_EQ(desc.softmax_scale, 0);
  for (const kfa_tensor_view& view : {desc.query, desc.key, desc.value, desc.output}) {
    EXPECT_EQ(view.dtype, KFA_DTYPE_FP32);
    EXPECT_EQ(view.data, nullptr);
    EXPECT_EQ(view.batch_stride, 0);
  }
  EXPECT_EQ(desc.lse, nullptr);
  EXPECT_EQ(desc.mask.kind, KFA_MASK_NONE);
  EXPECT_EQ(desc.workspace_size, 0u);
}

TEST(Description, FlagsThatAskForNoMoreThanIsDoneAreAccepted) {
  Problem problem(kShape);
  problem.desc.flags = KFA_FLAG_DETERMINISTIC;
  problem.run_and_compare();
}

TEST(Description, AValueHeadDimThatSaysTheSameIsAccepted) {
  Problem problem(kShape);
  problem.desc.value_head_dim = kShape.head_dim;
  problem.run_and_compare();
}
}  // namespace
}  // namespace kfa_test
