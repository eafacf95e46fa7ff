#include "model/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace model {
namespace {
constexpr size_t kHeaderBytes = 7 * sizeof(int32_t);

// False on overflow.
bool multiply_add(uint64_t a, uint64_t b, uint64_t& sum) {
  uint64_t product;
  return !__builtin_mul_overflow(a, b, &product) && !__builtin_add_overflow(sum, product, &sum);
}

base::Status damaged(const std::string& why) {
  return base::error::ModelParseError("the checkpoint is damaged or of another format: " + why);
}
}  // namespace

Checkpoint::~Checkpoint() {
  if (data_) munmap(data_, byte_size_);
}

base::Status Checkpoint::open(const std::string& path) {
  base::Status status = map(path);
  if (status) status = read_config();
  if (status) status = lay_out_sections();
  if (!status) status.set_err_msg(path + ": " + status.get_err_msg());
  return status;
}

const float* Checkpoint::weight(Weight which, int32_t layer) const {
  if (which == Weight::kClassifier && config_.is_shared_weight_) which = Weight::kTokenEmbedding;
  const Section& section = sections_[static_cast<size_t>(which)];
  const void* weights = cuda_weights_ ? cuda_weights_->ptr() : mapped_weights();
  return static_cast<const float*>(weights) + section.offset + section.size * layer;
}

base::Status Checkpoint::to_cuda(cudaStream_t stream) {
  const size_t size = byte_size_ - kHeaderBytes;
  const auto allocator = base::CUDADeviceAllocatorFactory::get_instance();
  auto weights = std::make_unique<base::Buffer>(size, allocator);
  if (!weights->ptr()) {
    return base::error::InternalError("not enough memory on device cuda for the weights, " +
                                      std::to_string(size) + " bytes");
  }
  RETURN_IF_ERROR(allocator->memcpy(mapped_weights(), weights->ptr(), size,
                                    base::MemcpyKind::kMemcpyCPU2CUDA, stream));
  cuda_weights_ = std::move(weights);
  return base::error::Success();
}

const void* Checkpoint::mapped_weights() const {
  return static_cast<const char*>(data_) + kHeaderBytes;
}

base::Status Checkpoint::map(const std::string& path) {
  // O_NONBLOCK so that a pipe is refused rather than waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return base::error::PathNotValid(std::string("cannot open: ") + strerror(errno));
  struct stat info;
  base::Status status;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    status = base::error::PathNotValid("not a regular file");
  } else if (static_cast<uint64_t>(info.st_size) < kHeaderBytes) {
    status = damaged(std::to_string(info.st_size) + " bytes are too few for a header");
  } else {
    void* data = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      status = base::error::InternalError(std::string("cannot map: ") + strerror(errno));
    } else {
      data_ = data;
      byte_size_ = info.st_size;
    }
  }
  close(fd);
  return status;
}

base::Status Checkpoint::read_config() {
  int32_t header[7];
  std::memcpy(header, data_, kHeaderBytes);
  static const char* const kNames[] = {"dim",        "hidden_dim", "n_layers", "n_heads",
                                       "n_kv_heads", "vocab_size", "seq_len"};
  // A negative vocabulary says that the classifier has weights of its own; its magnitude must fit.
  const bool shared_classifier = header[5] > 0;
  if (!shared_classifier && header[5] != INT32_MIN) header[5] = -header[5];
  for (int i = 0; i < 7; ++i) {
    if (header[i] <= 0) return damaged(std::string(kNames[i]) + " is " + std::to_string(header[i]));
  }

  const auto [dim, hidden_dim, layers, heads, kv_heads, vocab, seq_len] = header;
  if (dim % heads != 0) {
    return damaged("dim " + std::to_string(dim) + " is no multiple of n_heads " +
                   std::to_string(heads));
  }
  if (heads % kv_heads != 0) {
    return damaged("n_heads " + std::to_string(heads) + " is no multiple of n_kv_heads " +
                   std::to_string(kv_heads));
  }
  const int32_t head_size = dim / heads;
  if (head_size % 2 != 0) {
    return damaged("head size " + std::to_string(head_size) + " is odd, RoPE rotates pairs");
  }
  config_ = {dim,
             hidden_dim,
             layers,
             heads,
             kv_heads,
             vocab,
             seq_len,
             head_size,
             kv_heads * head_size,
             heads / kv_heads,
             shared_classifier};
  return base::error::Success();
}

base::Status Checkpoint::lay_out_sections() {
  const TransformerConfig& c = config_;
  const auto u = [](int32_t value) { return static_cast<uint64_t>(value); };
  const uint64_t layers = u(c.layer_num_);
  // In the order of enum Weight: rows and columns of one layer, and the layers.
  const uint64_t shapes[static_cast<size_t>(Weight::kCount)][3] = {
      {u(c.vocab_size_), u(c.dim_), 1},
      {1, u(c.dim_), layers},
      {u(c.dim_), u(c.dim_), layers},
      {u(c.kv_dim_), u(c.dim_), layers},
      {u(c.kv_dim_), u(c.dim_), layers},
      {u(c.dim_), u(c.dim_), layers},
      {1, u(c.dim_), layers},
      {u(c.hidden_dim_), u(c.dim_), layers},
      {u(c.dim_), u(c.hidden_dim_), layers},
      {u(c.hidden_dim_), u(c.dim_), layers},
      {1, u(c.dim_), 1},
      {u(c.seq_len_), u(c.head_size_), 1},
      {c.is_shared_weight_ ? uint64_t{0} : u(c.vocab_size_), u(c.dim_), 1},
  };
  uint64_t floats = 0;
  bool fits = true;
  for (size_t i = 0; i < sections_.size(); ++i) {
    const auto& [rows, columns, repeats] = shapes[i];
    sections_[i].offset = floats;
    // Two 31-bit factors cannot overflow; the third and the sum can.
    sections_[i].size = rows * columns;
    fits = fits && multiply_add(sections_[i].size, repeats, floats);
  }
  uint64_t expected = kHeaderBytes;
  if (!fits || !multiply_add(floats, sizeof(float), expected)) {
    return damaged("the header asks for more than 2^64 bytes");
  }
  if (expected != byte_size_) {
    return damaged("the header asks for " + std::to_string(expected) + " bytes, the file has " +
                   std::to_string(byte_size_));
  }
  return base::error::Success();
}
}  // namespace model
