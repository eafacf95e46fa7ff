#include "score_memory.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "base/cuda.h"

extern char** environ;

namespace demo {
namespace {
// A field of a /proc file that is given in kB; 0 where it is missing.
int64_t proc_bytes(const char* path, const std::string& field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::atoll(line.c_str() + field.size() + 1) * 1024;
  }
  return 0;
}

// Brings every page of the program and its libraries into memory, where the kernel can
// (Linux 5.14).
void load_mapped_files() {
  std::ifstream maps("/proc/self/maps");
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin, end;
    char readable;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %c", &begin, &end, &readable) == 3 &&
        readable == 'r' && line.find(" /") != std::string::npos) {
      ranges.emplace_back(begin, end);
    }
  }
  for (const auto& [begin, end] : ranges) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
  }
}

std::string probe_name(Variant variant, Phase phase) {
  return std::string(variant == Variant::kFlash ? "flash" : "standard") +
         (phase == Phase::kDecode ? ":decode" : ":prefill");
}

base::Status parse_probe(const std::string& name, Variant& variant, Phase& phase) {
  for (Variant v : {Variant::kStandard, Variant::kFlash}) {
    for (Phase p : {Phase::kDecode, Phase::kPrefill}) {
      if (name != probe_name(v, p)) continue;
      variant = v;
      phase = p;
      return base::error::Success();
    }
  }
  return base::error::InvalidArgument("--memory_probe=" + name + " is for the benchmark's own use");
}

// Returns the score storage, so that it still counts when the peak is read.
tensor::Tensor run_once(AttentionProblem& problem, Variant variant) {
  tensor::Tensor score_storage;
  if (variant == Variant::kFlash) {
    problem.run_flash();
  } else {
    score_storage = problem.make_score_storage();
    problem.run_standard(score_storage);
  }
  return score_storage;
}

base::Status not_enough_memory() {
  return base::error::InternalError("not enough memory for the inputs");
}

// The same call on another stream first: the code that it loads is no score memory, while buffers
// of the library belong to a stream and are made again. What the first call took is kept until the
// end, because memory that is given back and taken again would not show.
base::Status probe_cuda(const AttentionShape& shape, Variant variant) {
  std::shared_ptr<kernel::CudaConfig> first, second;
  RETURN_IF_ERROR(base::create_cuda_config(first));
  RETURN_IF_ERROR(base::create_cuda_config(second));
  AttentionProblem problem(shape, first);
  if (!problem.allocated()) return not_enough_memory();
  const tensor::Tensor first_storage = run_once(problem, variant);
  RETURN_IF_ERROR(problem.finish());

  problem.set_config(second);
  const size_t before = base::cuda_free_memory();
  const tensor::Tensor score_storage = run_once(problem, variant);
  RETURN_IF_ERROR(problem.finish());
  std::cout << static_cast<int64_t>(before - base::cuda_free_memory()) << '\n';
  return base::error::Success();
}

base::Status system_error(const char* what, int error) {
  return base::error::InternalError(std::string(what) + ": " + strerror(error));
}
}  // namespace

int64_t available_memory(base::DeviceType device) {
  if (device == base::DeviceType::kDeviceCUDA) return base::cuda_free_memory();
  return proc_bytes("/proc/meminfo", "MemAvailable");
}

base::Status probe_score_memory(const Args& args) {
  // A benchmark that is killed must not leave this process behind.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Variant variant = Variant::kStandard;
  AttentionShape shape{args.heads, args.kv_heads, args.head_dim, args.seq_lengths[0],
                       Phase::kDecode};
  RETURN_IF_ERROR(parse_probe(args.memory_probe, variant, shape.phase));

  model::AttentionPath unused;
  RETURN_IF_ERROR(select_attention(Attention::kFlash, unused));
  if (args.device == base::DeviceType::kDeviceCUDA) return probe_cuda(shape, variant);
  // A tiny call first, and the code read from disk: neither starting threads nor loading code is
  // score memory.
  AttentionShape tiny = shape;
  tiny.seq_len = 2;
  AttentionProblem warm_up(tiny, nullptr);
  AttentionProblem problem(shape, nullptr);
  if (!warm_up.allocated() || !problem.allocated()) {
    return not_enough_memory();
  }
  run_once(warm_up, variant);
  load_mapped_files();
  proc_bytes("/proc/self/status", "VmHWM");

  std::ofstream clear_refs("/proc/self/clear_refs");
  if (!(clear_refs << '5' << std::flush)) {
    return base::error::InternalError("cannot reset the peak memory in /proc/self/clear_refs");
  }
  const int64_t before = proc_bytes("/proc/self/status", "VmHWM");
  const tensor::Tensor score_storage = run_once(problem, variant);
  std::cout << proc_bytes("/proc/self/status", "VmHWM") - before << '\n';
  return base::error::Success();
}

base::Status measure_score_memory(const Args& args, const AttentionShape& shape, Variant variant,
                                  int64_t& bytes) {
  std::vector<std::string> words = {
      "llama_infer",
      "--memory_probe=" + probe_name(variant, shape.phase),
      "--seq_lengths=" + std::to_string(shape.seq_len),
      "--heads=" + std::to_string(shape.heads),
      "--kv_heads=" + std::to_string(shape.kv_heads),
      "--head_dim=" + std::to_string(shape.head_dim),
      std::string("--device=") + base::DeviceName(args.device),
  };
  if (args.threads != 0) words.push_back("--threads=" + std::to_string(args.threads));
  std::vector<char*> child_argv;
  for (std::string& word : words) child_argv.push_back(word.data());
  child_argv.push_back(nullptr);

  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return system_error("pipe", errno);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  pid_t child;
  const int error =
      posix_spawn(&child, "/proc/self/exe", &actions, nullptr, child_argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe_ends[1]);

  std::string answer;
  char buffer[64];
  for (ssize_t count; error == 0 && (count = read(pipe_ends[0], buffer, sizeof buffer)) > 0;) {
    answer.append(buffer, count);
  }
  close(pipe_ends[0]);
  if (error != 0) return system_error("cannot start the memory measurement", error);
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0 || answer.empty()) {
    return base::error::InternalError("the memory measurement " + probe_name(variant, shape.phase) +
                                      " failed");
  }
  bytes = std::atoll(answer.c_str());
  return base::error::Success();
}
}  // namespace demo
