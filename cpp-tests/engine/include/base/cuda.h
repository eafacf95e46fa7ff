#ifndef KUIPER_BASE_CUDA_H_
#define KUIPER_BASE_CUDA_H_
#include <memory>
#include <string>

#include "base/base.h"
#include "base/cuda_config.h"

typedef struct CUevent_st* cudaEvent_t;

// What the engine asks of the CUDA runtime beside memory (base/alloc.h). Without a toolkit another
// source file stands in, whose functions say that this build has no CUDA.
namespace base {
// A stream of its own, destroyed with the last reference; or why there is no CUDA here.
Status create_cuda_config(std::shared_ptr<kernel::CudaConfig>& config);

// Waits for the stream's work, and reports what went wrong in it.
Status synchronize_cuda(cudaStream_t stream);

// Whether the last kernel could be launched.
Status check_cuda_launch();

std::string cuda_device_name();

// Bytes of the device that nobody has allocated, as the driver counts them.
size_t cuda_free_memory();

// Measures time on a stream, with events.
class CudaTimer : public NoCopyable {
 public:
  CudaTimer();
  ~CudaTimer();

  void start(cudaStream_t stream);
  void stop(cudaStream_t stream);
  // Between the two; waits for the work in between.
  double seconds() const;

 private:
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};
}  // namespace base
#endif  // KUIPER_BASE_CUDA_H_
