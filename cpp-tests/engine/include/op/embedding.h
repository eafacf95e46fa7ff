#ifndef KUIPER_OP_EMBEDDING_H_
#define KUIPER_OP_EMBEDDING_H_
#include "op/layer.h"

namespace op {
// Row i of the output is the weight's row of token i (int32).
class EmbeddingLayer : public LayerParam {
 public:
  explicit EmbeddingLayer(base::DeviceType device_type, int32_t dim, int32_t vocab_size);
  base::Status check() const override;
  base::Status forward() override;
  using Layer::forward;

 private:
  int32_t dim_;
  int32_t vocab_size_;
};
}  // namespace op
#endif  // KUIPER_OP_EMBEDDING_H_
