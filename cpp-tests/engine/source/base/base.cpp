#include "base/base.h"

#include <utility>

namespace base {
const char* DeviceName(DeviceType device_type) {
  switch (device_type) {
    case DeviceType::kDeviceCPU:
      return "cpu";
    case DeviceType::kDeviceCUDA:
      return "cuda";
    default:
      return "unknown";
  }
}

size_t DataTypeSize(DataType data_type) {
  switch (data_type) {
    case DataType::kDataTypeFp32:
    case DataType::kDataTypeInt32:
      return 4;
    case DataType::kDataTypeFp16:
      return 2;
    case DataType::kDataTypeInt8:
      return 1;
    default:
      return 0;
  }
}

Status::Status(int code, std::string err_message) : code_(code), message_(std::move(err_message)) {}

bool Status::operator==(int code) const { return code_ == code; }
bool Status::operator!=(int code) const { return code_ != code; }
Status::operator int() const { return code_; }
Status::operator bool() const { return code_ == kSuccess; }
int32_t Status::get_err_code() const { return code_; }
const std::string& Status::get_err_msg() const { return message_; }
void Status::set_err_msg(const std::string& err_msg) { message_ = err_msg; }

std::ostream& operator<<(std::ostream& os, const Status& status) {
  return os << status.get_err_msg();
}

namespace error {
Status Success(const std::string& err_msg) { return Status(kSuccess, err_msg); }
Status FunctionNotImplement(const std::string& err_msg) {
  return Status(kFunctionUnImplement, err_msg);
}
Status PathNotValid(const std::string& err_msg) { return Status(kPathNotValid, err_msg); }
Status ModelParseError(const std::string& err_msg) { return Status(kModelParseError, err_msg); }
Status InternalError(const std::string& err_msg) { return Status(kInternalError, err_msg); }
Status KeyHasExits(const std::string& err_msg) { return Status(kKeyValueHasExist, err_msg); }
Status InvalidArgument(const std::string& err_msg) { return Status(kInvalidArgument, err_msg); }
}  // namespace error
}  // namespace base
