#include "op/layer.h"

#include <utility>

#include "base/cuda.h"
#include "base/nvtx.h"

namespace op {
BaseLayer::BaseLayer(base::DeviceType device_type, LayerType layer_type, base::DataType data_type,
                     std::string layer_name)
    : layer_name_(std::move(layer_name)),
      layer_type_(layer_type),
      data_type_(data_type),
      device_type_(device_type) {}

Layer::Layer(base::DeviceType device_type, LayerType layer_type, std::string layer_name)
    : BaseLayer(device_type, layer_type, base::DataType::kDataTypeFp32, std::move(layer_name)) {}

base::Status Layer::init() { return base::error::Success(); }

base::Status Layer::check() const {
  return base::error::FunctionNotImplement(layer_name_ + " has no check");
}

base::Status Layer::forward() {
  return base::error::FunctionNotImplement(layer_name_ + " has no forward");
}

base::Status Layer::run(std::initializer_list<const tensor::Tensor*> inputs,
                        const tensor::Tensor& output) {
  int32_t idx = 0;
  for (const tensor::Tensor* input : inputs) set_input(idx++, *input);
  // A layer that works in place has no output.
  if (!outputs_.empty()) set_output(0, output);
  const base::NvtxRange range(layer_name_.c_str());
  return forward();
}

base::Status Layer::forward(const tensor::Tensor& input1, const tensor::Tensor& output1) {
  return run({&input1}, output1);
}

base::Status Layer::forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                            const tensor::Tensor& output1) {
  return run({&input1, &input2}, output1);
}

base::Status Layer::forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                            const tensor::Tensor& input3, const tensor::Tensor& output1) {
  return run({&input1, &input2, &input3}, output1);
}

base::Status Layer::forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                            const tensor::Tensor& input3, const tensor::Tensor& input4,
                            const tensor::Tensor& output1) {
  return run({&input1, &input2, &input3, &input4}, output1);
}

base::Status Layer::forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                            const tensor::Tensor& input3, const tensor::Tensor& input4,
                            const tensor::Tensor& input5, const tensor::Tensor& output1) {
  return run({&input1, &input2, &input3, &input4, &input5}, output1);
}

void Layer::set_input(int32_t idx, const tensor::Tensor& input) { inputs_.at(idx) = input; }
void Layer::set_output(int32_t idx, const tensor::Tensor& output) { outputs_.at(idx) = output; }
tensor::Tensor& Layer::get_input(int32_t idx) { return inputs_.at(idx); }
tensor::Tensor& Layer::get_output(int32_t idx) { return outputs_.at(idx); }
const tensor::Tensor& Layer::get_input(int32_t idx) const { return inputs_.at(idx); }
const tensor::Tensor& Layer::get_output(int32_t idx) const { return outputs_.at(idx); }

base::Status Layer::invalid(const std::string& message) const {
  return base::error::InvalidArgument(layer_name_ + ": " + message);
}

base::Status Layer::no_kernel() const {
  return base::error::FunctionNotImplement(layer_name_ + " has no kernel for device " +
                                           base::DeviceName(device_type_));
}

base::Status Layer::launched() const {
  if (device_type_ != base::DeviceType::kDeviceCUDA) return base::error::Success();
  return base::check_cuda_launch();
}

base::Status Layer::check_tensor(const tensor::Tensor& tensor, base::DeviceType device_type,
                                 base::DataType data_type) const {
  if (tensor.is_empty()) return invalid("the tensor is empty");
  if (tensor.device_type() != device_type) return invalid("the tensor is on another device");
  if (tensor.data_type() != data_type) return invalid("the tensor has another data type");
  return base::error::Success();
}

base::Status Layer::check_fp32(const tensor::Tensor& tensor, size_t size, const char* what) const {
  RETURN_IF_ERROR(check_tensor(tensor, device_type_, base::DataType::kDataTypeFp32));
  if (tensor.size() == size) return base::error::Success();
  return invalid(std::string(what) + " has " + std::to_string(tensor.size()) +
                 " elements, expected " + std::to_string(size));
}

base::Status LayerParam::set_weight(int32_t idx, const tensor::Tensor& weight) {
  RETURN_IF_ERROR(check_tensor(weight, device_type_, base::DataType::kDataTypeFp32));
  weights_.at(idx) = weight;
  return base::error::Success();
}

base::Status LayerParam::set_weight(int32_t idx, const std::vector<int32_t>& dims,
                                    const float* weight_ptr, base::DeviceType device_type) {
  // Kernels only read weights; the tensor type has no read-only form.
  tensor::Tensor weight(base::DataType::kDataTypeFp32, dims, false, nullptr,
                        const_cast<float*>(weight_ptr));
  weight.set_device_type(device_type);
  return set_weight(idx, weight);
}
}  // namespace op
