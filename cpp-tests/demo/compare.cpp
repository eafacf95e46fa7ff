#include "compare.h"

#include <algorithm>
#include <iostream>

#include "format.h"
#include "generate.h"
#include "progress.h"

namespace demo {
namespace {
void print_table(const Generation& flash, const Generation& standard) {
  const auto row = [](const char* name, const std::string& left, const std::string& right) {
    std::cout << format("%-16s %24s %24s\n", name, left.c_str(), right.c_str());
  };
  row("", "flash", "standard");
  row("tokens/s", format("%.1f", flash.tokens_per_second()),
      format("%.1f", standard.tokens_per_second()));
  row("attention ms", format("%.2f", flash.attention_seconds * 1e3),
      format("%.2f", standard.attention_seconds * 1e3));
  row("score memory", format_bytes(flash.score_storage_bytes),
      format_bytes(standard.score_storage_bytes));
  row("kernel", flash.kernel, standard.kernel);
}

// The tokens as text, or as ids.
std::string product(const Args& args, const Generation& generation) {
  if (!args.ids) return generation.text;
  std::string line;
  for (int32_t id : generation.ids) line += (line.empty() ? "" : " ") + std::to_string(id);
  return line;
}
}  // namespace

base::Status compare(const Args& args, bool& identical) {
  Generation flash, standard;
  {
    Progress progress;
    const auto run = [&](Attention attention, const char* name, Generation& result) {
      int32_t count = 0;
      return generate(
          args, attention,
          [&](int32_t, const std::string&) {
            progress.show(format("%s: token %d", name, ++count));
          },
          result);
    };
    RETURN_IF_ERROR(run(Attention::kFlash, "flash", flash));
    RETURN_IF_ERROR(run(Attention::kStandard, "standard", standard));
  }

  const auto differing =
      std::mismatch(flash.ids.begin(), flash.ids.end(), standard.ids.begin(), standard.ids.end());
  identical = flash.ids == standard.ids;
  const long first_difference = differing.first - flash.ids.begin();
  if (args.json) {
    JsonObject json;
    json.add("mode", "compare").add("identical", identical);
    if (!identical) json.add("first_difference", int64_t{first_difference});
    json.add("flash", to_json(flash))
        .add("standard", to_json(standard))
        .add("device", base::DeviceName(args.device))
        .add("threads", int64_t{thread_count()})
        .add("library_version", library_version());
    std::cout << json.str() << '\n';
    return base::error::Success();
  }

  if (identical) {
    std::cout << product(args, flash) << "\n\n";
  } else {
    std::cout << "flash:\n"
              << product(args, flash) << "\n\nstandard:\n"
              << product(args, standard) << "\n\n";
  }
  print_table(flash, standard);
  if (identical) {
    std::cout << "identical: yes (" << flash.generated() << " tokens)\n";
  } else {
    const auto id_at = [](const auto& at, const std::vector<int32_t>& ids) {
      return at == ids.end() ? std::string("the end") : std::to_string(*at);
    };
    std::cout << "identical: no, first difference at token " << first_difference << ": flash has "
              << id_at(differing.first, flash.ids) << ", standard has "
              << id_at(differing.second, standard.ids) << '\n';
  }
  return base::error::Success();
}
}  // namespace demo
