// Compiled instead of cuda.cpp where the build has no CUDA (USE_CUDA=OFF).
#include "base/alloc.h"
#include "base/cuda.h"

namespace base {
namespace {
Status absent() {
  return error::FunctionNotImplement(
      "the engine does not run on device cuda, only on cpu: this build has no CUDA (USE_CUDA=OFF)");
}
}  // namespace

Status create_cuda_config(std::shared_ptr<kernel::CudaConfig>&) { return absent(); }
Status synchronize_cuda(cudaStream_t) { return absent(); }
Status check_cuda_launch() { return absent(); }
std::string cuda_device_name() { return "none"; }
size_t cuda_free_memory() { return 0; }

CudaTimer::CudaTimer() = default;
CudaTimer::~CudaTimer() = default;
void CudaTimer::start(cudaStream_t) {}
void CudaTimer::stop(cudaStream_t) {}
double CudaTimer::seconds() const { return 0; }

void* CUDADeviceAllocator::allocate(size_t) const { return nullptr; }
void CUDADeviceAllocator::release(void*) const {}
Status CUDADeviceAllocator::memcpy(const void*, void*, size_t, MemcpyKind, cudaStream_t) const {
  return absent();
}
}  // namespace base
