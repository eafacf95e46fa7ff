#ifndef KUIPER_MODEL_CHECKPOINT_H_
#define KUIPER_MODEL_CHECKPOINT_H_
#include <array>
#include <memory>
#include <string>

#include "base/base.h"
#include "base/buffer.h"
#include "base/cuda_config.h"
#include "model/config.h"

namespace model {
// The sections of a checkpoint in file order.
enum class Weight {
  kTokenEmbedding,
  kRmsAtt,
  kWq,
  kWk,
  kWv,
  kWo,
  kRmsFfn,
  kW1,
  kW2,
  kW3,
  kRmsFinal,
  kFreqTables,  // cosines and sines, which the engine computes itself
  kClassifier,  // absent where it is the token embedding
  kCount,
};

// A llama2.c float32 checkpoint ("legacy" export), mapped read-only and validated by open():
// seven int32, then the sections above. After that every weight() lies inside the file.
class Checkpoint : public base::NoCopyable {
 public:
  Checkpoint() = default;
  ~Checkpoint();

  base::Status open(const std::string& path);

  // Copies all weights to the device, as one block; weight() points there from then on.
  base::Status to_cuda(cudaStream_t stream);

  const TransformerConfig& config() const { return config_; }
  const float* weight(Weight which, int32_t layer = 0) const;

 private:
  struct Section {
    uint64_t offset = 0;  // of its first float, after the header
    uint64_t size = 0;    // floats of one layer
  };

  base::Status map(const std::string& path);
  base::Status read_config();
  base::Status lay_out_sections();
  const void* mapped_weights() const;

  TransformerConfig config_;
  void* data_ = nullptr;
  size_t byte_size_ = 0;
  std::array<Section, static_cast<size_t>(Weight::kCount)> sections_;
  std::unique_ptr<base::Buffer> cuda_weights_;
};
}  // namespace model
#endif  // KUIPER_MODEL_CHECKPOINT_H_
