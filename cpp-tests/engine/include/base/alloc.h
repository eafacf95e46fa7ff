#ifndef KUIPER_BASE_ALLOC_H_
#define KUIPER_BASE_ALLOC_H_
#include <atomic>
#include <memory>

#include "base/base.h"

namespace base {
class DeviceAllocator {
 public:
  explicit DeviceAllocator(DeviceType device_type) : device_type_(device_type) {}
  virtual ~DeviceAllocator() = default;

  DeviceType device_type() const { return device_type_; }

  // nullptr where the memory cannot be had.
  virtual void* allocate(size_t byte_size) const = 0;
  virtual void release(void* ptr) const = 0;

 private:
  DeviceType device_type_;
};

class CPUDeviceAllocator : public DeviceAllocator {
 public:
  CPUDeviceAllocator();

  void* allocate(size_t byte_size) const override;
  void release(void* ptr) const override;

  // Bytes handed out since the start; the difference around a piece of code is what it allocated.
  size_t total_allocated() const { return total_allocated_; }

 private:
  mutable std::atomic<size_t> total_allocated_{0};
};

class CPUDeviceAllocatorFactory {
 public:
  static std::shared_ptr<CPUDeviceAllocator> get_instance();
};
}  // namespace base
#endif  // KUIPER_BASE_ALLOC_H_
