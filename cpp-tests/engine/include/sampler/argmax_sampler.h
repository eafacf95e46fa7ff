#ifndef KUIPER_SAMPLER_ARGMAX_SAMPLER_H_
#define KUIPER_SAMPLER_ARGMAX_SAMPLER_H_
#include "base/base.h"
#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace sampler {
// Greedy: the first of the largest logits. `next` is one int32 on the logits' device, for the
// result on its way; `token` has it when the call returns.
class ArgmaxSampler {
 public:
  base::Status sample(const tensor::Tensor& logits, const tensor::Tensor& next, cudaStream_t stream,
                      int32_t& token) const;
};
}  // namespace sampler
#endif  // KUIPER_SAMPLER_ARGMAX_SAMPLER_H_
