#ifndef LLAMA_INFER_ATTENTION_LIBRARY_H_
#define LLAMA_INFER_ATTENTION_LIBRARY_H_
#include <cstdint>
#include <string>

#include "base/base.h"
#include "model/llama.h"

// What the demo asks of the flash attention library, and what it answers in a build without.
namespace demo {
enum class Attention { kAuto, kFlash, kStandard };

bool has_flash_attention();

// Tells the library which attention may run, and gives the layer that the model should hold.
base::Status select_attention(Attention attention, model::AttentionPath& path);

// 0 leaves the library's default.
base::Status set_threads(int32_t threads);
int32_t thread_count();

// The kernel that served this thread's last attention call.
std::string last_kernel_name();
std::string library_version();
}  // namespace demo
#endif  // LLAMA_INFER_ATTENTION_LIBRARY_H_
