/* A C program on the shared library: a decode step over three keys, against the definition. */
#include <kuiper_flash_attention/kfa.h>

#include <math.h>
#include <stdio.h>

enum { KEYS = 3, DIM = 4 };

int main(void) {
  float query[DIM] = {1, -2, 0.5f, 3};
  float key[KEYS][DIM] = {{0.5f, 1, 2, 0}, {-1, 0, 1, 0.5f}, {2, 0.25f, 0, -1}};
  float value[KEYS][DIM] = {{1, 2, 3, 4}, {-4, 3, -2, 1}, {0.5f, 0, 8, -8}};
  float output[DIM] = {0}, lse = 0;
  double weight[KEYS], sum = 0;
  char text[1024];
  size_t needed = 0, workspace = 1;
  kfa_attention_desc desc;
  int i, k;

  if (kfa_attention_desc_init(&desc) != KFA_OK) return 1;
  desc.q_len = desc.heads = desc.kv_heads = 1;
  desc.kv_len = KEYS;
  desc.head_dim = DIM;
  desc.query.data = query;
  desc.key.data = key;
  desc.value.data = value;
  desc.output.data = output;
  desc.lse = &lse;
  if (kfa_attention_explain(&desc, text, sizeof text, &needed) != KFA_OK || text[0] == '\0') return 2;
  if (kfa_attention_workspace_size(&desc, &workspace) != KFA_OK || workspace != 0) return 3;
  if (kfa_attention_forward(&desc) != KFA_OK) {
    fprintf(stderr, "%s\n", kfa_last_error_message());
    return 4;
  }
  for (k = 0; k < KEYS; k++) {
    double score = 0;
    for (i = 0; i < DIM; i++) score += (double)query[i] * key[k][i];
    sum += weight[k] = exp(score / sqrt((double)DIM));
  }
  for (i = 0; i < DIM; i++) {
    double expected = 0;
    for (k = 0; k < KEYS; k++) expected += weight[k] / sum * value[k][i];
    if (!(fabs(output[i] - expected) < 1e-5)) {
      fprintf(stderr, "output[%d] is %g, expected %g\n", i, output[i], expected);
      return 5;
    }
  }
  if (!(fabs(lse - log(sum)) < 1e-5)) return 6;

  /* A bad call says what is wrong and writes nothing. */
  desc.kv_heads = 0;
  output[0] = 7;
  if (kfa_attention_forward(&desc) != KFA_ERROR_INVALID_ARGUMENT || output[0] != 7) return 7;
  if (kfa_last_error_message()[0] == '\0') return 8;
  return 0;
}
