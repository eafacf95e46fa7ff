// A C++ program on the installed wrapper.
#include <iostream>
#include <kuiper_flash_attention/kfa.hpp>

int main() {
  kfa_attention_desc desc = kfa::desc();
  try {
    kfa::check(kfa_attention_forward(&desc));
  } catch (const kfa::Error& error) {
    std::cout << "refused as expected: " << error.what() << "\n";
    return error.status() == KFA_ERROR_INVALID_ARGUMENT ? 0 : 1;
  }
  std::cerr << "an empty problem was not refused\n";
  return 1;
}
