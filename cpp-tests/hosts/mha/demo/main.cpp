// A branch that knows MHA alone: its models call the layer, which asks the getter.
#include "check.h"
#include "op/mha.h"

int main(int argc, char** argv) {
  const Place place = Place::named(argc, argv);
  op::MultiHeadAttention layer(place.type, 0, kKvMul, kKvDim, kSeqLen, kHeads, kHeadSize);
  layer.set_cuda_config(place.config);
  layer.set_layer_idx(kLayer);
  for (const auto& [start, rows] : {std::pair{0, 1}, {kSeqLen - 1, 1}, {20, 13}, {0, 50}}) {
    for (bool with_scores : {true, false}) {
      const Attention attention(place, start, rows);
      tensor::Tensor score;
      if (with_scores) {
        score = place.tensor(std::vector<float>(kHeads * kSeqLen, 0.0f), attention.data_type);
      }
      layer.set_pos(attention.pos());
      const auto& [query, output, key, value] =
          std::tie(attention.query, attention.output, attention.key, attention.value);
      expect_success("layer", layer.forward(query, score, key, value, output));
      attention.expect(with_scores ? "mha layer" : "mha layer without scores", output);
    }
  }
  return all_right ? 0 : 1;
}
