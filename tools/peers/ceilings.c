// What the machine can do: peak of fused multiply-adds and plain reads from memory, by a number of
// threads; and a loop that times calls of a function without an interpreter around them.
// Built and used by worker.py.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

// --- kernels: `fma_*` runs `steps` steps of FMA_FLOPS_* each, `read_bytes` loads a range ----------

// Sixteen sums of one vector each hide the latency of two units of 4 cycles twice over.
#if defined(__x86_64__)
#define SUMS(op, v)                                                                            \
  op " %%" v "0,%%" v "0,%%" v "0\n" op " %%" v "1,%%" v "1,%%" v "1\n"                        \
  op " %%" v "2,%%" v "2,%%" v "2\n" op " %%" v "3,%%" v "3,%%" v "3\n"                        \
  op " %%" v "4,%%" v "4,%%" v "4\n" op " %%" v "5,%%" v "5,%%" v "5\n"                        \
  op " %%" v "6,%%" v "6,%%" v "6\n" op " %%" v "7,%%" v "7,%%" v "7\n"                        \
  op " %%" v "8,%%" v "8,%%" v "8\n" op " %%" v "9,%%" v "9,%%" v "9\n"                        \
  op " %%" v "10,%%" v "10,%%" v "10\n" op " %%" v "11,%%" v "11,%%" v "11\n"                  \
  op " %%" v "12,%%" v "12,%%" v "12\n" op " %%" v "13,%%" v "13,%%" v "13\n"                  \
  op " %%" v "14,%%" v "14,%%" v "14\n" op " %%" v "15,%%" v "15,%%" v "15\n"
#define CLOBBERS                                                                               \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",     \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory"
#define FMA_LOOP(v, steps)                                                                     \
  __asm__ volatile(SUMS("vxorps", "ymm") "1:\n" SUMS("vfmadd231ps", v) SUMS("vfmadd231ps", v)  \
                   "dec %0\njnz 1b\nvzeroupper\n" : "+r"(steps) : : CLOBBERS)

static void fma_avx2(int64_t steps) { FMA_LOOP("ymm", steps); }
static void fma_avx512(int64_t steps) { FMA_LOOP("zmm", steps); }

static const struct {
  const char *name;
  void (*run)(int64_t steps);
  double flops;  // of one step
} LEVELS[] = {{"avx2", fma_avx2, 32 * 8 * 2}, {"avx512", fma_avx512, 32 * 16 * 2}};

static int has_level(int level) {
  return level == 0 ? __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                    : __builtin_cpu_supports("avx512f");
}

// Eight lines at a time; the processor fetches what is loaded whether or not it is used.
static inline void read_512_bytes(const char *p) {
  __asm__ volatile(
      "vmovups 0(%0),%%ymm0\nvmovups 32(%0),%%ymm1\nvmovups 64(%0),%%ymm2\n"
      "vmovups 96(%0),%%ymm3\nvmovups 128(%0),%%ymm4\nvmovups 160(%0),%%ymm5\n"
      "vmovups 192(%0),%%ymm6\nvmovups 224(%0),%%ymm7\nvmovups 256(%0),%%ymm0\n"
      "vmovups 288(%0),%%ymm1\nvmovups 320(%0),%%ymm2\nvmovups 352(%0),%%ymm3\n"
      "vmovups 384(%0),%%ymm4\nvmovups 416(%0),%%ymm5\nvmovups 448(%0),%%ymm6\n"
      "vmovups 480(%0),%%ymm7\n"
      : : "r"(p) : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "memory");
}
#elif defined(__aarch64__)
#define TWICE(text) text text
#define SUM(n) "fmla v" #n ".4s, v" #n ".4s, v" #n ".4s\n"
#define ZERO(n) "movi v" #n ".4s, #0\n"
#define ALL(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23)

static void fma_neon(int64_t steps) {
  __asm__ volatile(ALL(ZERO) "1:\n" TWICE(ALL(SUM)) "subs %0, %0, #1\nb.ne 1b\n"
                   : "+r"(steps) : : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17",
                     "v18", "v19", "v20", "v21", "v22", "v23", "cc", "memory");
}

static const struct {
  const char *name;
  void (*run)(int64_t steps);
  double flops;
} LEVELS[] = {{"neon", fma_neon, 32 * 4 * 2}};

static int has_level(int level) { return level == 0; }

static inline void read_512_bytes(const char *p) {
  for (int i = 0; i < 512; i += 64) {
    __asm__ volatile("ldp q0, q1, [%0]\nldp q2, q3, [%0, #32]\n"
                     : : "r"(p + i) : "v0", "v1", "v2", "v3", "memory");
  }
}
#else
#error "no ceilings for this processor yet"
#endif

// `streams` places of the range in turn, 512 bytes each: several streams may keep more prefetchers
// of the processor busy than one.
static void read_bytes(const char *p, int64_t bytes, int streams) {
  const int64_t part = bytes / streams / 4096 * 4096;
  for (int64_t i = 0; i < part; i += 512) {
    for (int s = 0; s < streams; ++s) read_512_bytes(p + s * part + i);
  }
}

// --- on several threads ----------------------------------------------------------------------------

enum { MOST_THREADS = 256 };

static int at_most(int threads) { return threads < MOST_THREADS ? threads : MOST_THREADS; }

typedef struct {
  int threads, level, streams;
  int64_t steps, bytes;
  const char *buffer;
  pthread_barrier_t barrier;
} job;

typedef struct {
  job *job;
  int index;
  double begin, end;
} part;

static void *work(void *argument) {
  part *p = argument;
  job *j = p->job;
  if (j->buffer == NULL) LEVELS[j->level].run(1 << 16);  // raise the clock, wake wide units
  pthread_barrier_wait(&j->barrier);
  p->begin = now();
  if (j->buffer == NULL) {
    LEVELS[j->level].run(j->steps);
  } else {
    const int64_t share = j->bytes / j->threads / 4096 * 4096;
    read_bytes(j->buffer + p->index * share, share, j->streams);
  }
  p->end = now();
  return NULL;
}

// Seconds from the first thread's begin to the last one's end.
static double run(job *j) {
  part parts[MOST_THREADS];
  pthread_t ids[MOST_THREADS];
  pthread_barrier_init(&j->barrier, NULL, j->threads);
  for (int i = 0; i < j->threads; ++i) {
    parts[i] = (part){.job = j, .index = i};
    if (i > 0 && pthread_create(&ids[i], NULL, work, &parts[i]) != 0) abort();
  }
  work(&parts[0]);
  double begin = parts[0].begin, end = parts[0].end;
  for (int i = 1; i < j->threads; ++i) {
    pthread_join(ids[i], NULL);
    if (parts[i].begin < begin) begin = parts[i].begin;
    if (parts[i].end > end) end = parts[i].end;
  }
  pthread_barrier_destroy(&j->barrier);
  return end - begin;
}

// Name of an instruction set whose peak can be measured here; NULL from the last on.
const char *ceiling_level(int level) {
  const int count = sizeof LEVELS / sizeof LEVELS[0];
  for (int i = 0; i < count; ++i) {
    if (has_level(i) && level-- == 0) return LEVELS[i].name;
  }
  return NULL;
}

// GFLOP/s of the instruction set with that name, measured for about `milliseconds`.
double ceiling_fma(const char *name, int threads, double milliseconds) {
  const int count = sizeof LEVELS / sizeof LEVELS[0];
  threads = at_most(threads);
  for (int i = 0; i < count; ++i) {
    if (__builtin_strcmp(LEVELS[i].name, name) != 0 || !has_level(i)) continue;
    const double guess = 50e9 / LEVELS[i].flops;  // steps per second
    job j = {.threads = threads, .level = i, .steps = (int64_t)(guess * milliseconds * 1e-3) + 1};
    return threads * j.steps * LEVELS[i].flops / run(&j) * 1e-9;
  }
  return 0;
}

// GB/s of reading `bytes` at `buffer` once.
double ceiling_read(const char *buffer, int64_t bytes, int threads, int streams) {
  threads = at_most(threads);
  job j = {.threads = threads, .streams = streams, .bytes = bytes, .buffer = buffer};
  const double seconds = run(&j);
  return (double)(bytes / threads / 4096 * 4096) * threads / seconds * 1e-9;
}

// Nanoseconds of each of `calls` calls of `function`, over `count` arguments in turn. Returns how
// many calls did not return 0.
int time_calls(int (*function)(const void *), const void *const *arguments, int64_t count,
               int64_t calls, double *nanoseconds) {
  int failed = 0;
  for (int64_t i = 0; i < calls; ++i) {
    const double begin = now();
    failed += function(arguments[i % count]) != 0;
    nanoseconds[i] = (now() - begin) * 1e9;
  }
  return failed;
}
