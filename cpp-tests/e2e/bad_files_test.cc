// Damaged, truncated and mismatched files give the model a Status.
#include "e2e/bad_files.h"

#include "model/llama.h"

namespace kfa_test {
namespace {
base::Status init(const ModelFiles& files) {
  model::LlamaModel llama(files.tokenizer, files.model, model::AttentionPath::kStandard);
  return llama.init(base::DeviceType::kDeviceCPU);
}

void expect_error(const ModelFiles& files, const std::string& path, const std::string& part) {
  const base::Status status = init(files);
  EXPECT_FALSE(status);
  const std::string message = status.get_err_msg();
  EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
  EXPECT_NE(message.find(path), std::string::npos) << "no path in: " << message;
}

TEST(BadModelFiles, GiveAStatusThatNamesFileAndFault) {
  ASSERT_TRUE(init(own_model()));
  const Folder folder;
  for (const BadFiles& bad : bad_files(folder)) {
    SCOPED_TRACE(bad.label);
    const bool spoilt_model = bad.files.model != own_model().model;
    expect_error(bad.files, spoilt_model ? bad.files.model : bad.files.tokenizer, bad.part);
  }
}

TEST(BadModelFiles, ATokenizerOfAnotherVocabularyIsRefused) {
  ModelFiles files = own_model();
  files.tokenizer = std::string(KFA_SHARED_DATA_DIR) + "/tokenizer.model";
  if (!std::filesystem::exists(files.tokenizer)) GTEST_SKIP() << files.tokenizer << " is not here";
  expect_error(files, files.tokenizer, "32000");
}

// The same without the shared files: a checkpoint of another vocabulary, made here.
TEST(BadModelFiles, ACheckpointOfAnotherVocabularyIsRefused) {
  constexpr int32_t kHeader[7] = {8, 16, 1, 2, 1, 300, 4};
  const size_t floats = 300 * 8 + (8 + 64 + 32 + 32 + 64) + (8 + 3 * 128) + 8 + 4 * 4;
  const std::string content = std::string(reinterpret_cast<const char*>(kHeader), sizeof(kHeader)) +
                              std::string(floats * sizeof(float), '\0');
  const Folder folder;
  ModelFiles files = own_model();
  files.model = folder.write("vocabulary_of_300", content);
  expect_error(files, files.model, "300");
}
}  // namespace
}  // namespace kfa_test
