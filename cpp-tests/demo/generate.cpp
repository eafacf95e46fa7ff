#include "generate.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>

#include "format.h"
#include "progress.h"

namespace demo {
namespace {
double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

base::Status prompt_tokens(const Args& args, const model::LlamaModel& llama,
                           std::vector<int32_t>& ids) {
  ids = args.prompt_ids;
  if (!args.prompt.empty()) RETURN_IF_ERROR(llama.tokenizer().encode(args.prompt, ids));
  ids.insert(ids.begin(), llama.tokenizer().bos());
  const size_t limit = llama.config().seq_len_;
  if (ids.size() <= limit) return base::error::Success();
  return base::error::InvalidArgument("the prompt has " + std::to_string(ids.size()) +
                                      " tokens with BOS, the model's context " +
                                      std::to_string(limit));
}
}  // namespace

base::Status generate(const Args& args, Attention attention, const OnToken& on_token,
                      Generation& result) {
  model::AttentionPath path;
  RETURN_IF_ERROR(select_attention(attention, path));
  model::LlamaModel llama(args.tokenizer_path, args.model_path, path, args.prefill_chunk);
  RETURN_IF_ERROR(llama.init(args.device));
  const op::EncodeLayer& tokenizer = llama.tokenizer();

  std::vector<int32_t> prompt;
  RETURN_IF_ERROR(prompt_tokens(args, llama, prompt));
  result.prompt_tokens = static_cast<int32_t>(prompt.size());
  const auto accept = [&](int32_t id) {
    result.ids.push_back(id);
    if (!on_token) return;
    std::string text = tokenizer.decode(id);
    // SentencePiece puts a space before the first word.
    if (result.ids.size() == 2 && text.rfind(' ', 0) == 0) text.erase(0, 1);
    on_token(id, text);
  };

  // Untimed: the first call starts the thread pool and reads the weights from disk.
  int32_t next = 0;
  RETURN_IF_ERROR(llama.forward({prompt[0]}, 0, next));
  const double warm_up_attention = llama.attention_seconds();
  const auto start = std::chrono::steady_clock::now();

  const int32_t chunk = std::min(args.prefill_chunk, result.prompt_tokens);
  for (int32_t pos = 0; pos < result.prompt_tokens; pos += chunk) {
    const int32_t end = std::min(pos + chunk, result.prompt_tokens);
    RETURN_IF_ERROR(llama.forward({prompt.begin() + pos, prompt.begin() + end}, pos, next));
    std::for_each(prompt.begin() + pos, prompt.begin() + end, accept);
  }
  result.prompt_seconds = seconds_since(start);

  for (result.stopped = "steps"; result.generated() < args.steps;) {
    if (!args.ignore_eos && (next == tokenizer.bos() || next == tokenizer.eos())) {
      result.stopped = "end of sequence";
      break;
    }
    accept(next);
    const int32_t pos = static_cast<int32_t>(result.ids.size()) - 1;
    if (pos == llama.config().seq_len_) {
      result.stopped = "context full";
      break;
    }
    if (result.generated() < args.steps) RETURN_IF_ERROR(llama.forward({next}, pos, next));
  }
  result.seconds = seconds_since(start);
  result.attention_seconds = llama.attention_seconds() - warm_up_attention;
  result.score_storage_bytes = llama.score_storage_bytes();
  result.kernel = last_kernel_name();
  result.text = tokenizer.decode(result.ids);
  return base::error::Success();
}

base::Status generate_and_print(const Args& args) {
  // Text that streams to a terminal shows the progress itself.
  const bool streams = !args.json;
  Progress progress(!(streams && isatty(STDOUT_FILENO)));
  Generation result;
  int32_t count = 0;
  RETURN_IF_ERROR(generate(
      args, args.attention,
      [&](int32_t id, const std::string& text) {
        progress.show("token " + std::to_string(++count));
        if (!streams) return;
        if (args.ids) {
          std::cout << (count > 1 ? " " : "") << id << std::flush;
        } else {
          std::cout << text << std::flush;
        }
      },
      result));
  progress.wipe();

  if (args.json) {
    std::cout << to_json(result)
                     .add("mode", "generate")
                     .add("device", base::DeviceName(args.device))
                     .add("threads", int64_t{thread_count()})
                     .add("library_version", library_version())
                     .str()
              << '\n';
    return base::error::Success();
  }
  std::cout << '\n' << std::flush;
  std::cerr << format("\ngenerated %d tokens in %.3f s: %.1f tokens/s (stopped: %s)\n",
                      result.generated(), result.seconds, result.tokens_per_second(),
                      result.stopped.c_str())
            << format("prompt: %d tokens in %.1f ms\n", result.prompt_tokens,
                      result.prompt_seconds * 1e3)
            << format("attention: %.1f ms, score storage: %s\n", result.attention_seconds * 1e3,
                      format_bytes(result.score_storage_bytes).c_str())
            << "attention kernel: " << result.kernel << '\n';
  return base::error::Success();
}

JsonObject to_json(const Generation& generation) {
  JsonObject json;
  json.add("text", generation.text)
      .add("ids", generation.ids)
      .add("prompt_tokens", int64_t{generation.prompt_tokens})
      .add("generated_tokens", int64_t{generation.generated()})
      .add("stopped", generation.stopped)
      .add("seconds", generation.seconds)
      .add("prompt_seconds", generation.prompt_seconds)
      .add("tokens_per_second", generation.tokens_per_second())
      .add("attention_seconds", generation.attention_seconds)
      .add("score_storage_bytes", static_cast<int64_t>(generation.score_storage_bytes))
      .add("kernel", generation.kernel);
  return json;
}
}  // namespace demo
