// Generates text with the engine, compares its two attentions, or benchmarks them.
#include <iostream>

#include "args.h"
#include "generate.h"
#ifdef KUIPER_USE_FLASH_ATTENTION
#include "benchmark.h"
#include "compare.h"
#include "score_memory.h"
#endif

namespace {
base::Status run(const demo::Args& args, bool& identical) {
  if (args.help) {
    std::cout << demo::kHelp;
    return base::error::Success();
  }
#ifdef KUIPER_USE_FLASH_ATTENTION
  if (!args.memory_probe.empty()) return demo::probe_score_memory(args);
  if (args.benchmark) return demo::benchmark(args);
  if (args.compare) return demo::compare(args, identical);
#else
  (void)identical;
#endif
  return demo::generate_and_print(args);
}
}  // namespace

int main(int argc, char** argv) {
  demo::Args args;
  base::Status usage = demo::parse_args(argc, argv, args);
  if (usage) usage = demo::set_threads(args.threads);
  if (!usage) {
    std::cerr << "llama_infer: " << usage << " (see --help)\n";
    return 2;
  }
  bool identical = true;
  if (const base::Status status = run(args, identical); !status) {
    std::cerr << "llama_infer: " << status << '\n';
    return 1;
  }
  if (!std::cout.flush()) {
    std::cerr << "llama_infer: cannot write to stdout\n";
    return 1;
  }
  return identical ? 0 : 1;
}
