#ifndef LLAMA_INFER_BENCHMARK_H_
#define LLAMA_INFER_BENCHMARK_H_
#include "args.h"
#include "base/base.h"

namespace demo {
// Prints the table of standard MHA against flash attention, for decode and for prefill.
base::Status benchmark(const Args& args);
}  // namespace demo
#endif  // LLAMA_INFER_BENCHMARK_H_
