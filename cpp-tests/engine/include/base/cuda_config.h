#ifndef KUIPER_BASE_CUDA_CONFIG_H_
#define KUIPER_BASE_CUDA_CONFIG_H_

// The CUDA runtime's own opaque type, declared here so that the engine builds without a toolkit.
typedef struct CUstream_st* cudaStream_t;

namespace kernel {
struct CudaConfig {
  cudaStream_t stream = nullptr;
};
}  // namespace kernel
#endif  // KUIPER_BASE_CUDA_CONFIG_H_
