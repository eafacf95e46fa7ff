#include "format.h"

#include <cstdarg>
#include <cstdio>

namespace demo {
std::string format(const char* pattern, ...) {
  char text[512];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof text, pattern, values);
  va_end(values);
  return text;
}

std::string format_bytes(int64_t bytes) {
  if (bytes < 1024) return format("%lld B", static_cast<long long>(bytes));
  double value = static_cast<double>(bytes) / 1024;
  const char* unit = "KiB";
  for (const char* larger : {"MiB", "GiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = larger;
  }
  return format("%.*f %s", value < 10 ? 2 : 1, value, unit);
}
}  // namespace demo
