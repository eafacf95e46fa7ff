/* A program that was compiled against the first header: see growth_test.cc. */
#include "headers/kfa-0.1.h"

size_t kfa_old_desc_size(void);
size_t kfa_old_merge_desc_size(void);
int kfa_old_client(kfa_attention_desc* desc, float* query, float* key, float* value, float* output,
                   float* lse);
int kfa_old_merge(kfa_merge_desc* desc, const float* const* outputs, const float* const* lses,
                  float* output);

size_t kfa_old_desc_size(void) { return sizeof(kfa_attention_desc); }
size_t kfa_old_merge_desc_size(void) { return sizeof(kfa_merge_desc); }

/* Fills the struct as old programs do, and computes 3 rows over 7 keys of 2 heads of 8. */
int kfa_old_client(kfa_attention_desc* desc, float* query, float* key, float* value, float* output,
                   float* lse) {
  int status = kfa_attention_desc_init(desc);
  if (status != KFA_OK) return status;
  if (desc->struct_size != sizeof(*desc) || desc->is_causal != 1 || desc->device_index != -1) {
    return -1;
  }
  desc->q_len = 3;
  desc->kv_len = 7;
  desc->heads = 2;
  desc->kv_heads = 1;
  desc->head_dim = 8;
  desc->query.data = query;
  desc->key.data = key;
  desc->value.data = value;
  desc->output.data = output;
  desc->lse = lse;
  /* Flash prefill needs none of it; standard MHA keeps the scores of a row of each head there. */
  static float workspace[2 * 3 * 7];
  desc->workspace = workspace;
  desc->workspace_size = sizeof(workspace);
  return kfa_attention_forward(desc);
}

/* Merges two parts of one row of 2 elements. */
int kfa_old_merge(kfa_merge_desc* desc, const float* const* outputs, const float* const* lses,
                  float* output) {
  const kfa_merge_desc zero = {0};
  *desc = zero;
  desc->struct_size = sizeof(*desc);
  desc->device = KFA_DEVICE_CPU;
  desc->parts = 2;
  desc->batch = desc->q_len = desc->heads = 1;
  desc->head_dim = 2;
  desc->outputs = outputs;
  desc->lses = lses;
  desc->output = output;
  return kfa_attention_merge(desc);
}
