#include "sampler/argmax_sampler.h"

#include <algorithm>

namespace sampler {
int32_t ArgmaxSampler::sample(const float* logits, size_t size) const {
  return static_cast<int32_t>(std::max_element(logits, logits + size) - logits);
}
}  // namespace sampler
