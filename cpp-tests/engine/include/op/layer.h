#ifndef KUIPER_OP_LAYER_H_
#define KUIPER_OP_LAYER_H_
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/base.h"
#include "base/cuda_config.h"
#include "tensor/tensor.h"

namespace op {
enum class LayerType : uint8_t {
  kLayerUnknown = 0,
  kLayerLinear = 1,
  kLayerEncode = 2,
  kLayerEmbedding = 3,
  kLayerRMSNorm = 4,
  kLayerMatmul = 5,
  kLayerRoPe = 6,
  kLayerMHA = 7,
  kLayerSoftmax = 8,
  kLayerAdd = 9,
  kLayerSwiGLU = 10,
};

class BaseLayer {
 public:
  explicit BaseLayer(base::DeviceType device_type, LayerType layer_type, base::DataType data_type,
                     std::string layer_name = "");
  virtual ~BaseLayer() = default;

  virtual base::Status init() = 0;
  virtual base::Status check() const = 0;
  virtual base::Status forward() = 0;
  virtual void set_input(int32_t idx, const tensor::Tensor& input) = 0;
  virtual void set_output(int32_t idx, const tensor::Tensor& output) = 0;
  virtual size_t input_size() const = 0;
  virtual size_t output_size() const = 0;
  virtual tensor::Tensor& get_input(int32_t idx) = 0;
  virtual tensor::Tensor& get_output(int32_t idx) = 0;
  virtual const tensor::Tensor& get_input(int32_t idx) const = 0;
  virtual const tensor::Tensor& get_output(int32_t idx) const = 0;

  base::DataType data_type() const { return data_type_; }
  LayerType layer_type() const { return layer_type_; }
  base::DeviceType device_type() const { return device_type_; }
  void set_device_type(base::DeviceType device_type) { device_type_ = device_type; }
  const std::string& get_layer_name() const { return layer_name_; }
  void set_layer_name(const std::string& layer_name) { layer_name_ = layer_name; }

 protected:
  std::string layer_name_;
  LayerType layer_type_;
  base::DataType data_type_;
  base::DeviceType device_type_;
};

class Layer : public BaseLayer {
 public:
  explicit Layer(base::DeviceType device_type, LayerType layer_type, std::string layer_name = "");

  base::Status init() override;
  base::Status check() const override;
  base::Status forward() override;

  // Each sets the inputs in order, then the output, and runs forward().
  base::Status forward(const tensor::Tensor& input1, const tensor::Tensor& output1);
  base::Status forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                       const tensor::Tensor& output1);
  base::Status forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                       const tensor::Tensor& input3, const tensor::Tensor& output1);
  base::Status forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                       const tensor::Tensor& input3, const tensor::Tensor& input4,
                       const tensor::Tensor& output1);
  base::Status forward(const tensor::Tensor& input1, const tensor::Tensor& input2,
                       const tensor::Tensor& input3, const tensor::Tensor& input4,
                       const tensor::Tensor& input5, const tensor::Tensor& output1);

  void set_input(int32_t idx, const tensor::Tensor& input) override;
  void set_output(int32_t idx, const tensor::Tensor& output) override;
  size_t input_size() const override { return inputs_.size(); }
  size_t output_size() const override { return outputs_.size(); }
  tensor::Tensor& get_input(int32_t idx) override;
  tensor::Tensor& get_output(int32_t idx) override;
  const tensor::Tensor& get_input(int32_t idx) const override;
  const tensor::Tensor& get_output(int32_t idx) const override;
  void reset_input_size(size_t size) { inputs_.resize(size); }
  void reset_output_size(size_t size) { outputs_.resize(size); }

  void set_cuda_config(std::shared_ptr<kernel::CudaConfig> config) { cuda_config_ = config; }
  std::shared_ptr<kernel::CudaConfig> cuda_config() const { return cuda_config_; }
  std::shared_ptr<kernel::CudaConfig> cuda_config_;

  // InvalidArgument for an empty tensor, another device or another data type.
  base::Status check_tensor(const tensor::Tensor& tensor, base::DeviceType device_type,
                            base::DataType data_type) const;

 protected:
  // An fp32 tensor on this layer's device with exactly `size` elements.
  base::Status check_fp32(const tensor::Tensor& tensor, size_t size, const char* what) const;
  base::Status invalid(const std::string& message) const;

  // Where CUDA work is enqueued; nullptr, the default stream, without a configuration.
  cudaStream_t stream() const { return cuda_config_ ? cuda_config_->stream : nullptr; }

  // Checks the tensors, then calls what a kernel getter gave.
  template <typename Kernel, typename... Args>
  base::Status launch(Kernel* kernel, const Args&... args) const {
    RETURN_IF_ERROR(check());
    if (!kernel) return no_kernel();
    kernel(args...);
    return launched();
  }

  std::vector<tensor::Tensor> inputs_;
  std::vector<tensor::Tensor> outputs_;

 private:
  base::Status no_kernel() const;
  base::Status launched() const;
  base::Status run(std::initializer_list<const tensor::Tensor*> inputs,
                   const tensor::Tensor& output);
};

// A layer with weights, which stay in the caller's memory (the checkpoint's).
class LayerParam : public Layer {
 public:
  using Layer::Layer;

  size_t weight_size() const { return weights_.size(); }
  void reset_weight_size(size_t size) { weights_.resize(size); }
  tensor::Tensor& get_weight(int32_t idx) { return weights_.at(idx); }
  const tensor::Tensor& get_weight(int32_t idx) const { return weights_.at(idx); }
  base::Status set_weight(int32_t idx, const tensor::Tensor& weight);
  base::Status set_weight(int32_t idx, const std::vector<int32_t>& dims, const float* weight_ptr,
                          base::DeviceType device_type);

 private:
  std::vector<tensor::Tensor> weights_;
};
}  // namespace op
#endif  // KUIPER_OP_LAYER_H_
