/* Memory runs out: from the n-th allocation of some size on, all fail, for every n. A call then
   answers KFA_ERROR_OUT_OF_MEMORY and has written nothing, and the next one works again. */
#include "problem.h"

#include <errno.h>
#include <stdatomic.h>

/* What the library asks of the C library ends here, as the program's symbols come first. */
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

/* Small ones are the text of messages and the like. */
enum { LARGE = 4096 };
static atomic_int armed, left, failures;

static int fails(size_t size) {
  if (!armed || size < LARGE || atomic_fetch_sub(&left, 1) > 0) return 0;
  failures++;
  errno = ENOMEM;
  return 1;
}

void* malloc(size_t size) { return fails(size) ? NULL : __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return fails(n * size) ? NULL : __libc_calloc(n, size); }
void* realloc(void* old, size_t size) { return fails(size) ? NULL : __libc_realloc(old, size); }
void* memalign(size_t align, size_t size) { return fails(size) ? NULL : __libc_memalign(align, size); }
void* aligned_alloc(size_t align, size_t size) { return memalign(align, size); }
int posix_memalign(void** out, size_t align, size_t size) {
  if (fails(size)) return ENOMEM;
  *out = __libc_memalign(align, size);
  return *out ? 0 : ENOMEM;
}

/* Each shape wants more scratch than all before, so that none is served by what is kept. */
static int starve(int q_len, int kv_len, int heads) {
  struct problem p;
  int n, seen = 0;
  for (n = 0; n < 100; n++) {
    kfa_status status;
    problem_init(&p, q_len, kv_len, heads);
    left = n;
    failures = 0;
    armed = 1;
    status = kfa_attention_forward(&p.desc);
    armed = 0;
    if (status == KFA_OK) {
      if (!problem_right(&p)) _Exit(10);
    } else {
      if (status != KFA_ERROR_OUT_OF_MEMORY || failures == 0 || !problem_untouched(&p)) {
        fprintf(stderr, "allocation %d: status %d, %s\n", n, status, kfa_last_error_message());
        _Exit(11);
      }
      seen++;
    }
    problem_free(&p);
    if (status == KFA_OK && failures == 0) break;
  }
  return seen;
}

int main(void) {
  int seen = 0;
  if (kfa_set_num_threads(3) != KFA_OK) return 1;
  seen += starve(1, 3000, 16);
  seen += starve(1, 3000, 4096);
  seen += starve(300, 300, 4);
  if (seen == 0) {
    fprintf(stderr, "no allocation of %d bytes or more was made to fail\n", LARGE);
    return 2;
  }
  problem_must_run(1, 100, 3);
  problem_must_run(300, 300, 4);
  return 0;
}
