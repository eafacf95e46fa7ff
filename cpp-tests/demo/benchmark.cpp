#include "benchmark.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>

#include "attention_problem.h"
#include "base/cuda.h"
#include "format.h"
#include "json.h"
#include "progress.h"
#include "score_memory.h"

namespace demo {
namespace {
// What is known of one kernel on one shape.
struct Measurement {
  double milliseconds = 0;
  int64_t score_bytes = 0;
  AttentionError against_float64;
  std::string kernel;
};

struct Row {
  AttentionShape shape;
  Measurement flash;
  std::optional<Measurement> standard;  // absent where its scores do not fit into memory
  std::string skipped;                  // and why
  AttentionError against_standard;
  int32_t repeats = 0;
};

const char* phase_name(Phase phase) { return phase == Phase::kDecode ? "decode" : "prefill"; }

double median(std::vector<double> values) {
  const auto middle = values.begin() + values.size() / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

using Config = std::shared_ptr<kernel::CudaConfig>;  // nullptr on the CPU

// Times one more call. On CUDA a sample is the mean of some calls (a millisecond of them, at most
// 20) that are enqueued back to back, as an engine's are: that hides what launching them takes.
template <typename Call>
void sample(const Config& config, std::vector<double>& milliseconds, Call call) {
  if (config) {
    const double calls =
        milliseconds.empty() ? 1 : std::clamp(std::floor(1 / milliseconds.back()), 1.0, 20.0);
    base::CudaTimer timer;
    timer.start(config->stream);
    for (int i = 0; i < calls; ++i) call();
    timer.stop(config->stream);
    milliseconds.push_back(timer.seconds() * 1e3 / calls);
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  call();
  const auto elapsed = std::chrono::steady_clock::now() - start;
  milliseconds.push_back(std::chrono::duration<double, std::milli>(elapsed).count());
}

// Where `bytes` would take most of the memory, says so.
std::string memory_shortage(const Args& args, const char* what, int64_t bytes) {
  const int64_t available = available_memory(args.device);
  if (bytes <= available / 10 * 6) return "";
  return std::string(what) + " need " + format_bytes(bytes) + ", " + format_bytes(available) +
         " are available";
}

// Times flash and standard in turn, so that both see the same machine.
base::Status time_kernels(const Args& args, const Config& config, Row& row, Progress& progress) {
  AttentionProblem problem(row.shape, config);
  const bool with_standard = row.standard.has_value();
  const tensor::Tensor score_storage =
      with_standard ? problem.make_score_storage() : tensor::Tensor();
  if (!problem.allocated() || (with_standard && score_storage.is_empty())) {
    return base::error::InternalError("not enough memory for the benchmark's tensors");
  }
  problem.run_flash();
  RETURN_IF_ERROR(problem.finish());
  row.flash.kernel = last_kernel_name();
  row.flash.against_float64 = problem.flash_against_float64();
  if (with_standard) {
    problem.run_standard(score_storage);
    RETURN_IF_ERROR(problem.finish());
    row.standard->kernel = last_kernel_name();
    row.standard->against_float64 = problem.standard_against_float64();
    row.against_standard = problem.flash_against_standard();
  }
  if (std::isnan(row.flash.against_float64.max_abs) || std::isnan(row.against_standard.max_abs)) {
    return base::error::InternalError("a kernel left its output unwritten or wrote NaN");
  }

  // By time: half a second of each, but at least 3 calls and at most 200.
  constexpr double kEnoughMilliseconds = 500;
  std::vector<double> flash_times, standard_times;
  double flash_sum = 0;
  const auto enough = [&] {
    const int32_t count = static_cast<int32_t>(flash_times.size());
    if (args.repeats > 0) return count >= args.repeats;
    return count >= 200 || (count >= 3 && flash_sum >= kEnoughMilliseconds);
  };
  while (!enough()) {
    progress.show(format("%s, seq_len %d: repeat %zu", phase_name(row.shape.phase),
                         row.shape.seq_len, flash_times.size() + 1));
    sample(config, flash_times, [&] { problem.run_flash(); });
    flash_sum += flash_times.back();
    if (with_standard) {
      sample(config, standard_times, [&] { problem.run_standard(score_storage); });
    }
  }
  RETURN_IF_ERROR(problem.finish());
  row.repeats = static_cast<int32_t>(flash_times.size());
  row.flash.milliseconds = median(std::move(flash_times));
  if (with_standard) row.standard->milliseconds = median(std::move(standard_times));
  return base::error::Success();
}

base::Status measure(const Args& args, const Config& config, Row& row, Progress& progress) {
  const int64_t inputs = row.shape.input_and_output_bytes();
  if (const std::string shortage = memory_shortage(args, "inputs and outputs", inputs);
      !shortage.empty()) {
    return base::error::InvalidArgument(
        format("%s, seq_len %d: ", phase_name(row.shape.phase), row.shape.seq_len) + shortage);
  }
  row.skipped = memory_shortage(args, "standard skipped: its scores with the inputs",
                                inputs + row.shape.score_bytes());
  if (row.skipped.empty()) row.standard.emplace();
  progress.show(format("%s, seq_len %d: memory", phase_name(row.shape.phase), row.shape.seq_len));
  RETURN_IF_ERROR(measure_score_memory(args, row.shape, Variant::kFlash, row.flash.score_bytes));
  if (row.standard) {
    RETURN_IF_ERROR(
        measure_score_memory(args, row.shape, Variant::kStandard, row.standard->score_bytes));
  }
  return time_kernels(args, config, row, progress);
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0)
      return line.substr(std::min(line.find(':') + 2, line.size()));
  }
  return "unknown";
}

bool on_cuda(const Args& args) { return args.device == base::DeviceType::kDeviceCUDA; }

std::string processor(const Args& args) {
  if (on_cuda(args)) return base::cuda_device_name();
  return format("%s, %d threads", cpu_model().c_str(), thread_count());
}

void print_heading(const Args& args) {
  std::cout << "standard MHA against flash attention, fp32 causal, " << args.heads << " heads, "
            << args.kv_heads << " KV heads, head_dim " << args.head_dim << "\n"
            << processor(args) << ", library " << library_version()
            << "\nms: median of alternating calls; score memory: measured growth of "
            << (on_cuda(args) ? "the device memory in use,\nin the driver's steps of 2 MiB"
                              : "a process's peak")
            << ";\nerror: max abs / relative (norm), of flash against standard and against "
               "float64\n\n"
            << format("%-8s %7s %12s %10s %8s %12s %12s %7s %19s %19s\n", "phase", "seq_len",
                      "standard ms", "flash ms", "speed-up", "standard mem", "flash mem", "saved",
                      "error to standard", "error to float64")
            << std::flush;
}

std::string error_cell(const AttentionError& error) {
  return format("%.1e / %.1e", error.max_abs, error.relative);
}

// Nothing was saved of nothing: the driver hands out device memory in large steps.
std::string saved(int64_t standard_bytes, int64_t flash_bytes) {
  if (standard_bytes <= 0) return "-";
  return format("%.1f%%", 100.0 - 100.0 * flash_bytes / standard_bytes);
}

void print_row(const Row& row) {
  const bool both = row.standard.has_value();
  const auto cell = [&](const std::string& text) { return both ? text : std::string("-"); };
  const Measurement standard = row.standard.value_or(Measurement());
  std::cout << format("%-8s %7d %12s %10.3f %8s %12s %12s %7s %19s %19s\n",
                      phase_name(row.shape.phase), row.shape.seq_len,
                      cell(format("%.3f", standard.milliseconds)).c_str(), row.flash.milliseconds,
                      cell(format("%.2fx", standard.milliseconds / row.flash.milliseconds)).c_str(),
                      cell(format_bytes(standard.score_bytes)).c_str(),
                      format_bytes(row.flash.score_bytes).c_str(),
                      cell(saved(standard.score_bytes, row.flash.score_bytes)).c_str(),
                      cell(error_cell(row.against_standard)).c_str(),
                      error_cell(row.flash.against_float64).c_str());
  if (!both) std::cout << "         " << row.skipped << '\n';
  std::cout << std::flush;
}

JsonObject to_json(const AttentionError& error) {
  return JsonObject().add("max_abs", error.max_abs).add("relative", error.relative);
}

JsonObject to_json(const Measurement& measurement) {
  return JsonObject()
      .add("kernel", measurement.kernel)
      .add("median_ms", measurement.milliseconds)
      .add("peak_score_bytes", measurement.score_bytes)
      .add("error_to_float64", to_json(measurement.against_float64));
}

JsonObject to_json(const Row& row) {
  JsonObject json;
  json.add("phase", phase_name(row.shape.phase))
      .add("seq_len", int64_t{row.shape.seq_len})
      .add("q_len", int64_t{row.shape.q_len()})
      .add("repeats", int64_t{row.repeats})
      .add("flash", to_json(row.flash));
  if (!row.standard) return json.add_null("standard").add("skipped", row.skipped);
  return json.add("standard", to_json(*row.standard))
      .add("speedup", row.standard->milliseconds / row.flash.milliseconds)
      .add("error_to_standard", to_json(row.against_standard));
}
}  // namespace

base::Status benchmark(const Args& args) {
  // The mode refuses a fallback: the table must not compare the standard kernel with itself.
  model::AttentionPath unused;
  RETURN_IF_ERROR(select_attention(Attention::kFlash, unused));
  Config config;
  if (on_cuda(args)) RETURN_IF_ERROR(base::create_cuda_config(config));
  if (!args.json) print_heading(args);
  Progress progress;
  std::vector<JsonObject> rows;
  for (Phase phase : {Phase::kDecode, Phase::kPrefill}) {
    for (int32_t seq_len : args.seq_lengths) {
      Row row{{args.heads, args.kv_heads, args.head_dim, seq_len, phase}, {}, {}, {}, {}, 0};
      RETURN_IF_ERROR(measure(args, config, row, progress));
      progress.wipe();
      if (args.json) {
        rows.push_back(to_json(row));
      } else {
        print_row(row);
      }
    }
  }
  if (args.json) {
    std::cout << JsonObject()
                     .add("mode", "benchmark")
                     .add("device", base::DeviceName(args.device))
                     .add("processor", on_cuda(args) ? base::cuda_device_name() : cpu_model())
                     .add("threads", int64_t{thread_count()})
                     .add("library_version", library_version())
                     .add("heads", int64_t{args.heads})
                     .add("kv_heads", int64_t{args.kv_heads})
                     .add("head_dim", int64_t{args.head_dim})
                     .add("rows", rows)
                     .str()
              << '\n';
  }
  return base::error::Success();
}
}  // namespace demo
