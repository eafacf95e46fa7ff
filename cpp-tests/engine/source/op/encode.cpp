#include "op/encode.h"

#include <sentencepiece_processor.h>

#include <fstream>
#include <sstream>

namespace op {
EncodeLayer::EncodeLayer()
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {}
EncodeLayer::~EncodeLayer() = default;

base::Status EncodeLayer::load(const std::string& path) {
  // Read here rather than by the library, which throws on a directory.
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) {
    return base::error::PathNotValid("cannot read the tokenizer " + path);
  }
  if (!processor_->LoadFromSerializedProto(content.str()).ok()) {
    return base::error::ModelParseError("the tokenizer " + path +
                                        " is damaged or no SentencePiece model");
  }
  if (bos() < 0 || eos() < 0) {
    return base::error::ModelParseError("the tokenizer " + path + " has no BOS or EOS piece");
  }
  return base::error::Success();
}

base::Status EncodeLayer::encode(const std::string& sentence, std::vector<int32_t>& ids) const {
  if (!processor_->Encode(sentence, &ids).ok()) {
    return base::error::InternalError("the tokenizer failed on the prompt");
  }
  for (int32_t id : ids) {
    if (processor_->IsUnknown(id)) {
      return base::error::InvalidArgument("the tokenizer has no piece for a part of the prompt");
    }
  }
  return base::error::Success();
}

std::string EncodeLayer::decode(int32_t id) const {
  if (id < 0 || id >= vocab_size() || processor_->IsControl(id)) return "";
  std::string piece = processor_->IdToPiece(id);
  // A byte piece is spelt <0xHH>.
  if (processor_->IsByte(id))
    return {static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16))};
  const std::string space_mark = "\u2581";
  for (size_t at; (at = piece.find(space_mark)) != std::string::npos;) {
    piece.replace(at, space_mark.size(), " ");
  }
  return piece;
}

std::string EncodeLayer::decode(const std::vector<int32_t>& ids) const {
  std::string text;
  for (int32_t id : ids) text += decode(id);
  return text.substr(text.rfind(' ', 0) == 0 ? 1 : 0);
}

int32_t EncodeLayer::vocab_size() const { return processor_->GetPieceSize(); }
int32_t EncodeLayer::bos() const { return processor_->bos_id(); }
int32_t EncodeLayer::eos() const { return processor_->eos_id(); }
}  // namespace op
