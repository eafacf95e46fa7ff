//! Helpers and callers that meet in every order.

use super::*;
use std::sync::atomic::AtomicU64;
use std::thread;

fn in_place() {
    thread::yield_now();
}

/// A job whose tasks run until `done` says so, one helper more for each that enters.
fn work_until(done: impl Fn() -> bool + Sync) -> impl Fn(Claim) + Sync {
    move |claim| {
        while !done() && claim().is_some() {
            in_place();
        }
    }
}

/// Threads that help a board until the scope's body ends.
fn with_helpers(board: &Board, helpers: usize, body: impl FnOnce()) {
    let quit = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| {
                while !quit.load(Ordering::Relaxed) {
                    if !board.help() {
                        in_place();
                    }
                }
            });
        }
        body();
        quit.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_late_helper_finds_the_job_closed() {
    let board = Board::new(4);
    let ran = AtomicUsize::new(0);
    let work = |claim: Claim| {
        while claim().is_some() {
            ran.fetch_add(1, Ordering::Relaxed);
        }
    };
    let invited = Cell::new(0..0);
    board.run(5, 3, work, &work, |which| invited.set(which));
    assert_eq!((ran.into_inner(), invited.take()), (5, 0..3));
    assert!(!board.help());
    assert_eq!(board.helping(), 0);
}

#[test]
fn only_as_many_enter_as_were_asked_for() {
    let board = Board::new(9);
    with_helpers(&board, 8, || {
        for wanted in [0, 1, 2, 5] {
            let (inside, most, rounds) =
                (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
            let help = |claim: Claim| {
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                while claim().is_some() {
                    in_place();
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            };
            let work = |claim: Claim| {
                // Every helper that may come has, and had time to be one too many.
                while inside.load(Ordering::SeqCst) < wanted
                    || rounds.fetch_add(1, Ordering::SeqCst) < 200
                {
                    in_place();
                }
                while claim().is_some() {}
            };
            board.run(100_000, wanted, work, &help, |_| ());
            assert_eq!(most.into_inner(), wanted);
        }
    });
}

/// Two callers on five threads: the first has all four helpers, until the second comes; then each
/// has two, and the first gets them back when the second is done.
#[test]
fn callers_share_the_threads_evenly() {
    let board = Board::new(5);
    let helpers_of = |job: usize| inside(board.states.0[job].load(Ordering::Relaxed));
    let (first_has_all, second_is_done, first_has_all_again) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    with_helpers(&board, 4, || {
        thread::scope(|scope| {
            scope.spawn(|| {
                let work = work_until(|| first_has_all_again.load(Ordering::SeqCst));
                let watch = |claim: Claim| {
                    while helpers_of(0) < 4 {
                        in_place();
                    }
                    first_has_all.store(true, Ordering::SeqCst);
                    while !second_is_done.load(Ordering::SeqCst) || helpers_of(0) < 4 {
                        in_place();
                    }
                    first_has_all_again.store(true, Ordering::SeqCst);
                    work(claim);
                };
                board.run(usize::MAX / 2, 4, watch, &work, |_| ());
            });
            while !first_has_all.load(Ordering::SeqCst) {
                in_place();
            }
            let half = AtomicBool::new(false);
            let work = work_until(|| half.load(Ordering::SeqCst));
            let watch = |claim: Claim| {
                while (helpers_of(0), helpers_of(1)) != (2, 2) {
                    in_place();
                }
                half.store(true, Ordering::SeqCst);
                work(claim);
            };
            board.run(usize::MAX / 2, 4, watch, &work, |_| ());
            second_is_done.store(true, Ordering::SeqCst);
        });
    });
}

#[test]
fn more_callers_than_places_work_alone() {
    fn nested(board: &Board, depth: usize) {
        let tasks = Cell::new(0);
        let work = |claim: Claim| {
            while claim().is_some() {
                tasks.set(tasks.get() + 1);
            }
            if depth > 0 {
                nested(board, depth - 1);
            }
        };
        board.run(3, 1, work, &|_| (), |_| ());
        assert_eq!(tasks.get(), 3);
    }
    nested(&Board::new(2), JOBS + 3);
}

/// Panics of a helper and of the caller reach the caller, and the next one in the same place
/// hears nothing of them.
#[test]
fn a_panic_is_its_own_call_s() {
    let board = Board::new(2);
    with_helpers(&board, 1, || {
        for caller_too in [false, true] {
            let entered = AtomicBool::new(false);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let help = |_: Claim| {
                    entered.store(true, Ordering::SeqCst);
                    panic!("a helper's panic, on purpose");
                };
                let work = |_: Claim| {
                    while !entered.load(Ordering::SeqCst) {
                        in_place();
                    }
                    assert!(!caller_too, "the caller's panic, on purpose");
                };
                board.run(1, 1, work, &help, |_| ());
            }));
            assert!(panicked.is_err());
            let ran = AtomicUsize::new(0);
            let work = |claim: Claim| {
                while claim().is_some() {
                    ran.fetch_add(1, Ordering::Relaxed);
                }
            };
            board.run(3, 1, work, &work, |_| ());
            assert_eq!(ran.into_inner(), 3);
        }
    });
}
