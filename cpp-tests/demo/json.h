#ifndef LLAMA_INFER_JSON_H_
#define LLAMA_INFER_JSON_H_
#include <cstdint>
#include <string>
#include <vector>

namespace demo {
// Builds one JSON object, members in the order of the calls.
class JsonObject {
 public:
  JsonObject& add(const std::string& name, const std::string& value);
  JsonObject& add(const std::string& name, const char* value);
  JsonObject& add(const std::string& name, double value);  // null where it is not finite
  JsonObject& add(const std::string& name, int64_t value);
  JsonObject& add(const std::string& name, bool value);
  JsonObject& add(const std::string& name, const std::vector<int32_t>& values);
  JsonObject& add(const std::string& name, const JsonObject& value);
  JsonObject& add(const std::string& name, const std::vector<JsonObject>& values);
  JsonObject& add_null(const std::string& name);

  std::string str() const { return "{" + members_ + "}"; }

 private:
  JsonObject& add_raw(const std::string& name, const std::string& json);
  std::string members_;
};
}  // namespace demo
#endif  // LLAMA_INFER_JSON_H_
