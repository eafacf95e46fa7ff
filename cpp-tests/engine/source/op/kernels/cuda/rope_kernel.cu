#include "op/kernels/cuda/cuda_kernels.h"
#include "op/kernels/cuda/launch.cuh"

namespace kernel {
namespace {
// One thread per pair of one tensor's rows; row i is at position pos + i.
__global__ void rotate(float* x, size_t pairs, int dim, int head_size, int pos,
                       const float* sin_cache, const float* cos_cache) {
  const size_t pair = global_index();
  if (pair >= pairs) return;
  const size_t row = pair / (dim / 2);
  const size_t at = (pos + row) * (head_size / 2) + pair % (dim / 2) % (head_size / 2);
  const float sin = sin_cache[at];
  const float cos = cos_cache[at];
  const float x0 = x[2 * pair];
  const float x1 = x[2 * pair + 1];
  x[2 * pair] = x0 * cos - x1 * sin;
  x[2 * pair + 1] = x0 * sin + x1 * cos;
}
}  // namespace

void rope_kernel_cu(int32_t dim, int32_t kv_dim, int32_t head_size, const tensor::Tensor& query,
                    const tensor::Tensor& key, const tensor::Tensor& pos,
                    const tensor::Tensor& sin_cache, const tensor::Tensor& cos_cache,
                    cudaStream_t stream) {
  const auto rotate_rows = [&](const tensor::Tensor& rows, int32_t row_dim) {
    const size_t pairs = rows.size() / 2;
    rotate<<<blocks_for(pairs), kThreads, 0, stream>>>(
        writable(rows), pairs, row_dim, head_size, pos.index<int32_t>(0), sin_cache.ptr<float>(),
        cos_cache.ptr<float>());
  };
  rotate_rows(query, dim);
  rotate_rows(key, kv_dim);
}
}  // namespace kernel
