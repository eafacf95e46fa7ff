/* A problem whose answer needs no oracle: all values of a channel are equal, and so is the output. */
#ifndef KFA_TESTS_C_PROBLEM_H
#define KFA_TESTS_C_PROBLEM_H
#include <kuiper_flash_attention/kfa.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct problem {
  kfa_attention_desc desc;
  float *query, *key, *value, *output;
  void* workspace;
  size_t outputs;
};

/* Heads of 64 elements; all memory is allocated here, so that a call may be starved of it later. */
static inline void problem_init(struct problem* p, int q_len, int kv_len, int heads) {
  const int dim = 64;
  const size_t keys = (size_t)kv_len * dim;
  size_t i;
  p->outputs = (size_t)q_len * heads * dim;
  p->query = (float*)malloc(p->outputs * sizeof(float));
  p->output = (float*)malloc(p->outputs * sizeof(float));
  p->key = (float*)malloc(keys * sizeof(float));
  p->value = (float*)malloc(keys * sizeof(float));
  for (i = 0; i < p->outputs; i++) p->query[i] = (float)(i % 7) - 3;
  for (i = 0; i < keys; i++) p->key[i] = (float)(i % 5) / 4;
  for (i = 0; i < keys; i++) p->value[i] = (float)(i % dim);
  if (kfa_attention_desc_init(&p->desc) != KFA_OK) exit(100);
  p->desc.mode = KFA_ATTENTION_MODE_FLASH;
  p->desc.q_len = q_len;
  p->desc.kv_len = kv_len;
  p->desc.heads = heads;
  p->desc.kv_heads = 1;
  p->desc.head_dim = dim;
  p->desc.query.data = p->query;
  p->desc.key.data = p->key;
  p->desc.value.data = p->value;
  p->desc.output.data = p->output;
  memset(p->output, 0xff, p->outputs * sizeof(float));
  if (kfa_attention_workspace_size(&p->desc, &p->desc.workspace_size) != KFA_OK) exit(101);
  p->workspace = malloc(p->desc.workspace_size + 4);
  if (p->desc.workspace_size > 0) p->desc.workspace = p->workspace;
}

static inline void problem_free(struct problem* p) {
  free(p->query);
  free(p->output);
  free(p->key);
  free(p->value);
  free(p->workspace);
}

/* 1 if the output is what it must be. */
static inline int problem_right(const struct problem* p) {
  size_t i;
  for (i = 0; i < p->outputs; i++) {
    /* float32 sums of thousands of equal terms are good to some 1e-5. */
    if (!(fabsf(p->output[i] - (float)(i % 64)) < 1e-2f)) return 0;
  }
  return 1;
}

/* 1 if not a byte of the output was written. */
static inline int problem_untouched(const struct problem* p) {
  const unsigned char* bytes = (const unsigned char*)p->output;
  size_t i;
  for (i = 0; i < p->outputs * sizeof(float); i++) {
    if (bytes[i] != 0xff) return 0;
  }
  return 1;
}

/* A whole call, made and checked; exits with the code if it is wrong. */
static inline void problem_must_run(int q_len, int kv_len, int code) {
  struct problem p;
  problem_init(&p, q_len, kv_len, 4);
  if (kfa_attention_forward(&p.desc) != KFA_OK || !problem_right(&p)) {
    fprintf(stderr, "q_len %d, kv_len %d: %s\n", q_len, kv_len, kfa_last_error_message());
    _Exit(code);
  }
  problem_free(&p);
}

/* As above, of a call that must be refused. */
static inline void problem_must_fail(int code) {
  struct problem p;
  problem_init(&p, 1, 8, 4);
  p.desc.heads = -1;
  if (kfa_attention_forward(&p.desc) != KFA_ERROR_INVALID_ARGUMENT || !problem_untouched(&p)) _Exit(code);
  problem_free(&p);
}

#endif
