/* Standard error is full (or closed), and the environment gives reason to warn: no call fails for it. */
#include "problem.h"

#include <fcntl.h>
#include <unistd.h>

int main(int argc, char** argv) {
  (void)argc;
  if (argv[1][0] == 'f') {
    const int full = open("/dev/full", O_WRONLY);
    if (full < 0 || dup2(full, 2) < 0) return 1;
  } else {
    close(2);
  }
  setenv("KFA_CPU_ISA", "bogus", 1);
  setenv("KFA_NUM_THREADS", "many", 1);
  if (kfa_build_info()[0] == '\0') return 2;
  problem_must_run(1, 500, 3);
  problem_must_run(40, 500, 4);
  problem_must_fail(5);
  if (kfa_last_error_message()[0] == '\0') return 6;
  return 0;
}
