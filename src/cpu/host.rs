//! A host's own threads: its pool runs a call's tasks, by the callback of the description.

use crate::abi::kfa_task;
use crate::cpu::board::Claim;
use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// `kfa_parallel`, set.
type Parallel = unsafe extern "C" fn(*mut c_void, i32, kfa_task, *mut c_void);

/// A host's pool of so many threads.
#[derive(Clone, Copy)]
pub struct Host {
    pub parallel: Parallel,
    pub pool: *mut c_void,
    pub threads: usize,
}

/// What the host's threads get to see.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Host {
    /// Has the host's threads claim tasks until none is left; the caller does what they leave.
    pub fn run(&self, tasks: usize, work: &(dyn Fn(Claim) + Sync)) {
        let next = AtomicUsize::new(0);
        let claim = || {
            let task = next.fetch_add(1, Ordering::Relaxed);
            (task < tasks).then_some(task)
        };
        let job = Job { work: &|| work(&claim), panic: Mutex::new(None) };
        let threads = i32::try_from(tasks.min(self.threads)).unwrap_or(i32::MAX);
        // SAFETY: the description's promise: it runs the task with this argument alone, and none is
        // running any more when it returns.
        unsafe {
            let argument = (&raw const job).cast_mut().cast();
            (self.parallel)(self.pool, threads, Some(take_part), argument);
        }
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
        work(&claim);
    }
}

/// One thread's part. A panic waits for the caller: it must not cross the host's frames.
unsafe extern "C" fn take_part(argument: *mut c_void, _index: i32) {
    // SAFETY: the job, which lives until the host has returned.
    let job = unsafe { &*argument.cast::<Job>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job.work)) {
        *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::threads::{self, Crew};
    use std::collections::HashSet;

    /// A pool that starts a thread per task and counts its calls.
    unsafe extern "C" fn threads_of_its_own(
        pool: *mut c_void,
        tasks: i32,
        task: kfa_task,
        argument: *mut c_void,
    ) {
        // SAFETY: the tests' pool is a counter.
        unsafe { &*pool.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
        let argument = argument.addr();
        std::thread::scope(|scope| {
            for index in 0..tasks {
                // SAFETY: the callback's contract.
                scope.spawn(move || unsafe {
                    task.unwrap()(std::ptr::with_exposed_provenance_mut(argument), index)
                });
            }
        });
    }

    /// A pool that never runs anything.
    unsafe extern "C" fn idle(_: *mut c_void, _: i32, _: kfa_task, _: *mut c_void) {}

    fn crew(parallel: Parallel, calls: &AtomicUsize, threads: usize) -> Crew {
        let pool = std::ptr::from_ref(calls).cast_mut().cast();
        Crew::hosted(Host { parallel, pool, threads })
    }

    const MUCH: usize = 1 << 30;

    #[test]
    fn the_hosts_threads_do_every_task_once() {
        let calls = AtomicUsize::new(0);
        let done: Vec<_> = (0..40).map(|_| AtomicUsize::new(0)).collect();
        let workers = Mutex::new(HashSet::new());
        threads::run(crew(threads_of_its_own, &calls, 3), 40, 8, MUCH, |task, scratch| {
            scratch.fill(1.0);
            done[task].fetch_add(1, Ordering::Relaxed);
            workers.lock().unwrap().insert(std::thread::current().id());
        })
        .unwrap();
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let workers = workers.into_inner().unwrap();
        assert!(workers.len() <= 3 && !workers.contains(&std::thread::current().id()));
    }

    #[test]
    fn what_the_host_leaves_the_caller_does() {
        let (calls, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        threads::run(crew(idle, &calls, 3), 7, 1, MUCH, |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(done.into_inner(), 7);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_not_the_host() {
        let calls = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            threads::run(crew(threads_of_its_own, &calls, 2), 9, 1, MUCH, |task, _| {
                assert!(task != 4, "on purpose");
            })
            .unwrap();
        }));
        assert!(result.is_err());
    }
}
