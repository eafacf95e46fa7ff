#ifndef LLAMA_INFER_SCORE_MEMORY_H_
#define LLAMA_INFER_SCORE_MEMORY_H_
#include <cstdint>

#include "args.h"
#include "attention_problem.h"
#include "base/base.h"

namespace demo {
enum class Variant { kStandard, kFlash };

// By how many bytes one attention call, its score storage included, raises the peak memory of a
// process; on CUDA the device's memory in use, as the driver counts it. Measured in a fresh child
// process: this program again, with --memory_probe.
base::Status measure_score_memory(const Args& args, const AttentionShape& shape, Variant variant,
                                  int64_t& bytes);

// The child's side: measures and prints the number.
base::Status probe_score_memory(const Args& args);

// What can be allocated on the device; on the CPU, the kernel's estimate of what can be without
// swapping. 0 where it cannot be read.
int64_t available_memory(base::DeviceType device);
}  // namespace demo
#endif  // LLAMA_INFER_SCORE_MEMORY_H_
