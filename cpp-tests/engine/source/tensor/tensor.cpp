#include "tensor/tensor.h"

#include <utility>

namespace tensor {
namespace {
size_t element_count(const std::vector<int32_t>& dims) {
  size_t count = dims.empty() ? 0 : 1;
  for (int32_t dim : dims) count *= dim > 0 ? static_cast<size_t>(dim) : 0;
  return count;
}
}  // namespace

Tensor::Tensor(base::DataType data_type, std::vector<int32_t> dims, bool need_alloc,
               std::shared_ptr<base::DeviceAllocator> alloc, void* ptr)
    : size_(element_count(dims)), dims_(std::move(dims)), data_type_(data_type) {
  if (need_alloc && alloc) {
    allocate(alloc);
  } else if (ptr) {
    buffer_ = std::make_shared<base::Buffer>(byte_size(), alloc, ptr, true);
  }
}

Tensor::Tensor(base::DataType data_type, int32_t dim0, bool need_alloc,
               std::shared_ptr<base::DeviceAllocator> alloc, void* ptr)
    : Tensor(data_type, std::vector<int32_t>{dim0}, need_alloc, std::move(alloc), ptr) {}

Tensor::Tensor(base::DataType data_type, int32_t dim0, int32_t dim1, bool need_alloc,
               std::shared_ptr<base::DeviceAllocator> alloc, void* ptr)
    : Tensor(data_type, std::vector<int32_t>{dim0, dim1}, need_alloc, std::move(alloc), ptr) {}

Tensor::Tensor(base::DataType data_type, int32_t dim0, int32_t dim1, int32_t dim2, bool need_alloc,
               std::shared_ptr<base::DeviceAllocator> alloc, void* ptr)
    : Tensor(data_type, std::vector<int32_t>{dim0, dim1, dim2}, need_alloc, std::move(alloc), ptr) {
}

Tensor::Tensor(base::DataType data_type, int32_t dim0, int32_t dim1, int32_t dim2, int32_t dim3,
               bool need_alloc, std::shared_ptr<base::DeviceAllocator> alloc, void* ptr)
    : Tensor(data_type, std::vector<int32_t>{dim0, dim1, dim2, dim3}, need_alloc, std::move(alloc),
             ptr) {}

bool Tensor::is_empty() const { return size_ == 0 || !buffer_ || !buffer_->ptr(); }

int32_t Tensor::get_dim(int32_t idx) const {
  CHECK(idx >= 0 && idx < dims_size());
  return dims_[idx];
}

std::vector<size_t> Tensor::strides() const {
  std::vector<size_t> strides(dims_.size(), 1);
  for (size_t i = dims_.size(); i-- > 1;) strides[i - 1] = strides[i] * dims_[i];
  return strides;
}

base::DeviceType Tensor::device_type() const {
  return buffer_ ? buffer_->device_type() : base::DeviceType::kDeviceUnknown;
}

void Tensor::set_device_type(base::DeviceType device_type) const {
  if (buffer_) buffer_->set_device_type(device_type);
}

bool Tensor::assign(std::shared_ptr<base::Buffer> buffer) {
  if (!buffer || buffer->byte_size() < byte_size()) return false;
  buffer_ = std::move(buffer);
  return true;
}

bool Tensor::allocate(std::shared_ptr<base::DeviceAllocator> allocator, bool need_realloc) {
  if (!allocator || byte_size() == 0) return false;
  if (buffer_ && buffer_->byte_size() >= byte_size() && !need_realloc) return true;
  auto buffer = std::make_shared<base::Buffer>(byte_size(), std::move(allocator));
  return buffer->ptr() && assign(std::move(buffer));
}

base::Status Tensor::to_cuda(cudaStream_t stream) {
  return move_to(base::DeviceType::kDeviceCUDA, base::MemcpyKind::kMemcpyCPU2CUDA, stream);
}

base::Status Tensor::to_cpu(cudaStream_t stream) {
  return move_to(base::DeviceType::kDeviceCPU, base::MemcpyKind::kMemcpyCUDA2CPU, stream);
}

base::Status Tensor::move_to(base::DeviceType device_type, base::MemcpyKind kind,
                             cudaStream_t stream) {
  if (is_empty()) return base::error::InvalidArgument("an empty tensor has nothing to move");
  if (this->device_type() == device_type) return base::error::Success();
  auto moved = std::make_shared<base::Buffer>(byte_size(), base::allocator_of(device_type));
  if (!moved->ptr()) {
    return base::error::InternalError("not enough memory on device " +
                                      std::string(base::DeviceName(device_type)) + " for " +
                                      std::to_string(byte_size()) + " bytes");
  }
  RETURN_IF_ERROR(base::CUDADeviceAllocatorFactory::get_instance()->memcpy(
      buffer_->ptr(), moved->ptr(), byte_size(), kind, stream));
  buffer_ = std::move(moved);
  return base::error::Success();
}

void Tensor::reshape(const std::vector<int32_t>& dims) {
  size_t count = element_count(dims);
  CHECK(!buffer_ || count * base::DataTypeSize(data_type_) <= buffer_->byte_size());
  dims_ = dims;
  size_ = count;
}

void Tensor::reset(base::DataType data_type, const std::vector<int32_t>& dims) {
  data_type_ = data_type;
  dims_ = dims;
  size_ = element_count(dims);
  buffer_ = nullptr;
}
}  // namespace tensor
