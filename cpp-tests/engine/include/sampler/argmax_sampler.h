#ifndef KUIPER_SAMPLER_ARGMAX_SAMPLER_H_
#define KUIPER_SAMPLER_ARGMAX_SAMPLER_H_
#include <cstddef>
#include <cstdint>

namespace sampler {
// Greedy: the first of the largest logits.
class ArgmaxSampler {
 public:
  int32_t sample(const float* logits, size_t size) const;
};
}  // namespace sampler
#endif  // KUIPER_SAMPLER_ARGMAX_SAMPLER_H_
