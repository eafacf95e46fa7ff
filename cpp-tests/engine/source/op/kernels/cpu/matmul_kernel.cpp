#include <Eigen/Core>

#include "op/kernels/cpu/cpu_kernels.h"

namespace kernel {
void matmul_kernel_cpu(const tensor::Tensor& input, const tensor::Tensor& weight,
                       const tensor::Tensor& output, cudaStream_t) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Index out_dim = weight.get_dim(0);
  const Eigen::Index in_dim = weight.get_dim(1);
  const Eigen::Index rows = input.size() / in_dim;
  const Eigen::Map<const Matrix> w(weight.ptr<float>(), out_dim, in_dim);
  float* out = const_cast<float*>(output.ptr<float>());
  if (rows == 1) {
    // The matrix-vector product reads the weights straight through, with no packing.
    const Eigen::Map<const Eigen::VectorXf> x(input.ptr<float>(), in_dim);
    Eigen::Map<Eigen::VectorXf>(out, out_dim).noalias() = w * x;
  } else {
    const Eigen::Map<const Matrix> x(input.ptr<float>(), rows, in_dim);
    Eigen::Map<Matrix>(out, rows, out_dim).noalias() = x * w.transpose();
  }
}
}  // namespace kernel
