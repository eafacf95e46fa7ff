#ifndef LLAMA_INFER_FORMAT_H_
#define LLAMA_INFER_FORMAT_H_
#include <cstdint>
#include <string>

namespace demo {
// printf into a string.
__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...);

// "0 B", "16.0 KiB", "2.00 GiB".
std::string format_bytes(int64_t bytes);
}  // namespace demo
#endif  // LLAMA_INFER_FORMAT_H_
