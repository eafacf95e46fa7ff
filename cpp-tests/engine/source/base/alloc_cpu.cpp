#include <cstdlib>

#include "base/alloc.h"

namespace base {
CPUDeviceAllocator::CPUDeviceAllocator() : DeviceAllocator(DeviceType::kDeviceCPU) {}

void* CPUDeviceAllocator::allocate(size_t byte_size) const {
  constexpr size_t kAlignment = 64;  // a cache line, and the widest vector
  void* ptr = nullptr;
  if (byte_size == 0 || posix_memalign(&ptr, kAlignment, byte_size) != 0) return nullptr;
  total_allocated_ += byte_size;
  return ptr;
}

void CPUDeviceAllocator::release(void* ptr) const { std::free(ptr); }

std::shared_ptr<CPUDeviceAllocator> CPUDeviceAllocatorFactory::get_instance() {
  static const auto instance = std::make_shared<CPUDeviceAllocator>();
  return instance;
}
}  // namespace base
