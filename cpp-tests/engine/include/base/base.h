#ifndef KUIPER_BASE_BASE_H_
#define KUIPER_BASE_BASE_H_
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>

#include "base/log.h"

namespace base {
enum class DeviceType : uint8_t {
  kDeviceUnknown = 0,
  kDeviceCPU = 1,
  kDeviceCUDA = 2,
};

enum class DataType : uint8_t {
  kDataTypeUnknown = 0,
  kDataTypeFp32 = 1,
  kDataTypeInt8 = 2,
  kDataTypeInt32 = 3,
  kDataTypeFp16 = 4,
};

const char* DeviceName(DeviceType device_type);

// Bytes of one element; 0 for an unknown type.
size_t DataTypeSize(DataType data_type);

class NoCopyable {
 public:
  NoCopyable(const NoCopyable&) = delete;
  NoCopyable& operator=(const NoCopyable&) = delete;

 protected:
  NoCopyable() = default;
  ~NoCopyable() = default;
};

enum StatusCode : uint8_t {
  kSuccess = 0,
  kFunctionUnImplement = 1,
  kPathNotValid = 2,
  kModelParseError = 3,
  kInternalError = 5,
  kKeyValueHasExist = 6,
  kInvalidArgument = 7,
};

// A code and a one-line message. As a bool it is true on success; as an int it is the code.
class Status {
 public:
  Status(int code = StatusCode::kSuccess, std::string err_message = "");

  bool operator==(int code) const;
  bool operator!=(int code) const;
  operator int() const;
  operator bool() const;

  int32_t get_err_code() const;
  const std::string& get_err_msg() const;
  void set_err_msg(const std::string& err_msg);

 private:
  int code_;
  std::string message_;
};

std::ostream& operator<<(std::ostream& os, const Status& status);

namespace error {
Status Success(const std::string& err_msg = "");
Status FunctionNotImplement(const std::string& err_msg = "");
Status PathNotValid(const std::string& err_msg = "");
Status ModelParseError(const std::string& err_msg = "");
Status InternalError(const std::string& err_msg = "");
Status KeyHasExits(const std::string& err_msg = "");
Status InvalidArgument(const std::string& err_msg = "");
}  // namespace error
}  // namespace base

#define RETURN_IF_ERROR(expression)                                      \
  do {                                                                   \
    if (::base::Status status_ = (expression); !status_) return status_; \
  } while (0)

#endif  // KUIPER_BASE_BASE_H_
