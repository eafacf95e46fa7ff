/* The log callback calls back into the library, from the very first warning on. */
#include "problem.h"

#include <unistd.h>

static int lines, depth;

static void callback(kfa_log_level level, const char* message, void* user) {
  (void)level, (void)user;
  lines++;
  if (message[0] == '\0' || ++depth > 3) _Exit(10);
  if (kfa_build_info()[0] == '\0') _Exit(11);
  if (kfa_get_num_threads() < 1) _Exit(12);
  problem_must_run(1, 50, 13);
  problem_must_run(20, 50, 14);
  problem_must_fail(15);
  kfa_set_log_callback(callback, NULL);
  depth--;
}

int main(void) {
  alarm(30);
  setenv("KFA_CPU_ISA", "bogus", 1);
  setenv("KFA_NUM_THREADS", "many", 1);
  kfa_set_log_callback(callback, NULL);
  problem_must_run(1, 500, 2);
  problem_must_run(40, 500, 3);
  return lines > 0 ? 0 : 4;
}
