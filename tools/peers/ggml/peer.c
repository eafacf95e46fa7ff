// ggml's flash attention (GGML_OP_FLASH_ATTN_EXT) on memory that the caller owns, through ggml's
// public C API. Built and used by worker.py.
#include <ggml-cpu.h>
#include <ggml.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
  struct ggml_context *context;
  struct ggml_cgraph *graph;
  struct ggml_tensor *key, *value;
  struct ggml_threadpool *pool;
  struct ggml_cplan plan;
} peer;

// [dim, rows, heads], at the strides (in elements) that the caller's layout has.
static struct ggml_tensor *view(struct ggml_context *context, enum ggml_type type, int64_t dim,
                                int64_t rows, int64_t heads, int64_t row_stride,
                                int64_t head_stride, void *data) {
  struct ggml_tensor *t = ggml_new_tensor_3d(context, type, dim, rows, heads);
  t->nb[1] = row_stride * ggml_type_size(type);
  t->nb[2] = head_stride * ggml_type_size(type);
  t->nb[3] = t->nb[2] * heads;
  t->data = data;
  return t;
}

// query and output are packed [q_len, heads, dim] float; key and value have the given strides.
// mask is NULL or [q_len, kv_len] half floats.
void *ggml_peer_new(int threads, int q_len, int kv_len, int heads, int kv_heads, int dim,
                    int half_cache, int64_t row_stride, int64_t head_stride, float scale,
                    void *query, void *mask, void *output) {
  peer *p = calloc(1, sizeof *p);
  struct ggml_init_params params = {.mem_size = 1 << 20, .no_alloc = true};
  p->context = ggml_init(params);
  const enum ggml_type cache = half_cache ? GGML_TYPE_F16 : GGML_TYPE_F32;
  struct ggml_tensor *q = view(p->context, GGML_TYPE_F32, dim, q_len, heads, (int64_t)heads * dim,
                               dim, query);
  p->key = view(p->context, cache, dim, kv_len, kv_heads, row_stride, head_stride, NULL);
  p->value = view(p->context, cache, dim, kv_len, kv_heads, row_stride, head_stride, NULL);
  struct ggml_tensor *m = NULL;
  if (mask != NULL) {
    m = ggml_new_tensor_2d(p->context, GGML_TYPE_F16, kv_len, q_len);
    m->data = mask;
  }
  struct ggml_tensor *out =
      ggml_flash_attn_ext(p->context, q, p->key, p->value, m, scale, 0.0f, 0.0f);
  ggml_prec_set_acc(out, GGML_PREC_F32);
  out->data = output;
  p->graph = ggml_new_graph(p->context);
  ggml_build_forward_expand(p->graph, out);
  struct ggml_threadpool_params pool = ggml_threadpool_params_default(threads);
  p->pool = ggml_threadpool_new(&pool);
  p->plan = ggml_graph_plan(p->graph, threads, p->pool);
  p->plan.work_data = malloc(p->plan.work_size + 64);
  return p;
}

int ggml_peer_run(void *handle, void *key, void *value) {
  peer *p = handle;
  p->key->data = key;
  p->value->data = value;
  return ggml_graph_compute(p->graph, &p->plan);
}

void ggml_peer_free(void *handle) {
  peer *p = handle;
  ggml_threadpool_free(p->pool);
  free(p->plan.work_data);
  ggml_free(p->context);
  free(p);
}
