#ifndef KFA_TESTS_E2E_MODEL_FILES_H_
#define KFA_TESTS_E2E_MODEL_FILES_H_
// The checkpoints that the tests read. KFA_MODELS_DIR and KFA_SHARED_DATA_DIR come from CMake.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <string>
#include <vector>

namespace kfa_test {
struct ModelFiles {
  const char* label;
  std::string model, tokenizer, golden_ids;

  std::string name() const { return label; }
  bool present() const {
    namespace fs = std::filesystem;
    return fs::exists(model) && fs::exists(tokenizer) && fs::exists(golden_ids);
  }
  // BOS and the greedy continuation.
  std::vector<int32_t> golden() const {
    std::ifstream file(golden_ids);
    return {std::istream_iterator<int32_t>(file), {}};
  }
};

inline void PrintTo(const ModelFiles& files, std::ostream* os) { *os << files.label; }

inline const ModelFiles& own_model() {
  static const std::string base = std::string(KFA_MODELS_DIR) + "/stories-gqa";
  static const ModelFiles files = {"stories_gqa", base + ".bin", base + ".model",
                                   base + ".golden_ids.txt"};
  return files;
}

// Not in the repository.
inline const ModelFiles& shared_model() {
  static const std::string folder = std::string(KFA_SHARED_DATA_DIR) + "/";
  static const ModelFiles files = {"stories260K", folder + "stories260K.bin",
                                   folder + "tok512_partial.model",
                                   folder + "stories260K.golden_ids.txt"};
  return files;
}

// The own checkpoint must be there; the shared one may be absent.
#define KFA_REQUIRE_FILES(files)                                                       \
  if (!(files).present()) {                                                            \
    ASSERT_NE((files).model, kfa_test::own_model().model) << "not found";              \
    GTEST_SKIP() << (files).model << ", its tokenizer or its golden ids are not here"; \
  }

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A folder of its own for each test, gone afterwards.
class Folder {
 public:
  Folder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string("kfa_") + test->test_suite_name() + "." + test->name() + "." +
                       std::to_string(getpid());
    for (char& c : name) c = c == '/' ? '_' : c;
    path_ = std::filesystem::temp_directory_path() / name;
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path(const std::string& name = "") const { return path_ / name; }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

 private:
  std::filesystem::path path_;
};
}  // namespace kfa_test
#endif  // KFA_TESTS_E2E_MODEL_FILES_H_
