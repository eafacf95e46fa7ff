#include "attention_library.h"

#ifdef KUIPER_USE_FLASH_ATTENTION
#include "kuiper_flash_attention/kfa.h"

namespace demo {
namespace {
base::Status to_status(kfa_status status) {
  if (status == KFA_OK) return base::error::Success();
  return base::error::InvalidArgument(kfa_last_error_message());
}
}  // namespace

bool has_flash_attention() { return true; }

base::Status select_attention(Attention attention, model::AttentionPath& path) {
  path = attention == Attention::kStandard ? model::AttentionPath::kStandard
                                           : model::AttentionPath::kFlash;
  switch (attention) {
    case Attention::kFlash:
      return to_status(kfa_set_attention_mode(KFA_ATTENTION_MODE_FLASH));
    case Attention::kStandard:
      return to_status(kfa_set_attention_mode(KFA_ATTENTION_MODE_STANDARD));
    default:
      return to_status(kfa_set_attention_mode(KFA_ATTENTION_MODE_AUTO));
  }
}

base::Status set_threads(int32_t threads) {
  return threads == 0 ? base::error::Success() : to_status(kfa_set_num_threads(threads));
}

int32_t thread_count() { return kfa_get_num_threads(); }
std::string last_kernel_name() { return kfa_last_kernel_name(); }
std::string library_version() { return kfa_version_string(); }
}  // namespace demo

#else

namespace demo {
bool has_flash_attention() { return false; }

base::Status select_attention(Attention, model::AttentionPath& path) {
  path = model::AttentionPath::kStandard;
  return base::error::Success();
}

base::Status set_threads(int32_t) { return base::error::Success(); }
int32_t thread_count() { return 1; }
std::string last_kernel_name() { return "kuiper.mha_kernel"; }
std::string library_version() { return "none"; }
}  // namespace demo
#endif
