#include "args.h"

#include <charconv>
#include <functional>
#include <map>
#include <string_view>

namespace demo {
const char* const kHelp =
    R"(usage: llama_infer MODEL.bin TOKENIZER.model [options]   generate text greedily
       llama_infer --benchmark [options]                standard MHA against flash attention

MODEL.bin is a llama2.c float32 checkpoint, TOKENIZER.model its SentencePiece tokenizer.

Generating:
  --attention=auto|flash|standard  auto (default) is flash, or standard where flash cannot serve
  --prompt=TEXT                    text to continue; the default is none
  --prompt_ids=1,2,3               the same as token ids, which follow BOS
  --steps=N                        tokens to generate at most (default 256)
  --prefill_chunk=N                prompt tokens that one call takes (default 1)
  --ignore_eos                     do not stop at the end-of-sequence token
  --ids                            print token ids instead of text
  --compare                        run flash and standard, compare text, time and memory

Benchmark:
  --seq_lengths=512,1024,2048,4096
  --heads=32 --kv_heads=8 --head_dim=128
  --repeats=N                      timed calls of each kernel (default: by time, at least 3)

Both:
  --device=cpu|cuda                default cpu
  --threads=N                      threads for attention on the CPU
  --json                           one JSON object on stdout
  --help

Exit status: 0 success, 1 failure or (--compare) a difference, 2 wrong usage.
)";

namespace {
base::Status bad_value(std::string_view name, std::string_view value, const std::string& expected) {
  return base::error::InvalidArgument(std::string(name) + "=" + std::string(value) + ": expected " +
                                      expected);
}

struct Range {
  int32_t min;
  int32_t max = INT32_MAX;

  std::string words() const {
    return "of at least " + std::to_string(min) +
           (max < INT32_MAX ? " and at most " + std::to_string(max) : "");
  }
};

// A whole decimal number.
bool parse_int(std::string_view text, Range range, int32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= range.min &&
         value <= range.max;
}

bool parse_list(std::string_view text, Range range, std::vector<int32_t>& values) {
  values.clear();
  for (;;) {
    const size_t comma = text.find(',');
    if (!parse_int(text.substr(0, comma), range, values.emplace_back())) return false;
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

using Setter = std::function<base::Status(std::string_view name, std::string_view value)>;

Setter number(int32_t& target, Range range) {
  return [&target, range](std::string_view name, std::string_view value) {
    if (parse_int(value, range, target)) return base::error::Success();
    return bad_value(name, value, "a whole number " + range.words());
  };
}

Setter list(std::vector<int32_t>& target, Range range) {
  return [&target, range](std::string_view name, std::string_view value) {
    if (parse_list(value, range, target)) return base::error::Success();
    return bad_value(name, value, "whole numbers " + range.words() + ", with commas between");
  };
}

Setter text(std::string& target) {
  return [&target](std::string_view, std::string_view value) {
    target = value;
    return base::error::Success();
  };
}

template <typename Enum>
Setter choice(Enum& target, std::map<std::string_view, Enum> choices) {
  return [&target, choices = std::move(choices)](std::string_view name, std::string_view value) {
    if (const auto found = choices.find(value); found != choices.end()) {
      target = found->second;
      return base::error::Success();
    }
    std::string expected;
    for (const auto& [word, unused] : choices) {
      expected += (expected.empty() ? "" : " or ") + std::string(word);
    }
    return bad_value(name, value, expected);
  };
}

base::Status usage(const std::string& message) { return base::error::InvalidArgument(message); }

base::Status check_combination(const Args& args) {
  if (args.help || !args.memory_probe.empty()) return base::error::Success();
  if (!has_flash_attention() &&
      (args.attention == Attention::kFlash || args.compare || args.benchmark)) {
    return usage("this build has no flash attention (USE_FLASH_ATTENTION=OFF)");
  }
  if (args.benchmark) {
    if (args.compare || !args.model_path.empty()) {
      return usage("--benchmark takes no files and no --compare");
    }
    if (args.heads % args.kv_heads != 0) return usage("--heads must be a multiple of --kv_heads");
  } else if (args.tokenizer_path.empty()) {
    return usage("expected a model and a tokenizer");
  }
  if (!args.prompt.empty() && !args.prompt_ids.empty()) {
    return usage("--prompt and --prompt_ids exclude each other");
  }
  if (args.compare && args.attention != Attention::kAuto) {
    return usage("--compare runs both attentions, leave --attention out");
  }
  if (!has_flash_attention() && args.threads != 0) {
    return usage("--threads: the engine's own attention has one thread");
  }
  return base::error::Success();
}
}  // namespace

base::Status parse_args(int argc, char** argv, Args& args) {
  const std::map<std::string_view, bool*> flags = {
      {"--help", &args.help},       {"--json", &args.json},
      {"--ids", &args.ids},         {"--ignore_eos", &args.ignore_eos},
      {"--compare", &args.compare}, {"--benchmark", &args.benchmark},
  };
  const std::map<std::string_view, Setter> options = {
      {"--attention", choice<Attention>(args.attention, {{"auto", Attention::kAuto},
                                                         {"flash", Attention::kFlash},
                                                         {"standard", Attention::kStandard}})},
      {"--device",
       choice<base::DeviceType>(args.device, {{"cpu", base::DeviceType::kDeviceCPU},
                                              {"cuda", base::DeviceType::kDeviceCUDA}})},
      {"--prompt", text(args.prompt)},
      {"--prompt_ids", list(args.prompt_ids, {0})},
      {"--steps", number(args.steps, {1})},
      {"--prefill_chunk", number(args.prefill_chunk, {1})},
      {"--threads", number(args.threads, {1})},
      // These limits keep the sizes of the benchmark inside 64 bits.
      {"--seq_lengths", list(args.seq_lengths, {1, 1 << 24})},
      {"--heads", number(args.heads, {1, 1024})},
      {"--kv_heads", number(args.kv_heads, {1, 1024})},
      {"--head_dim", number(args.head_dim, {1, 4096})},
      {"--repeats", number(args.repeats, {1})},
      {"--memory_probe", text(args.memory_probe)},
  };
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const size_t equals = arg.find('=');
    const std::string_view name = arg.substr(0, equals);
    if (arg.rfind("--", 0) != 0) {
      std::string& path = args.model_path.empty() ? args.model_path : args.tokenizer_path;
      if (arg.empty() || !path.empty())
        return usage("unexpected argument '" + std::string(arg) + "'");
      path = arg;
    } else if (const auto flag = flags.find(name); flag != flags.end()) {
      if (equals != std::string_view::npos) return usage(std::string(name) + " takes no value");
      *flag->second = true;
    } else if (const auto option = options.find(name); option != options.end()) {
      if (equals == std::string_view::npos) {
        return usage(std::string(name) + " needs a value: " + std::string(name) + "=…");
      }
      RETURN_IF_ERROR(option->second(name, arg.substr(equals + 1)));
    } else {
      return usage("unknown option " + std::string(name));
    }
  }
  return check_combination(args);
}
}  // namespace demo
