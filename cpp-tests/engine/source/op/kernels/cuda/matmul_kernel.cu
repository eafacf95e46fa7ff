#include <cstdint>

#include "op/kernels/cuda/cuda_kernels.h"
#include "op/kernels/cuda/launch.cuh"

namespace kernel {
namespace {
__device__ float dot(float a, float b, float sum) { return fmaf(a, b, sum); }

__device__ float dot(float4 a, float4 b, float sum) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// One warp per row of the weight, which it reads once for kRows rows of the input. `in_dim` counts
// elements of type T.
template <typename T, int kRows>
__global__ void matmul(const T* input, const T* weight, float* output, int rows, int out_dim,
                       int in_dim) {
  const int column = static_cast<int>(global_index() / kWarp);
  if (column >= out_dim) return;
  const int first = blockIdx.y * kRows;
  const int lane = threadIdx.x % kWarp;
  const T* w = weight + size_t(column) * in_dim;
  float sums[kRows] = {};
  for (int i = lane; i < in_dim; i += kWarp) {
    const T w_i = w[i];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      // Rows past the end repeat the last one, whose result is stored once.
      const size_t at = min(first + row, rows - 1);
      sums[row] = dot(input[at * in_dim + i], w_i, sums[row]);
    }
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const float sum = warp_sum(sums[row]);
    if (lane == 0 && first + row < rows) output[size_t(first + row) * out_dim + column] = sum;
  }
}

template <typename T>
void launch(const float* input, const float* weight, float* output, int rows, int out_dim,
            int in_dim, cudaStream_t stream) {
  constexpr int kRows = 8;
  const dim3 grid(blocks_for(size_t(out_dim) * kWarp), rows == 1 ? 1 : (rows + kRows - 1) / kRows);
  const auto kernel = rows == 1 ? matmul<T, 1> : matmul<T, kRows>;
  kernel<<<grid, kThreads, 0, stream>>>(reinterpret_cast<const T*>(input),
                                        reinterpret_cast<const T*>(weight), output, rows, out_dim,
                                        in_dim * int(sizeof(float)) / int(sizeof(T)));
}

bool aligned(const float* ptr) { return reinterpret_cast<uintptr_t>(ptr) % sizeof(float4) == 0; }
}  // namespace

void matmul_kernel_cu(const tensor::Tensor& input, const tensor::Tensor& weight,
                      const tensor::Tensor& output, cudaStream_t stream) {
  const int out_dim = weight.get_dim(0);
  const int in_dim = weight.get_dim(1);
  const int rows = static_cast<int>(input.size() / in_dim);
  const float* x = input.ptr<float>();
  const float* w = weight.ptr<float>();
  const bool vectors = in_dim % 4 == 0 && aligned(x) && aligned(w);
  (vectors ? launch<float4> : launch<float>)(x, w, writable(output), rows, out_dim, in_dim, stream);
}
}  // namespace kernel
