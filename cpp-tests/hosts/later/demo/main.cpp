// The later branch: a decode layer and a prefill layer, float32 and float16, chunks, output over the
// query, and the position in memory.
#include "check.h"
#include "op/flash_attention.h"
#include "op/kernels/cuda/flash_attention_kernel.cuh"
#include "op/kernels/cuda/mha_kernel.cuh"

namespace kernel {
extern int paged_calls;
}

void replay_decode(const Place& place);  // where there is CUDA

namespace {
using base::DataType;

tensor::Tensor position(const Place& place, int32_t pos) {
  tensor::Tensor tensor(DataType::kDataTypeInt32, 1, true,
                        base::CPUDeviceAllocatorFactory::get_instance());
  tensor.index<int32_t>(0) = pos;
  if (place.is_cuda()) CHECK(tensor.to_cuda(place.config->stream));
  return tensor;
}

void decode_layer(const Place& place, DataType type, int32_t pos) {
  const bool fp16 = type == DataType::kDataTypeFp16;
  op::FlashAttentionDecodeLayer layer(place.type, kHeads, kKvHeads, kHeadSize, kKvMul, kSeqLen,
                                      kKvDim, fp16);
  layer.set_cuda_config(place.config);
  layer.set_layer_index(kLayer);
  for (bool pos_in_memory : {false, true}) {
    for (bool in_place : {false, true}) {
      const Attention a(place, pos, 1, type);
      layer.set_pos(pos_in_memory ? -1 : pos);
      layer.set_use_gpu_pos(pos_in_memory);
      layer.set_input(0, a.query);
      layer.set_input(1, in_place ? a.query : a.output);
      layer.set_input(2, a.key);
      layer.set_input(3, a.value);
      if (pos_in_memory) layer.set_input(4, position(place, pos));
      expect_success("decode layer", layer.forward());
      a.expect(pos_in_memory ? "decode layer, position in memory" : "decode layer",
               in_place ? a.query : a.output);
    }
  }
  const Attention a(place, pos, 1, type);
  expect_success("decode", layer.forward(pos, kHeads, kKvHeads, kHeadSize, kKvMul, kLayer, kSeqLen,
                                         kKvDim, a.query, a.output, a.key, a.value));
  a.expect("decode layer, direct", a.output);
}

void prefill_layer(const Place& place, DataType type, int32_t start, int32_t rows) {
  op::FlashAttentionPrefillLayer layer(place.type, kHeads, kKvHeads, kHeadSize, kSeqLen,
                                       type == DataType::kDataTypeFp16);
  layer.set_cuda_config(place.config);
  layer.set_layer_index(kLayer);
  layer.set_start_pos(start);
  layer.set_cur_seq_len(rows);
  for (bool in_place : {false, true}) {
    const Attention a(place, start, rows, type);
    layer.set_input(0, a.query);
    layer.set_input(1, in_place ? a.query : a.output);
    layer.set_input(2, a.key);
    layer.set_input(3, a.value);
    expect_success("prefill layer", layer.forward());
    a.expect("prefill layer", in_place ? a.query : a.output);
  }
  const Attention a(place, start, rows, type);
  expect_success("prefill", layer.forward(start, rows, kHeads, kKvHeads, kHeadSize, kKvMul, kLayer,
                                          kSeqLen, kKvDim, a.query, a.output, a.key, a.value));
  a.expect("prefill layer, direct", a.output);
}

void kernels(const Place& place, DataType type) {
  using namespace kernel;
  const bool fp16 = type == DataType::kDataTypeFp16;
  for (auto run : {fp16 ? flash_attention_prefill_fp16_cu : flash_attention_prefill_cu,
                   fp16 ? flash_attention2_prefill_fp16_cu : flash_attention2_prefill_cu}) {
    const Attention a(place, 9, 20, type);
    run(a.start, a.rows, kHeads, kKvHeads, kHeadSize, kKvMul, kLayer, kSeqLen, kKvDim, a.query,
        a.output, a.key, a.value, place.config.get());
    a.expect("prefill kernel", a.output);
  }
  for (auto run : {fp16 ? flash_attention_decode_fp16_cu : flash_attention_decode_cu,
                   fp16 ? flash_attention2_decode_fp16_cu : flash_attention2_decode_cu}) {
    const Attention a(place, 33, 1, type);
    run(a.start, kHeads, kKvHeads, kHeadSize, kKvMul, kLayer, kSeqLen, kKvDim, a.query, a.output,
        a.key, a.value, place.config.get());
    a.expect("decode kernel", a.output);
  }
  for (auto run : {flash_attention_decode_fp16_gpu_pos_cu, flash_attention2_decode_fp16_gpu_pos_cu}) {
    const Attention a(place, 33, 1, type);
    const tensor::Tensor pos = position(place, a.start);
    run(pos.ptr<int32_t>(), kHeads, kKvHeads, kHeadSize, kKvMul, kLayer, kSeqLen, kKvDim, a.query,
        a.output, a.key, a.value, place.config.get());
    a.expect("decode kernel, position in memory", a.output);
  }
  const tensor::Tensor no_score;
  {
    const Attention a(place, 40, 1, type);
    const tensor::Tensor pos = position(place, a.start);
    mha_kernel_cu_gpu_pos(pos.ptr<int32_t>(), kHeads, kLayer, kSeqLen, kKvDim, kKvMul, kHeadSize,
                          a.output, a.query, no_score, a.key, a.value, place.type,
                          place.config.get());
    a.expect("mha kernel, position in memory", a.output);
  }
  {
    const Attention a(place, 5, 30, type);
    batched_mha_kernel_cu(a.start, a.rows, kHeads, kLayer, kSeqLen, kDim, kKvDim, kKvMul, kHeadSize,
                          a.output, a.query, no_score, a.key, a.value, place.type,
                          place.config.get());
    a.expect("batched mha kernel", a.output);
  }
}

// Wrong calls return what is wrong and write nothing.
void bad_calls(const Place& place) {
  const Attention a(place, 20, 4);
  op::FlashAttentionPrefillLayer layer(place.type, kHeads, kKvHeads, kHeadSize, kSeqLen);
  layer.set_cuda_config(place.config);
  const auto expect_refused = [&](const char* what, const base::Status& status) {
    bool untouched = true;
    for (float value : place.values(a.output)) untouched = untouched && std::isnan(value);
    const bool good =
        !status && status.get_err_msg().find(what) != std::string::npos && untouched;
    all_right = all_right && good;
    std::cout << (good ? "refused: " : "NOT REFUSED: ") << what << ": " << status.get_err_msg()
              << std::endl;
  };
  const auto run = [&](int32_t start, int32_t rows, int32_t layer_index, int32_t kv_heads) {
    return layer.forward(start, rows, kHeads, kv_heads, kHeadSize, kKvMul, layer_index, kSeqLen,
                         kKvDim, a.query, a.output, a.key, a.value);
  };
  expect_refused("position is -1", run(-1, 4, kLayer, kKvHeads));
  expect_refused("position is 67", run(kSeqLen - 3, 4, kLayer, kKvHeads));
  expect_refused("seq_len is 0", run(20, 0, kLayer, kKvHeads));
  expect_refused("query.size", run(20, 5, kLayer, kKvHeads));
  expect_refused("key_cache.size", run(20, 4, kLayers, kKvHeads));
  expect_refused("layer_index is -1", run(20, 4, -1, kKvHeads));
  expect_refused("kv_head_num is 0", run(20, 4, kLayer, 0));
  layer.set_dims(kHeads, 4, kHeadSize, kSeqLen);
  expect_refused("kv_head_num is 4", layer.forward());
  op::FlashAttentionDecodeLayer decode(place.type, kHeads, kKvHeads, kHeadSize, kKvMul, kSeqLen,
                                       kKvDim);
  decode.set_use_gpu_pos(true);
  expect_refused("input 4", decode.forward());
}

#ifndef HOST_EARLY
void later_features(const Place& place) {
  op::FlashAttentionDecodeLayer decode(place.type, kHeads, kKvHeads, kHeadSize, kKvMul, kSeqLen,
                                       kKvDim);
  decode.set_cuda_config(place.config);
  const Attention a(place, 33, 1);
  decode.set_attention_type(base::AttentionType::kAttentionMHA);
  std::cout << "standard MHA next" << std::endl;
  expect_success("decode", decode.forward(33, kHeads, kKvHeads, kHeadSize, kKvMul, kLayer, kSeqLen,
                                          kKvDim, a.query, a.output, a.key, a.value));
  a.expect("decode layer, standard MHA", a.output);

  op::FlashAttentionPrefillLayer prefill(place.type, kHeads, kKvHeads, kHeadSize, kSeqLen);
  decode.set_paged_mode(true, 16, 4, a.query_values.data(), a.query_values.data(), nullptr);
  prefill.set_paged_mode(true, 16, 4, a.query_values.data(), a.query_values.data(), nullptr);
  expect_success("paged decode", decode.forward());
  expect_success("paged prefill", prefill.forward());
  expect_success("paged decode",
                 decode.forward(33, kHeads, kKvHeads, kHeadSize, kKvMul, kLayer, kSeqLen, kKvDim,
                                a.query, a.output, a.key, a.value));
  all_right = all_right && kernel::paged_calls == 3;
  std::cout << kernel::paged_calls << " paged calls, expected 3" << std::endl;
}
#endif
}  // namespace

int main(int argc, char** argv) {
  const Place place = Place::named(argc, argv);
  for (DataType type : {DataType::kDataTypeFp32, DataType::kDataTypeFp16}) {
    for (int32_t pos : {0, 1, 33, kSeqLen - 1}) decode_layer(place, type, pos);
    prefill_layer(place, type, 0, kSeqLen);
    prefill_layer(place, type, 20, 13);
    prefill_layer(place, type, kSeqLen - 1, 1);
    kernels(place, type);
  }
  bad_calls(place);
#ifdef HOST_CUDA
  if (place.is_cuda()) replay_decode(place);
#endif
#ifndef HOST_EARLY
  later_features(place);
#endif
  return all_right ? 0 : 1;
}
