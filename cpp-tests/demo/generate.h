#ifndef LLAMA_INFER_GENERATE_H_
#define LLAMA_INFER_GENERATE_H_
#include <functional>
#include <string>
#include <vector>

#include "args.h"
#include "base/base.h"
#include "json.h"

namespace demo {
struct Generation {
  std::vector<int32_t> ids;   // BOS, the prompt, the generated tokens
  int32_t prompt_tokens = 0;  // BOS included
  std::string text;
  std::string stopped;
  double prompt_seconds = 0;
  double seconds = 0;  // the prompt's included
  double attention_seconds = 0;
  size_t score_storage_bytes = 0;
  std::string kernel;

  int32_t generated() const { return static_cast<int32_t>(ids.size()) - prompt_tokens; }
  double tokens_per_second() const { return generated() / seconds; }
};

// Called with every token, prompt included, and its text.
using OnToken = std::function<void(int32_t id, const std::string& text)>;

// Runs the model once; `on_token` may be empty.
base::Status generate(const Args& args, Attention attention, const OnToken& on_token,
                      Generation& result);

// Generates and prints: the product to stdout, the facts to stderr (or all as JSON to stdout).
base::Status generate_and_print(const Args& args);

JsonObject to_json(const Generation& generation);
}  // namespace demo
#endif  // LLAMA_INFER_GENERATE_H_
