#include "base/buffer.h"

#include <utility>

namespace base {
Buffer::Buffer(size_t byte_size, std::shared_ptr<DeviceAllocator> allocator, void* ptr,
               bool use_external)
    : byte_size_(byte_size),
      allocator_(std::move(allocator)),
      ptr_(ptr),
      use_external_(use_external) {
  if (!allocator_) return;
  device_type_ = allocator_->device_type();
  if (!ptr_) ptr_ = allocator_->allocate(byte_size_);
}

Buffer::~Buffer() {
  if (ptr_ && allocator_ && !use_external_) allocator_->release(ptr_);
}
}  // namespace base
