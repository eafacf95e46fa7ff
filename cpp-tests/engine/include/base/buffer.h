#ifndef KUIPER_BASE_BUFFER_H_
#define KUIPER_BASE_BUFFER_H_
#include <memory>

#include "base/alloc.h"

namespace base {
// A block of memory: its own, from an allocator, or somebody else's (external), never released.
class Buffer : public NoCopyable {
 public:
  Buffer(size_t byte_size, std::shared_ptr<DeviceAllocator> allocator, void* ptr = nullptr,
         bool use_external = false);
  ~Buffer();

  void* ptr() { return ptr_; }
  const void* ptr() const { return ptr_; }
  size_t byte_size() const { return byte_size_; }
  bool is_external() const { return use_external_; }
  std::shared_ptr<DeviceAllocator> allocator() const { return allocator_; }
  DeviceType device_type() const { return device_type_; }
  void set_device_type(DeviceType device_type) { device_type_ = device_type; }

 private:
  size_t byte_size_;
  std::shared_ptr<DeviceAllocator> allocator_;
  void* ptr_;
  bool use_external_;
  DeviceType device_type_ = DeviceType::kDeviceUnknown;
};
}  // namespace base
#endif  // KUIPER_BASE_BUFFER_H_
