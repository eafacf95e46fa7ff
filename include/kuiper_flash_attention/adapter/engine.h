// What the adapter's sources share: the engine's tensors and errors in terms of the C API.
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef KUIPER_FLASH_ATTENTION_ADAPTER_ENGINE_H
#define KUIPER_FLASH_ATTENTION_ADAPTER_ENGINE_H
// Angle brackets, because quotes would find the op/ beside this file before the engine's own.
#include <base/base.h>
#include <base/cuda_config.h>
#include <kuiper_flash_attention/kfa.h>
#include <tensor/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iostream>
#include <mutex>
#include <set>
#include <string>

namespace kfa_adapter {
inline kfa_device_type to_kfa(base::DeviceType device_type) {
  return static_cast<kfa_device_type>(device_type);
}

// The engine passes outputs as const, too; this is the one place that takes it away.
inline kfa_tensor to_kfa(const tensor::Tensor& tensor) {
  kfa_tensor out{};
  out.data = const_cast<float*>(tensor.ptr<float>());
  out.size = static_cast<int64_t>(tensor.size());
  out.dtype = static_cast<kfa_dtype>(tensor.data_type());
  out.device = to_kfa(tensor.device_type());
  return out;
}

// The status of a call with the message of its thread's last failure, if it failed.
inline base::Status to_status(kfa_status status) {
  if (status == KFA_OK) return base::error::Success();
  if (status == KFA_ERROR_INVALID_ARGUMENT) {
    return base::error::InvalidArgument(kfa_last_error_message());
  }
  return base::error::InternalError(std::string(kfa_last_error_message()) + " (" +
                                    kfa_status_name(status) + ")");
}

// Why a kernel getter gave none: the device does not exist, or not in this build or machine.
inline base::Status no_kernel(kfa_device_type device) {
  return to_status(device == KFA_DEVICE_UNKNOWN ? KFA_ERROR_INVALID_ARGUMENT : KFA_ERROR_NO_DEVICE);
}

// The CPU has no stream, whatever the engine's configuration holds.
inline void* stream_of(kfa_device_type device, const kernel::CudaConfig* config) {
  return device == KFA_DEVICE_CUDA && config ? static_cast<void*>(config->stream) : nullptr;
}

enum class Level { kInfo, kError };

// One line in the engine's log.
inline void log(Level level, const std::string& message) {
#ifdef LOG
  if (level == Level::kError) {
    LOG(ERROR) << message;
  } else {
    LOG(INFO) << message;
  }
#else
  (level == Level::kError ? std::cerr : std::clog) << message << std::endl;
#endif
}

// Logs what a void kernel cannot return. A kind of failure (its message without the numbers) is
// logged once: generation would repeat it for every layer and token.
inline void report_failure(const char* kernel, const std::string& reason) {
  const std::string message = std::string(kernel) + ": " + reason;
  std::string kind = message;
  kind.erase(std::remove_if(kind.begin(), kind.end(),
                            [](char c) { return (c >= '0' && c <= '9') || c == '-'; }),
             kind.end());
  static std::mutex mutex;
  static std::set<std::string> reported;
  const std::lock_guard<std::mutex> lock(mutex);
  if (reported.insert(kind).second) log(Level::kError, message);
}

// What a void kernel leaves behind: the failure's log line or, once, which kernel of the library
// serves it. `told` is the kernel's own; a successful call costs a comparison and a load.
inline void report(const char* kernel, const base::Status& status, std::atomic<bool>& told) {
  if (!status) return report_failure(kernel, status.get_err_msg());
  if (told.load(std::memory_order_relaxed) || told.exchange(true)) return;
  log(Level::kInfo, std::string(kernel) + " runs " + kfa_last_kernel_name());
}

// For the layers' constructors.
inline void warm_up([[maybe_unused]] base::DeviceType device_type) {
#ifdef KFA_ADAPTER_WARM_UP
  if (kfa_warm_up(to_kfa(device_type)) != KFA_OK) {
    report_failure("kfa_warm_up", kfa_last_error_message());
  }
#endif
}
}  // namespace kfa_adapter
#endif  // KUIPER_FLASH_ATTENTION_ADAPTER_ENGINE_H
