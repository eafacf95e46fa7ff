#include "base/alloc.h"

namespace base {
CUDADeviceAllocator::CUDADeviceAllocator() : DeviceAllocator(DeviceType::kDeviceCUDA) {}

std::shared_ptr<CUDADeviceAllocator> CUDADeviceAllocatorFactory::get_instance() {
  static const auto instance = std::make_shared<CUDADeviceAllocator>();
  return instance;
}

std::shared_ptr<DeviceAllocator> allocator_of(DeviceType device_type) {
  switch (device_type) {
    case DeviceType::kDeviceCPU:
      return CPUDeviceAllocatorFactory::get_instance();
    case DeviceType::kDeviceCUDA:
      return CUDADeviceAllocatorFactory::get_instance();
    default:
      return nullptr;
  }
}
}  // namespace base
