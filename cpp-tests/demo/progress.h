#ifndef LLAMA_INFER_PROGRESS_H_
#define LLAMA_INFER_PROGRESS_H_
#include <chrono>
#include <string>

namespace demo {
// One line on stderr that is rewritten while work goes on and wiped when it ends. It shows only
// on a terminal, and only once the work has taken half a second.
class Progress {
 public:
  explicit Progress(bool wanted = true);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(const std::string& text);
  // Makes room for a line of the product.
  void wipe();

 private:
  using Clock = std::chrono::steady_clock;
  bool enabled_;
  bool visible_ = false;
  Clock::time_point next_;
};
}  // namespace demo
#endif  // LLAMA_INFER_PROGRESS_H_
