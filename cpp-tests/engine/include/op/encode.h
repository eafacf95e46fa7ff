#ifndef KUIPER_OP_ENCODE_H_
#define KUIPER_OP_ENCODE_H_
#include <memory>
#include <string>
#include <vector>

#include "base/base.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace op {
// The SentencePiece tokenizer: text to token ids and back.
class EncodeLayer {
 public:
  EncodeLayer();
  ~EncodeLayer();

  base::Status load(const std::string& path);

  // Without BOS. An error where a part of the sentence has no piece.
  base::Status encode(const std::string& sentence, std::vector<int32_t>& ids) const;

  // The text of one piece, with its leading space; control pieces have none. Concatenated pieces
  // are the text, so a generator can print as it goes.
  std::string decode(int32_t id) const;
  // The whole text, without the space that SentencePiece puts before the first word.
  std::string decode(const std::vector<int32_t>& ids) const;

  int32_t vocab_size() const;
  int32_t bos() const;
  int32_t eos() const;

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};
}  // namespace op
#endif  // KUIPER_OP_ENCODE_H_
