#ifndef HOSTS_BASE_ATTENTION_TYPE_H_
#define HOSTS_BASE_ATTENTION_TYPE_H_
#include <cstdint>

namespace base {
enum class AttentionType : uint8_t { kAttentionMHA = 0, kAttentionFlash1 = 1, kAttentionFlash2 = 2 };
}  // namespace base
#endif  // HOSTS_BASE_ATTENTION_TYPE_H_
