/* No thread can be started: calls run on the caller's own. */
#include "problem.h"

#include <errno.h>
#include <pthread.h>

int pthread_create(pthread_t* thread, const pthread_attr_t* attr, void* (*start)(void*), void* arg) {
  (void)thread, (void)attr, (void)start, (void)arg;
  return EAGAIN;
}

int main(void) {
  kfa_status status;
  int i;
  setenv("KFA_NUM_THREADS", "4", 1);
  for (i = 0; i < 3; i++) {
    problem_must_run(1, 5000, 2);
    problem_must_run(600, 600, 3);
  }
  /* Who asks for threads is told that there are none, and goes on as before. */
  status = kfa_set_num_threads(4);
  if (status != KFA_OK && status != KFA_ERROR_OUT_OF_MEMORY) return 4;
  problem_must_run(1, 5000, 5);
  problem_must_run(600, 600, 6);
  return 0;
}
