/* A C program on the installed library: with one key, attention returns that key's value. */
#include <kuiper_flash_attention/kfa.h>
#include <stdio.h>

int main(void) {
  const uint32_t header =
      KFA_VERSION_MAJOR * 1000000 + KFA_VERSION_MINOR * 1000 + KFA_VERSION_PATCH;
  float query[2] = {1, 2}, key[2] = {3, 4}, value[2] = {5, 6}, output[2] = {0, 0};
  kfa_attention_desc desc;
  if (kfa_version() != header) {
    fprintf(stderr, "the library is %s, its header is not\n", kfa_version_string());
    return 1;
  }
  kfa_attention_desc_init(&desc);
  desc.q_len = desc.kv_len = desc.heads = desc.kv_heads = 1;
  desc.head_dim = 2;
  desc.query.data = query;
  desc.key.data = key;
  desc.value.data = value;
  desc.output.data = output;
  if (kfa_attention_forward(&desc) != KFA_OK || output[0] != 5 || output[1] != 6) {
    fprintf(stderr, "output %g %g: %s\n", output[0], output[1], kfa_last_error_message());
    return 1;
  }
  return 0;
}
