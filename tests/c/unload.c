/* The library is closed the moment its helper threads have started; they must find their code. */
#include <kuiper_flash_attention/kfa.h>

#include <dlfcn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Loads the library under the name that it is given, computes with helpers, and closes it at once. */
static int once(const char* path, int n) {
  static float query[8 * 64], key[4096 * 64], output[8 * 64];
  static float workspace[1 << 20];
  struct timespec pause = {0, (n % 10) * 100000L};
  kfa_attention_desc desc;
  kfa_status (*init)(kfa_attention_desc*);
  kfa_status (*forward)(const kfa_attention_desc*);
  kfa_status (*set_num_threads)(int32_t);
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return 1;
  *(void**)&init = dlsym(library, "kfa_attention_desc_init");
  *(void**)&forward = dlsym(library, "kfa_attention_forward");
  *(void**)&set_num_threads = dlsym(library, "kfa_set_num_threads");
  if (!init || !forward || !set_num_threads) return 2;
  if (init(&desc) != KFA_OK || set_num_threads(4) != KFA_OK) return 3;
  desc.q_len = 1;
  desc.kv_len = 4096;
  desc.heads = 8;
  desc.kv_heads = 1;
  desc.head_dim = 64;
  desc.query.data = query;
  desc.key.data = key;
  desc.value.data = key;
  desc.softmax_scale = 0.125f;
  desc.output.data = output;
  desc.workspace = workspace;
  desc.workspace_size = sizeof workspace;
  if (forward(&desc) != KFA_OK) return 4;
  dlclose(library);
  /* It stays. */
  if (!dlopen(path, RTLD_NOW | RTLD_NOLOAD)) return 5;
  nanosleep(&pause, NULL);
  return 0;
}

int main(int argc, char** argv) {
  const char* path = argc > 1 ? argv[1] : "";
  int n, failed = 0;
  for (n = 0; n < 200; n++) {
    int status;
    const pid_t process = fork();
    if (process == 0) _Exit(once(path, n));
    if (process < 0 || waitpid(process, &status, 0) != process) return 1;
    if (status != 0) {
      fprintf(stderr, "process %d: wait status %#x\n", n, status);
      failed++;
    }
  }
  return failed != 0;
}
