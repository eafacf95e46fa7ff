//! The protocol under a model checker: `tools/loom`.

use super::*;
use loom::sync::Arc;
use loom::thread;

/// One task after another by the caller and by whoever comes; each task once, none after the end.
fn call(board: &Board, tasks: usize, helpers: usize) {
    let done: [AtomicUsize; 2] = std::array::from_fn(|_| AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    let work = |claim: Claim| {
        while let Some(task) = claim() {
            assert!(!over.load(Ordering::Relaxed), "a task ran after the call");
            done[task].fetch_add(1, Ordering::Relaxed);
        }
    };
    board.run(tasks, helpers, work, &work, |_| ());
    over.store(true, Ordering::Relaxed);
    for task in &done[..tasks] {
        assert_eq!(task.load(Ordering::Relaxed), 1);
    }
}

/// Every interleaving in which threads are taken off the CPU twice at most, which finds what
/// there is to find in seconds.
fn bounded(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn calls_one_after_another_beside_a_helper() {
    bounded(|| {
        let board = Arc::new(Board::new(2));
        let helper = {
            let board = Arc::clone(&board);
            thread::spawn(move || {
                board.help();
                board.help();
            })
        };
        call(&board, 2, 1);
        call(&board, 1, 1);
        helper.join().unwrap();
    });
}

#[test]
fn two_callers_and_a_helper() {
    bounded(|| {
        let board = Arc::new(Board::new(3));
        let helper = {
            let board = Arc::clone(&board);
            thread::spawn(move || {
                board.help();
            })
        };
        let other = {
            let board = Arc::clone(&board);
            thread::spawn(move || call(&board, 1, 1))
        };
        call(&board, 1, 1);
        helper.join().unwrap();
        other.join().unwrap();
    });
}
