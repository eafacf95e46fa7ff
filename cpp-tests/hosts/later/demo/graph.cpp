// Decode captured once and replayed at other positions, which the captured kernels read from device
// memory.
#include <cuda_runtime_api.h>

#include "check.h"
#include "op/flash_attention.h"

void replay_decode(const Place& place) {
  for (auto type : {base::DataType::kDataTypeFp32, base::DataType::kDataTypeFp16}) {
    op::FlashAttentionDecodeLayer layer(place.type, kHeads, kKvHeads, kHeadSize, kKvMul, kSeqLen,
                                        kKvDim, type == base::DataType::kDataTypeFp16);
    layer.set_cuda_config(place.config);
    layer.set_layer_index(kLayer);
    layer.set_use_gpu_pos(true);
    Attention a(place, 60, 1, type);
    tensor::Tensor pos(base::DataType::kDataTypeInt32, 1, true,
                       base::CUDADeviceAllocatorFactory::get_instance());
    layer.set_input(0, a.query);
    layer.set_input(1, a.output);
    layer.set_input(2, a.key);
    layer.set_input(3, a.value);
    layer.set_input(4, pos);

    const cudaStream_t stream = place.config->stream;
    cudaGraph_t graph;
    cudaGraphExec_t replayed;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    expect_success("captured decode", layer.forward());
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&replayed, graph, 0) == cudaSuccess);
    for (int32_t at : {3, 40, 60}) {
      CHECK(cudaMemcpyAsync(pos.ptr<int32_t>(), &at, sizeof(at), cudaMemcpyHostToDevice, stream) ==
            cudaSuccess);
      CHECK(cudaGraphLaunch(replayed, stream) == cudaSuccess);
      CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
      a.start = at;
      a.expect("decode layer, replayed at position " + std::to_string(at), a.output);
    }
    cudaGraphExecDestroy(replayed);
    cudaGraphDestroy(graph);
  }
}
