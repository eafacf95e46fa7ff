// A branch with op::FlashAttention, which its models use where the engine's option says so.
#include "check.h"
#include "op/flash_attention.h"
#include "op/kernels/kernels_interface.h"
#include "op/mha.h"

int main(int argc, char** argv) {
  const Place place = Place::named(argc, argv);
#ifdef KUIPER_USE_FLASH_ATTENTION
  std::cout << "built for flash attention" << std::endl;
  std::shared_ptr<op::Layer> layer = std::make_shared<op::FlashAttention>(
      place.type, 0, kKvMul, kKvDim, kSeqLen, kHeads, kHeadSize);
  layer->set_cuda_config(place.config);
#else
  std::cout << "built for standard MHA" << std::endl;
  op::MultiHeadAttention layer(place.type, 0, kKvMul, kKvDim, kSeqLen, kHeads, kHeadSize);
  layer.set_cuda_config(place.config);
#endif
  for (const auto& [start, rows] : {std::pair{0, 1}, {kSeqLen - 1, 1}, {20, 13}, {0, 50}}) {
    const Attention attention(place, start, rows);
    const auto& [query, output, key, value] =
        std::tie(attention.query, attention.output, attention.key, attention.value);
#ifdef KUIPER_USE_FLASH_ATTENTION
    const auto flash = std::dynamic_pointer_cast<op::FlashAttention>(layer);
    flash->set_pos(attention.pos());
    flash->set_layer_idx(kLayer);
    expect_success("layer", layer->forward(query, key, value, output));
    attention.expect("flash layer", output);
    const Attention again(place, start, rows);
    kernel::get_flash_attention_kernel(place.type)(
        again.query, again.key, again.value, again.output, kHeads, kKvHeads, kHeadSize, kSeqLen,
        again.pos(), kLayer, 0.0f, true, place.type, place.config.get());
    again.expect("flash getter", again.output);
#else
    const tensor::Tensor score =
        place.tensor(std::vector<float>(kHeads * kSeqLen, 0.0f), attention.data_type);
    layer.set_layer_idx(kLayer);
    layer.set_pos(attention.pos());
    expect_success("layer", layer.forward(query, score, key, value, output));
    attention.expect("mha layer", output);
#endif
  }
  return all_right ? 0 : 1;
}
