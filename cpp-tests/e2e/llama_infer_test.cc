// The llama_infer binary (KFA_LLAMA_INFER, from CMake): exit status and messages.
#include <sys/wait.h>

#include <algorithm>
#include <sstream>

#include "base/cuda.h"
#include "e2e/bad_files.h"

namespace kfa_test {
namespace {
struct Result {
  int exit_status = -1;
  std::string out, err;
};

class LlamaInfer : public testing::Test {
 protected:
  // Flash attention is there unless `flash_disabled`, whatever this process's environment says.
  Result run(const std::vector<std::string>& args, bool flash_disabled = false) const {
    std::string command =
        std::string("KFA_DISABLE_FLASH_ATTENTION=") + (flash_disabled ? "1 " : "0 ");
    command += quoted(KFA_LLAMA_INFER);
    for (const std::string& arg : args) command += " " + quoted(arg);
    const std::string out = folder_.path("stdout"), err = folder_.path("stderr");
    const int status =
        std::system((command + " >" + quoted(out) + " 2>" + quoted(err) + " </dev/null").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -status, read_file(out), read_file(err)};
  }

  // One line on stderr that holds the part; no output; this exit status.
  void expect_failure(const std::vector<std::string>& args, int exit_status,
                      const std::string& part) const {
    const Result result = run(args);
    EXPECT_EQ(result.exit_status, exit_status) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.rfind("llama_infer: ", 0), 0u) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << "no '" << part << "' in: " << result.err;
  }

  static std::vector<std::string> on(const ModelFiles& files, std::vector<std::string> options) {
    options.insert(options.begin(), {files.model, files.tokenizer});
    return options;
  }

  Folder folder_;

 private:
  static std::string quoted(const std::string& text) { return "'" + text + "'"; }
};

#ifdef KUIPER_USE_FLASH_ATTENTION
constexpr const char* kAttentions[] = {"--attention=flash", "--attention=standard"};
#else
constexpr const char* kAttentions[] = {"--attention=auto", "--attention=standard"};
#endif

class LlamaInferWrites : public LlamaInfer, public testing::WithParamInterface<ModelFiles> {};
INSTANTIATE_TEST_SUITE_P(EndToEnd, LlamaInferWrites, testing::Values(own_model(), shared_model()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(LlamaInferWrites, TheGoldenIds) {
  KFA_REQUIRE_FILES(GetParam());
  const std::vector<int32_t> golden = GetParam().golden();
  ASSERT_GE(golden.size(), 257u);
  std::string prompt;  // the first half, without BOS
  const size_t prompt_size = golden.size() / 2;
  for (size_t i = 1; i <= prompt_size; ++i)
    prompt += (i > 1 ? "," : "") + std::to_string(golden[i]);

  const std::string all = std::to_string(golden.size() - 1);
  const std::string rest = std::to_string(golden.size() - 1 - prompt_size);
  const std::vector<std::string> runs[] = {
      {"--steps=" + all},
      {"--prompt_ids=" + prompt, "--steps=" + rest},
      {"--prompt_ids=" + prompt, "--steps=" + rest, "--prefill_chunk=7"},
      {"--prompt_ids=" + prompt, "--steps=" + rest, "--prefill_chunk=32"},
      {"--prompt_ids=" + prompt, "--steps=" + rest, "--prefill_chunk=1000"},
  };
  for (const char* attention : kAttentions) {
    for (std::vector<std::string> options : runs) {
      SCOPED_TRACE(testing::Message() << attention << " " << options.back());
      options.insert(options.end(), {attention, "--ids", "--ignore_eos"});
      const Result result = run(on(GetParam(), options));
      ASSERT_EQ(result.exit_status, 0) << result.err;
      std::istringstream words(result.out);
      const std::vector<int32_t> ids{std::istream_iterator<int32_t>(words), {}};
      EXPECT_EQ(ids, golden);
    }
  }
}

#ifdef KUIPER_USE_FLASH_ATTENTION
TEST_F(LlamaInfer, ComparesBothAttentions) {
  const Result result =
      run(on(own_model(), {"--compare", "--steps=300", "--ignore_eos", "--json"}));
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_NE(result.out.find("\"identical\":true"), std::string::npos) << result.out.substr(0, 200);
  EXPECT_NE(result.out.find("flash_decode"), std::string::npos);
  EXPECT_NE(result.out.find("standard_mha"), std::string::npos);
}

TEST_F(LlamaInfer, WritesTheSameWhereFlashIsDisabled) {
  const std::vector<std::string> args = on(own_model(), {"--steps=50"});
  const Result flash = run(args), standard = run(args, true);
  EXPECT_EQ(standard.exit_status, 0) << standard.err;
  EXPECT_EQ(standard.out, flash.out);
  EXPECT_NE(flash.err.find("flash_decode"), std::string::npos) << flash.err;
  EXPECT_NE(standard.err.find("kernel: cpu.standard_mha"), std::string::npos) << standard.err;
  EXPECT_NE(standard.err.find("disabled by KFA_DISABLE_FLASH_ATTENTION"), std::string::npos)
      << standard.err;
}
#else
TEST_F(LlamaInfer, WithoutFlashAskingForItIsWrongUsage) {
  expect_failure(on(own_model(), {"--attention=flash"}), 2, "USE_FLASH_ATTENTION=OFF");
}
#endif

TEST_F(LlamaInfer, BadFilesExitWithOneLine) {
  for (const BadFiles& bad : bad_files(folder_)) {
    SCOPED_TRACE(bad.label);
    expect_failure(on(bad.files, {"--steps=4"}), 1, bad.part);
  }
}

TEST_F(LlamaInfer, WrongUsageExitsWithOneLine) {
  expect_failure({}, 2, "expected a model");
  expect_failure({own_model().model}, 2, "tokenizer");
  expect_failure(on(own_model(), {"one more"}), 2, "one more");
  expect_failure(on(own_model(), {"--nonsense"}), 2, "--nonsense");
  expect_failure(on(own_model(), {"--attention=fast"}), 2, "--attention=fast");
  for (const char* option : {"--steps=0", "--steps=-1", "--steps=x", "--steps=", "--steps=3x",
                             "--steps=99999999999", "--prefill_chunk=0", "--prompt_ids=1,,2"}) {
    SCOPED_TRACE(option);
    expect_failure(on(own_model(), {option}), 2, option);
  }
}

TEST_F(LlamaInfer, WhatTheModelCannotTakeExitsWithOneLine) {
  std::shared_ptr<kernel::CudaConfig> config;
  if (!base::create_cuda_config(config)) {
    expect_failure(on(own_model(), {"--device=cuda"}), 1, "cuda");
    expect_failure({"--benchmark", "--device=cuda"}, 1, "cuda");
  }
  expect_failure(on(own_model(), {"--prompt_ids=1,512"}), 1, "512");
  std::string ids = "--prompt_ids=5";
  for (int i = 0; i < 600; ++i) ids += ",5";
  expect_failure(on(own_model(), {ids}), 1, "602");
}
}  // namespace
}  // namespace kfa_test
