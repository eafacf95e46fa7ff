#ifndef KUIPER_TENSOR_TENSOR_H_
#define KUIPER_TENSOR_TENSOR_H_
#include <memory>
#include <vector>

#include "base/base.h"
#include "base/buffer.h"
#include "base/cuda_config.h"

namespace tensor {
// A dense row-major array. Copies share the buffer, so a copy that is reshaped is a view.
class Tensor {
 public:
  Tensor() = default;

  // Memory: `need_alloc` with an allocator, or `ptr` (external, with the device set afterwards by
  // set_device_type), or none yet (assign or allocate later).
  explicit Tensor(base::DataType data_type, std::vector<int32_t> dims, bool need_alloc = false,
                  std::shared_ptr<base::DeviceAllocator> alloc = nullptr, void* ptr = nullptr);
  explicit Tensor(base::DataType data_type, int32_t dim0, bool need_alloc = false,
                  std::shared_ptr<base::DeviceAllocator> alloc = nullptr, void* ptr = nullptr);
  explicit Tensor(base::DataType data_type, int32_t dim0, int32_t dim1, bool need_alloc = false,
                  std::shared_ptr<base::DeviceAllocator> alloc = nullptr, void* ptr = nullptr);
  explicit Tensor(base::DataType data_type, int32_t dim0, int32_t dim1, int32_t dim2,
                  bool need_alloc = false, std::shared_ptr<base::DeviceAllocator> alloc = nullptr,
                  void* ptr = nullptr);
  explicit Tensor(base::DataType data_type, int32_t dim0, int32_t dim1, int32_t dim2, int32_t dim3,
                  bool need_alloc = false, std::shared_ptr<base::DeviceAllocator> alloc = nullptr,
                  void* ptr = nullptr);

  bool is_empty() const;
  size_t size() const { return size_; }
  size_t byte_size() const { return size_ * base::DataTypeSize(data_type_); }
  int32_t dims_size() const { return static_cast<int32_t>(dims_.size()); }
  int32_t get_dim(int32_t idx) const;
  const std::vector<int32_t>& dims() const { return dims_; }
  std::vector<size_t> strides() const;
  base::DataType data_type() const { return data_type_; }
  base::DeviceType device_type() const;
  void set_device_type(base::DeviceType device_type) const;
  std::shared_ptr<base::Buffer> get_buffer() const { return buffer_; }

  // False, and no change, where the buffer is too small or missing, or the memory cannot be had.
  bool assign(std::shared_ptr<base::Buffer> buffer);
  bool allocate(std::shared_ptr<base::DeviceAllocator> allocator, bool need_realloc = false);

  // Moves this tensor to the device, into memory of its own; views of the old memory stay there.
  // On the stream; returns when the copy is done. No change where it is there already, or on an
  // error.
  base::Status to_cuda(cudaStream_t stream = nullptr);
  base::Status to_cpu(cudaStream_t stream = nullptr);

  // New dimensions over the same memory, which must be large enough.
  void reshape(const std::vector<int32_t>& dims);
  // New type and dimensions, without memory.
  void reset(base::DataType data_type, const std::vector<int32_t>& dims);

  template <typename T>
  T* ptr() {
    return buffer_ ? static_cast<T*>(buffer_->ptr()) : nullptr;
  }
  template <typename T>
  const T* ptr() const {
    return buffer_ ? static_cast<const T*>(buffer_->ptr()) : nullptr;
  }
  template <typename T>
  T* ptr(int64_t index) {
    CHECK(!is_empty());
    return ptr<T>() + index;
  }
  template <typename T>
  const T* ptr(int64_t index) const {
    CHECK(!is_empty());
    return ptr<T>() + index;
  }
  template <typename T>
  T& index(int64_t offset) {
    return *ptr<T>(offset);
  }
  template <typename T>
  const T& index(int64_t offset) const {
    return *ptr<T>(offset);
  }

 private:
  base::Status move_to(base::DeviceType device_type, base::MemcpyKind kind, cudaStream_t stream);

  size_t size_ = 0;
  std::vector<int32_t> dims_;
  std::shared_ptr<base::Buffer> buffer_;
  base::DataType data_type_ = base::DataType::kDataTypeUnknown;
};
}  // namespace tensor
#endif  // KUIPER_TENSOR_TENSOR_H_
