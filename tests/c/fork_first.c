/* A process forks while another of its threads makes the process's very first call; the child, too,
   computes. Over and over, as only some forks meet the moment. */
#include "problem.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void* first_call(void* started) {
  *(volatile int*)started = 1;
  problem_must_run(1, 2000, 20);
  return NULL;
}

/* What one fresh process does. */
static int fresh(int n) {
  volatile int started = 0;
  pthread_t thread;
  pid_t child;
  int status;
  struct timespec pause = {0, (n % 40) * 4000L};
  if (pthread_create(&thread, NULL, first_call, (void*)&started) != 0) return 1;
  while (!started) {
  }
  nanosleep(&pause, NULL);
  child = fork();
  if (child == 0) {
    alarm(20);
    problem_must_run(1, 2000, 21);
    problem_must_run(40, 40, 22);
    _Exit(0);
  }
  if (child < 0 || waitpid(child, &status, 0) != child) return 2;
  pthread_join(thread, NULL);
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? 3 : 4;
  return WEXITSTATUS(status);
}

int main(int argc, char** argv) {
  const int processes = argc > 1 ? atoi(argv[1]) : 300;
  int n, failed = 0;
  for (n = 0; n < processes; n++) {
    int status;
    const pid_t process = fork();
    if (process == 0) _Exit(fresh(n));
    if (process < 0 || waitpid(process, &status, 0) != process) return 1;
    if (status != 0) failed++;
    if (status != 0) fprintf(stderr, "process %d: wait status %#x\n", n, status);
    if (failed == 3) break;
  }
  return failed != 0;
}
