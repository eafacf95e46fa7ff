#ifndef KFA_TESTS_E2E_BAD_FILES_H_
#define KFA_TESTS_E2E_BAD_FILES_H_
#include <string>
#include <vector>

#include "e2e/model_files.h"

namespace kfa_test {
// Spoilt files, and what the message about them must hold.
struct BadFiles {
  std::string label;
  ModelFiles files;
  std::string part;
};

inline std::string with_header(std::string checkpoint, size_t field, int32_t value) {
  return checkpoint.replace(field * sizeof(value), sizeof(value),
                            reinterpret_cast<const char*>(&value), sizeof(value));
}

inline std::vector<BadFiles> bad_files(const Folder& folder) {
  const std::string model = read_file(own_model().model);
  const std::string tokenizer = read_file(own_model().tokenizer);
  std::vector<BadFiles> list;
  const auto add_model = [&](const std::string& label, const std::string& content,
                             std::string part) {
    ModelFiles files = own_model();
    files.model = folder.write(label, content);
    list.push_back({label, files, std::move(part)});
  };
  const auto add_tokenizer = [&](const std::string& label, const std::string& content,
                                 std::string part) {
    ModelFiles files = own_model();
    files.tokenizer = folder.write(label, content);
    list.push_back({label, files, std::move(part)});
  };
  add_model("model_empty", "", "0 bytes");
  add_model("model_half_a_header", model.substr(0, 13), "13 bytes");
  add_model("model_header_alone", model.substr(0, 28), "28");
  add_model("model_one_byte_short", model.substr(0, model.size() - 1),
            std::to_string(model.size() - 1));
  add_model("model_half", model.substr(0, model.size() / 2), std::to_string(model.size() / 2));
  add_model("model_one_byte_long", model + '\0', std::to_string(model.size() + 1));
  add_model("model_of_text", std::string(1000, 'x'), "damaged");
  add_model("model_of_zeros", std::string(1000, '\0'), "dim is 0");
  add_model("model_is_the_tokenizer", tokenizer, "damaged");
  static const char* const kFields[] = {"dim",        "hidden_dim", "n_layers", "n_heads",
                                        "n_kv_heads", "vocab_size", "seq_len"};
  for (size_t field = 0; field < 7; ++field) {
    const std::string label = std::string("model_") + kFields[field];
    add_model(label + "_0", with_header(model, field, 0), kFields[field]);
    add_model(label + "_largest", with_header(model, field, INT32_MAX), "damaged");
    add_model(label + "_smallest", with_header(model, field, INT32_MIN), "damaged");
    if (field != 5) {
      add_model(label + "_minus_1", with_header(model, field, -1),
                std::string(kFields[field]) + " is -1");
    }
  }
  add_model("model_of_7_heads", with_header(model, 3, 7), "multiple");
  add_model("model_of_3_kv_heads", with_header(model, 4, 3), "multiple");
  add_model("model_of_odd_heads", with_header(with_header(model, 0, 24), 3, 8), "odd");
  add_model("model_overflows",
            with_header(with_header(with_header(model, 1, INT32_MAX), 2, INT32_MAX), 6, INT32_MAX),
            "damaged");
  add_tokenizer("tokenizer_empty", "", "tokenizer");
  add_tokenizer("tokenizer_half", tokenizer.substr(0, tokenizer.size() / 2), "tokenizer");
  add_tokenizer("tokenizer_of_text", std::string(1000, 'x'), "damaged");
  add_tokenizer("tokenizer_is_the_model", model, "damaged");

  ModelFiles missing = own_model(), directory = own_model();
  missing.model = folder.path("no such file");
  directory.model = folder.path();
  list.push_back({"model_missing", missing, "cannot open"});
  list.push_back({"model_is_a_directory", directory, "not a regular file"});
  missing = directory = own_model();
  missing.tokenizer = folder.path("no such file");
  directory.tokenizer = folder.path();
  list.push_back({"tokenizer_missing", missing, "cannot read"});
  list.push_back({"tokenizer_is_a_directory", directory, "tokenizer"});
  return list;
}
}  // namespace kfa_test
#endif  // KFA_TESTS_E2E_BAD_FILES_H_
