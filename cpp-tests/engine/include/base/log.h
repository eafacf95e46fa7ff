#ifndef KUIPER_BASE_LOG_H_
#define KUIPER_BASE_LOG_H_
// LOG(ERROR) << "…" writes one line to stderr when the statement ends; LOG(FATAL) then aborts.
// The spelling is glog's, so that code written for engines which use glog compiles unchanged.
#include <cstdlib>
#include <iostream>
#include <sstream>

namespace base {
enum class LogSeverity { INFO, WARNING, ERROR, FATAL };

class LogLine {
 public:
  explicit LogLine(LogSeverity severity) : severity_(severity) {
    static const char* const kNames[] = {"info", "warning", "error", "fatal"};
    line_ << kNames[static_cast<int>(severity)] << ": ";
  }
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  ~LogLine() {
    line_ << '\n';
    std::cerr << line_.str() << std::flush;
    if (severity_ == LogSeverity::FATAL) std::abort();
  }

  std::ostream& stream() { return line_; }

 private:
  LogSeverity severity_;
  std::ostringstream line_;
};
}  // namespace base

#define LOG(severity) ::base::LogLine(::base::LogSeverity::severity).stream()

// For programming errors only; what a user can cause is reported through base::Status.
#define CHECK(condition) \
  while (!(condition)) LOG(FATAL) << "check failed: " #condition " "

#endif  // KUIPER_BASE_LOG_H_
