#ifndef LLAMA_INFER_ARGS_H_
#define LLAMA_INFER_ARGS_H_
#include <cstdint>
#include <string>
#include <vector>

#include "attention_library.h"
#include "base/base.h"

namespace demo {
struct Args {
  bool help = false;
  bool json = false;
  int32_t threads = 0;  // 0: the library's default

  std::string model_path;
  std::string tokenizer_path;
  Attention attention = Attention::kAuto;
  base::DeviceType device = base::DeviceType::kDeviceCPU;
  std::string prompt;
  std::vector<int32_t> prompt_ids;
  int32_t steps = 256;
  int32_t prefill_chunk = 1;
  bool ignore_eos = false;
  bool ids = false;
  bool compare = false;

  bool benchmark = false;
  std::vector<int32_t> seq_lengths = {512, 1024, 2048, 4096};
  int32_t heads = 32;
  int32_t kv_heads = 8;
  int32_t head_dim = 128;
  int32_t repeats = 0;       // 0: by time
  std::string memory_probe;  // what a child process of the benchmark measures
};

extern const char* const kHelp;

// The error is one line for the user.
base::Status parse_args(int argc, char** argv, Args& args);
}  // namespace demo
#endif  // LLAMA_INFER_ARGS_H_
