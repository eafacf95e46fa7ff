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

/// A helper that comes before, during, between or after two calls in the same place.
#[test]
fn calls_one_after_another_beside_a_helper() {
    let mut model = loom::model::Builder::new();
    // Every interleaving in which threads are taken off the CPU twice at most: all take days.
    model.preemption_bound = Some(2);
    model.check(|| {
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
