//! Rayon's workers as helpers for long work, where being woken costs little beside it.

use crate::cpu::board::{Board, Helpers};
use std::ops::Range;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Shared {
    board: Board,
    /// Invitations that no worker has answered yet.
    unanswered: AtomicUsize,
}

pub struct Pool {
    workers: rayon::ThreadPool,
    shared: Arc<Shared>,
    /// The process that has the workers; a forked child has none.
    process: u32,
}

impl Pool {
    pub fn start(workers: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let board = Board::new(workers + 1);
        Ok(Self {
            workers: rayon::ThreadPoolBuilder::new()
                .num_threads(workers)
                .thread_name(|index| format!("kfa-prefill-{index}"))
                .build()?,
            shared: Arc::new(Shared { board, unanswered: AtomicUsize::new(0) }),
            process: process::id(),
        })
    }
}

impl Helpers for Pool {
    fn board(&self) -> &Board {
        &self.shared.board
    }

    /// An invitation is not bound to a job, and nobody waits until one
    /// is answered: whoever answers helps where help is wanted, if any is.
    fn invite(&self, which: Range<usize>) {
        let workers = self.workers.current_num_threads();
        if self.process != process::id() {
            return;
        }
        for _ in which.start..which.end.min(workers) {
            // An unanswered one serves the newest job as well.
            if self.shared.unanswered.fetch_add(1, Ordering::AcqRel) >= workers {
                self.shared.unanswered.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            let shared = Arc::clone(&self.shared);
            self.workers.spawn(move || {
                shared.unanswered.fetch_sub(1, Ordering::AcqRel);
                while shared.board.help() {}
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::board::Claim;
    use std::sync::mpsc;

    /// Calls go on while every worker is busy with something else, and start no crowd of helpers
    /// that come all at once when it is not.
    #[test]
    fn nobody_waits_for_a_worker_that_has_not_begun() {
        let pool = Pool::start(1).unwrap();
        let (busy, is_busy) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        pool.workers.spawn(move || {
            busy.send(()).unwrap();
            released.recv().unwrap();
        });
        is_busy.recv().unwrap();
        let done = AtomicUsize::new(0);
        let work = |claim: Claim| {
            while claim().is_some() {
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        for _ in 0..100 {
            pool.board().run(5, 1, work, &work, |which| pool.invite(which));
        }
        assert_eq!(done.load(Ordering::Relaxed), 500);
        assert_eq!(pool.shared.unanswered.load(Ordering::Relaxed), 1);
        release.send(()).unwrap();
        // A call that cannot end without the worker: it has come back.
        let inside = AtomicUsize::new(0);
        let meet = |claim: Claim| {
            while claim().is_some() {
                inside.fetch_add(1, Ordering::SeqCst);
                while inside.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            }
        };
        pool.board().run(2, 1, meet, &meet, |which| pool.invite(which));
    }
}
