#ifndef LLAMA_INFER_COMPARE_H_
#define LLAMA_INFER_COMPARE_H_
#include "args.h"
#include "base/base.h"

namespace demo {
// Generates through flash and through standard attention and prints both side by side.
// `identical` says whether every token is the same.
base::Status compare(const Args& args, bool& identical);
}  // namespace demo
#endif  // LLAMA_INFER_COMPARE_H_
