#include "base/cuda.h"

#include <cuda_runtime_api.h>

#include "base/alloc.h"

namespace base {
namespace {
Status to_status(const char* call, cudaError_t error) {
  if (error == cudaSuccess) return error::Success();
  return error::InternalError(std::string(call) + " on device cuda: " + cudaGetErrorName(error) +
                              ", " + cudaGetErrorString(error));
}
}  // namespace

Status create_cuda_config(std::shared_ptr<kernel::CudaConfig>& config) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    return error::InternalError(
        "the engine cannot run on device cuda: no NVIDIA driver is here, or one that is older than "
        "the CUDA runtime of this build, " +
        std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10));
  }
  if (error != cudaSuccess || count == 0) {
    return error::InternalError(std::string("the engine cannot run on device cuda: ") +
                                cudaGetErrorString(error));
  }
  // It does not wait for the default stream, so work that strays there shows as wrong results.
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(to_status("cudaStreamCreateWithFlags",
                            cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)));
  config.reset(new kernel::CudaConfig{stream}, [](kernel::CudaConfig* last) {
    cudaStreamDestroy(last->stream);
    delete last;
  });
  return error::Success();
}

Status synchronize_cuda(cudaStream_t stream) {
  return to_status("cudaStreamSynchronize", cudaStreamSynchronize(stream));
}

Status check_cuda_launch() { return to_status("a kernel launch", cudaGetLastError()); }

std::string cuda_device_name() {
  cudaDeviceProp properties;
  return cudaGetDeviceProperties(&properties, 0) == cudaSuccess ? properties.name : "unknown";
}

size_t cuda_free_memory() {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

CudaTimer::CudaTimer() {
  CHECK(cudaEventCreate(&start_) == cudaSuccess);
  CHECK(cudaEventCreate(&stop_) == cudaSuccess);
}

CudaTimer::~CudaTimer() {
  cudaEventDestroy(start_);
  cudaEventDestroy(stop_);
}

void CudaTimer::start(cudaStream_t stream) { cudaEventRecord(start_, stream); }
void CudaTimer::stop(cudaStream_t stream) { cudaEventRecord(stop_, stream); }

double CudaTimer::seconds() const {
  float milliseconds = 0;
  cudaEventSynchronize(stop_);
  cudaEventElapsedTime(&milliseconds, start_, stop_);
  return milliseconds * 1e-3;
}

void* CUDADeviceAllocator::allocate(size_t byte_size) const {
  void* ptr = nullptr;
  if (byte_size == 0 || cudaMalloc(&ptr, byte_size) != cudaSuccess) {
    cudaGetLastError();  // the caller sees the nullptr; a later launch must not report it
    return nullptr;
  }
  total_allocated_ += byte_size;
  return ptr;
}

void CUDADeviceAllocator::release(void* ptr) const { cudaFree(ptr); }

Status CUDADeviceAllocator::memcpy(const void* src, void* dest, size_t byte_size, MemcpyKind kind,
                                   cudaStream_t stream) const {
  const auto cuda_kind = static_cast<cudaMemcpyKind>(kind);
  RETURN_IF_ERROR(
      to_status("cudaMemcpyAsync", cudaMemcpyAsync(dest, src, byte_size, cuda_kind, stream)));
  return synchronize_cuda(stream);
}
}  // namespace base
