#include "progress.h"

#include <unistd.h>

#include <cstdio>

namespace demo {
Progress::Progress(bool wanted)
    : enabled_(wanted && isatty(STDERR_FILENO)),
      next_(Clock::now() + std::chrono::milliseconds(500)) {}

Progress::~Progress() { wipe(); }

void Progress::show(const std::string& text) {
  if (!enabled_ || Clock::now() < next_) return;
  next_ = Clock::now() + std::chrono::milliseconds(100);
  std::fprintf(stderr, "\r%s\033[K", text.c_str());
  visible_ = true;
}

void Progress::wipe() {
  if (visible_) std::fputs("\r\033[K", stderr);
  visible_ = false;
}
}  // namespace demo
