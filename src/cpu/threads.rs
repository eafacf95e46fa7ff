//! The library's own threads: tasks are claimed from a counter by the caller and pool workers.

use arc_swap::ArcSwapOption;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use crate::error::{Error, Result, Status};
use crate::log;

/// Below this many bytes of work, waking a worker costs more than it saves (tens of
/// microseconds, in which one core reads about this much).
const WORTH_WAKING: usize = 512 * 1024;

/// Threads that a call may use, and the workers among them (the caller is the other one).
struct Team {
    threads: usize,
    workers: Option<rayon::ThreadPool>,
}

static TEAM: ArcSwapOption<Team> = ArcSwapOption::const_empty();

/// The number of threads that calls use, the caller included: 1 if no worker can be started.
pub fn count() -> usize {
    team().map_or(1, |team| team.threads)
}

/// Sets the number of threads; running calls finish with the old ones.
pub fn set_count(threads: usize) -> Result<()> {
    TEAM.store(Some(Arc::new(Team::new(threads)?)));
    Ok(())
}

impl Team {
    fn new(threads: usize) -> Result<Self> {
        let workers = (threads > 1)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|index| format!("kfa-{index}"))
                    .build()
            })
            .transpose()
            .map_err(|cause| Error {
                status: Status::OutOfMemory,
                message: format!("could not start {} worker threads: {cause}", threads - 1),
            })?;
        Ok(Self { threads, workers })
    }
}

fn team() -> Result<Arc<Team>> {
    if let Some(team) = TEAM.load_full() {
        return Ok(team);
    }
    let team = Arc::new(Team::new(default_count())?);
    // Another thread may have been first; its team is as good.
    TEAM.compare_and_swap(&None::<Arc<Team>>, Some(team));
    TEAM.load_full().ok_or_else(|| Error {
        status: Status::Internal,
        message: "the thread team vanished".to_owned(),
    })
}

/// The CPUs that the process may use, lowered by `KFA_NUM_THREADS`.
fn default_count() -> usize {
    let available = available_parallelism().map_or(1, usize::from);
    match std::env::var("KFA_NUM_THREADS") {
        Err(_) => available,
        Ok(text) => match text.parse::<usize>() {
            Ok(asked) if asked >= 1 => asked.min(available),
            _ => {
                log::warning(&format!(
                    "KFA_NUM_THREADS={text}: expected a number of at least 1; using {available}"
                ));
                available
            }
        },
    }
}

/// Runs `body(task, scratch)` for every task; scratch holds `scratch_floats`, contents undefined.
///
/// The caller takes part and could finish alone, so a busy machine delays no more than its share.
/// `bytes` is roughly how much memory the tasks touch together.
pub fn run(
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    let next = AtomicUsize::new(0);
    let claim_all = || {
        with_scratch(scratch_floats, |scratch| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                body(task, scratch);
            }
        });
    };
    let team = if tasks > 1 && bytes >= WORTH_WAKING { team().ok() } else { None };
    match team.as_deref() {
        Some(Team { threads, workers: Some(workers) }) => workers.in_place_scope(|scope| {
            for _ in 1..tasks.min(*threads) {
                scope.spawn(|_| claim_all());
            }
            claim_all();
        }),
        _ => claim_all(),
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch, which grows to the largest request and is kept.
fn with_scratch(floats: usize, body: impl FnOnce(&mut [f32])) {
    /// Floats in a cache line.
    const LINE: usize = 16;
    SCRATCH.with(|scratch| {
        let mut buffer = scratch.borrow_mut();
        if buffer.len() < floats + LINE {
            buffer.resize(floats + LINE, 0.0);
        }
        let skip = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        body(&mut buffer[skip..skip + floats]);
    });
}
