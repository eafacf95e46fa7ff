// An engine in small, on the adapter: with one key per head, attention returns the values.
#include <iostream>
#include <memory>

#include "op/flash_attention.h"

#ifndef KUIPER_USE_FLASH_ATTENTION
#error "the adapter's target defines KUIPER_USE_FLASH_ATTENTION"
#endif
#ifdef EXPECT_OWN_HEADER
static_assert(op::FlashAttention::kOwnHeader, "the engine's header comes first");
#endif

int main() {
  const auto allocator = base::CPUDeviceAllocatorFactory::get_instance();
  const auto make = [&](int32_t size, float first) {
    tensor::Tensor tensor(base::DataType::kDataTypeFp32, size, true, allocator);
    for (int32_t i = 0; i < size; ++i) tensor.index<float>(i) = first + i;
    return tensor;
  };
  // Two query heads on one key/value head of size 4, in a cache of 3 tokens.
  const tensor::Tensor query = make(8, 1), key = make(12, 2), value = make(12, 10);
  tensor::Tensor output = make(8, 0);
  std::shared_ptr<op::Layer> layer =
      std::make_shared<op::FlashAttention>(base::DeviceType::kDeviceCPU, 0, 2, 4, 3, 2, 4);
  std::dynamic_pointer_cast<op::FlashAttention>(layer)->set_pos(0);
  const base::Status status = layer->forward(query, key, value, output);
  for (int32_t i = 0; i < 8; ++i) {
    if (status && output.index<float>(i) == 10 + i % 4) continue;
    std::cerr << "output[" << i << "] is " << output.index<float>(i) << ": " << status << "\n";
    return 1;
  }
  return 0;
}
