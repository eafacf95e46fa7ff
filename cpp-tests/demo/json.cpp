#include "json.h"

#include <cmath>
#include <cstdio>

namespace demo {
namespace {
// Bytes of the UTF-8 sequence that starts at `at`, or 0 where there is none. Byte tokens can break
// off inside a character, and JSON must be UTF-8.
size_t utf8_length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) {
    return static_cast<unsigned char>(i < text.size() ? text[i] : 0);
  };
  const unsigned char lead = byte(at);
  const size_t length = lead < 0x80   ? 1
                        : lead < 0xc2 ? 0
                        : lead < 0xe0 ? 2
                        : lead < 0xf0 ? 3
                        : lead < 0xf5 ? 4
                                      : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(at + 1);
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  const bool forbidden = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                         (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return forbidden ? 0 : length;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    const char c = text[at];
    if (length == 0) {
      out += "\\ufffd";
    } else if (length > 1) {
      out += text.substr(at, length);
    } else if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
    at += length == 0 ? 1 : length;
  }
  return out + "\"";
}

template <typename T, typename ToJson>
std::string array(const std::vector<T>& values, ToJson to_json) {
  std::string out;
  for (const T& value : values) out += (out.empty() ? "" : ",") + to_json(value);
  return "[" + out + "]";
}
}  // namespace

JsonObject& JsonObject::add_raw(const std::string& name, const std::string& json) {
  members_ += (members_.empty() ? "" : ",") + quoted(name) + ":" + json;
  return *this;
}

JsonObject& JsonObject::add(const std::string& name, const std::string& value) {
  return add_raw(name, quoted(value));
}

JsonObject& JsonObject::add(const std::string& name, const char* value) {
  return add_raw(name, quoted(value));
}

JsonObject& JsonObject::add(const std::string& name, double value) {
  if (!std::isfinite(value)) return add_null(name);
  char number[32];
  std::snprintf(number, sizeof number, "%.9g", value);
  return add_raw(name, number);
}

JsonObject& JsonObject::add(const std::string& name, int64_t value) {
  return add_raw(name, std::to_string(value));
}

JsonObject& JsonObject::add(const std::string& name, bool value) {
  return add_raw(name, value ? "true" : "false");
}

JsonObject& JsonObject::add(const std::string& name, const std::vector<int32_t>& values) {
  return add_raw(name, array(values, [](int32_t value) { return std::to_string(value); }));
}

JsonObject& JsonObject::add(const std::string& name, const JsonObject& value) {
  return add_raw(name, value.str());
}

JsonObject& JsonObject::add(const std::string& name, const std::vector<JsonObject>& values) {
  return add_raw(name, array(values, [](const JsonObject& value) { return value.str(); }));
}

JsonObject& JsonObject::add_null(const std::string& name) { return add_raw(name, "null"); }
}  // namespace demo
