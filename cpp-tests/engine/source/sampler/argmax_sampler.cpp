#include "sampler/argmax_sampler.h"

#include "op/kernels/kernels_interfaces.h"

namespace sampler {
base::Status ArgmaxSampler::sample(const tensor::Tensor& logits, const tensor::Tensor& next,
                                   cudaStream_t stream, int32_t& token) const {
  kernel::get_argmax_kernel(logits.device_type())(logits, next, stream);
  tensor::Tensor on_cpu = next;
  RETURN_IF_ERROR(on_cpu.to_cpu(stream));
  token = on_cpu.index<int32_t>(0);
  return base::error::Success();
}
}  // namespace sampler
