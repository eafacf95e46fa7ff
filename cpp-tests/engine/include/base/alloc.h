#ifndef KUIPER_BASE_ALLOC_H_
#define KUIPER_BASE_ALLOC_H_
#include <atomic>
#include <memory>

#include "base/base.h"
#include "base/cuda_config.h"

namespace base {
class DeviceAllocator {
 public:
  explicit DeviceAllocator(DeviceType device_type) : device_type_(device_type) {}
  virtual ~DeviceAllocator() = default;

  DeviceType device_type() const { return device_type_; }

  // nullptr where the memory cannot be had.
  virtual void* allocate(size_t byte_size) const = 0;
  virtual void release(void* ptr) const = 0;

  // Bytes handed out since the start; the difference around a piece of code is what it allocated.
  size_t total_allocated() const { return total_allocated_; }

 protected:
  mutable std::atomic<size_t> total_allocated_{0};

 private:
  DeviceType device_type_;
};

class CPUDeviceAllocator : public DeviceAllocator {
 public:
  CPUDeviceAllocator();

  void* allocate(size_t byte_size) const override;
  void release(void* ptr) const override;
};

// From where to where; the values are those of cudaMemcpyKind.
enum class MemcpyKind {
  kMemcpyCPU2CPU = 0,
  kMemcpyCPU2CUDA = 1,
  kMemcpyCUDA2CPU = 2,
  kMemcpyCUDA2CUDA = 3,
};

// Gives no memory in a build without CUDA.
class CUDADeviceAllocator : public DeviceAllocator {
 public:
  CUDADeviceAllocator();

  void* allocate(size_t byte_size) const override;
  void release(void* ptr) const override;

  // On the stream, behind what was enqueued before; returns when the copy is done.
  Status memcpy(const void* src, void* dest, size_t byte_size, MemcpyKind kind,
                cudaStream_t stream = nullptr) const;
};

class CPUDeviceAllocatorFactory {
 public:
  static std::shared_ptr<CPUDeviceAllocator> get_instance();
};

class CUDADeviceAllocatorFactory {
 public:
  static std::shared_ptr<CUDADeviceAllocator> get_instance();
};

// nullptr for an unknown device.
std::shared_ptr<DeviceAllocator> allocator_of(DeviceType device_type);
}  // namespace base
#endif  // KUIPER_BASE_ALLOC_H_
