//! The library's own threads: tasks are claimed from a counter by the caller and its helpers.
//!
//! Long work (prefill) goes through a private rayon pool; decode and short work through a team that
//! spins before it parks. Both start on first use.

use crate::cpu::team::Team;
use crate::error::{Error, Result, Status};
use crate::log;
use arc_swap::ArcSwapOption;
use std::cell::RefCell;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::Duration;

/// Below this many bytes the caller works alone: even a spinning helper's caches are cold.
const WORTH_SHARING: usize = 64 * 1024;
/// From this many bytes on, waking rayon's workers (tens of microseconds) is lost in the work.
const WORTH_WAKING: usize = 16 * 1024 * 1024;
/// How long decode's helpers spin after a call; an engine's next layer comes within that time.
const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// The threads of one setting, the caller counted as one.
struct Threads {
    count: usize,
    pool: OnceLock<Option<Pool>>,
    team: OnceLock<Option<Team>>,
}

/// Prefill's helpers, which exist only in the process that started them.
struct Pool {
    workers: rayon::ThreadPool,
    process: u32,
}

static THREADS: ArcSwapOption<Threads> = ArcSwapOption::const_empty();

/// The number of threads that calls use, the caller included.
pub fn count() -> usize {
    threads().count
}

/// Sets the number of threads; running calls finish with the old ones.
pub fn set_count(count: usize) -> Result<()> {
    let threads = Threads { count, pool: OnceLock::new(), team: OnceLock::new() };
    // Started here and not on first use, so that the caller who asked hears of a failure.
    if count > 1 && threads.team().is_none() {
        return Err(Error {
            status: Status::OutOfMemory,
            message: format!("threads is {count}; the system could not start that many"),
        });
    }
    THREADS.store(Some(Arc::new(threads)));
    Ok(())
}

/// Starts the helpers that calls would start on first use.
pub fn start() {
    let threads = threads();
    if threads.count > 1 {
        threads.team();
        threads.pool();
    }
}

fn threads() -> Arc<Threads> {
    THREADS.load_full().unwrap_or_else(|| {
        let fresh = Arc::new(Threads {
            count: default_count(),
            pool: OnceLock::new(),
            team: OnceLock::new(),
        });
        // Another thread may have been first; then its setting is the one that counts.
        let previous = THREADS.compare_and_swap(&None::<Arc<Threads>>, Some(Arc::clone(&fresh)));
        previous.as_ref().map_or(fresh, Arc::clone)
    })
}

impl Threads {
    fn pool(&self) -> Option<&Pool> {
        let start = || {
            rayon::ThreadPoolBuilder::new()
                .num_threads(self.count - 1)
                .thread_name(|index| format!("kfa-prefill-{index}"))
                .build()
                .map(|workers| Pool { workers, process: process::id() })
                .map_err(|cause| log::warning(&format!("prefill runs on one thread: {cause}")))
                .ok()
        };
        // A forked child would wait for its parent's workers for ever; it goes on alone.
        self.pool.get_or_init(start).as_ref().filter(|pool| pool.process == process::id())
    }

    fn team(&self) -> Option<&Team> {
        let start = || {
            Team::new(self.count - 1, spin())
                .map_err(|cause| log::warning(&format!("decode runs on one thread: {cause}")))
                .ok()
        };
        self.team.get_or_init(start).as_ref()
    }
}

/// The CPUs that the process may use (affinity and cgroup quota), lowered by `KFA_NUM_THREADS`.
fn default_count() -> usize {
    let available = available_parallelism().map_or(1, usize::from);
    match from_environment("KFA_NUM_THREADS") {
        Some(asked) if asked >= 1 => available.min(asked),
        _ => available,
    }
}

/// Decode's spin time: `KFA_SPIN_MICROSECONDS`, or the default.
fn spin() -> Duration {
    from_environment("KFA_SPIN_MICROSECONDS")
        .map_or(DEFAULT_SPIN, |asked| Duration::from_micros(asked as u64))
}

/// A number from the environment; says so if it is none.
fn from_environment(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.parse().ok();
    if number.is_none() {
        log::warning(&format!("{name}={text}: expected a whole number; using the default"));
    }
    number
}

/// Runs `body(task, scratch)` for every task; scratch holds `scratch_floats`, contents undefined.
///
/// The caller takes part and could finish alone, so a busy machine delays no more than its share.
/// `bytes` is roughly how much memory the tasks touch together: it decides who is woken.
pub fn run(
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    if bytes < WORTH_WAKING {
        return run_on_team(tasks, scratch_floats, bytes, body);
    }
    claim_with(tasks, scratch_floats, bytes, body, |helpers, threads, claim_all| {
        match threads.pool() {
            Some(pool) => pool.workers.in_place_scope(|scope| {
                for _ in 0..helpers {
                    scope.spawn(|_| claim_all());
                }
                claim_all();
            }),
            None => claim_all(),
        }
    });
}

/// As [`run`], for work that is short or waits for memory: helpers are the team's.
pub fn run_on_team(
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    claim_with(tasks, scratch_floats, bytes, body, |helpers, threads, claim_all| {
        match threads.team() {
            Some(team) => team.run(helpers, claim_all),
            None => claim_all(),
        }
    });
}

/// Has `share` run, on the caller and on helpers, a function that claims tasks until none is left;
/// small work starts and wakes no one.
fn claim_with(
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
    share: impl FnOnce(usize, &Threads, &(dyn Fn() + Sync)),
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
    if tasks == 1 || bytes < WORTH_SHARING {
        return claim_all();
    }
    let threads = threads();
    match (tasks - 1).min(threads.count - 1) {
        0 => claim_all(),
        helpers => share(helpers, &threads, &claim_all),
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
