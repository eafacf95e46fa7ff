//! Who works on a call's tasks: the library's own threads, or the host's.
//!
//! Long work (prefill) goes to a private rayon pool; decode and short work to a team that spins
//! before it parks. Both start on first use and share work by one protocol, that of [`board`].

use crate::cpu::board::{self, Claim, Helpers};
use crate::cpu::float_state::DefaultFloatState;
#[cfg(test)]
use crate::cpu::float_state::flushing_denormals;
use crate::cpu::heuristics::{DEFAULT_SPIN, WORTH_SHARING, WORTH_WAKING};
use crate::cpu::host::Host;
use crate::cpu::pool::Pool;
use crate::cpu::scratch;
use crate::cpu::team::Team;
use crate::error::{Error, Result, Status};
use crate::log;
use crate::problem::Problem;
use arc_swap::ArcSwapOption;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::Duration;

/// The threads of one setting, the caller counted as one.
struct Threads {
    count: usize,
    pool: OnFirstUse<Pool>,
    team: OnFirstUse<Team>,
}

/// Something that the first user makes. Whoever comes while it is being made does without: neither
/// a second thread, nor a child forked in that moment, nor a log callback that calls back waits.
struct OnFirstUse<T> {
    begun: AtomicBool,
    made: OnceLock<Option<T>>,
}

impl<T> OnFirstUse<T> {
    const fn new() -> Self {
        Self { begun: AtomicBool::new(false), made: OnceLock::new() }
    }

    fn get(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        if self.made.get().is_none() && !self.begun.swap(true, Ordering::Relaxed) {
            let _ = self.made.set(make());
        }
        self.made.get()?.as_ref()
    }
}

static THREADS: ArcSwapOption<Threads> = ArcSwapOption::const_empty();

/// The number of threads that calls use, the caller included.
pub fn count() -> usize {
    threads().count
}

/// Sets the number of threads; running calls finish with the old ones.
pub fn set_count(count: usize) -> Result<()> {
    let threads = Threads::new(count);
    // Started here and not on first use, so that the caller who asked hears of a failure.
    if count > 1 {
        let (spin, complaint) = spin();
        let (team, started) = Team::start(count - 1, spin);
        started.map_err(|cause| Error {
            status: Status::OutOfMemory,
            message: format!("threads is {count}; the system could not start that many: {cause}"),
        })?;
        threads.team.get(|| Some(team));
        complain(complaint);
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
        let (count, complaint) = default_count();
        let fresh = Arc::new(Threads::new(count));
        // Another thread may have been first; then its setting is the one that counts.
        let previous = THREADS.compare_and_swap(&None::<Arc<Threads>>, Some(Arc::clone(&fresh)));
        match previous.as_ref() {
            Some(previous) => Arc::clone(previous),
            None => {
                complain(complaint);
                fresh
            }
        }
    })
}

impl Threads {
    const fn new(count: usize) -> Self {
        Self { count, pool: OnFirstUse::new(), team: OnFirstUse::new() }
    }

    fn pool(&self) -> Option<&dyn Helpers> {
        let pool = self.pool.get(|| {
            let mut workers = self.count - 1;
            loop {
                match Pool::start(workers) {
                    Ok(pool) => return Some(pool),
                    Err(cause) => {
                        workers /= 2;
                        log::warning(&format!("prefill runs on {} threads: {cause}", workers + 1));
                        if workers == 0 {
                            return None;
                        }
                    }
                }
            }
        });
        pool.map(|pool| pool as &dyn Helpers)
    }

    fn team(&self) -> Option<&dyn Helpers> {
        let team = self.team.get(|| {
            let (spin, complaint) = spin();
            let (team, started) = Team::start(self.count - 1, spin);
            complain(complaint);
            if let Err(cause) = started {
                log::warning(&format!("decode runs on {} threads: {cause}", team.size() + 1));
            }
            Some(team)
        });
        team.map(|team| team as &dyn Helpers)
    }
}

/// What a variable of the environment is used as, and what to say if that is not what it holds.
type Setting<T> = (T, Option<String>);

/// The CPUs that the process may use (affinity and cgroup quota), lowered by `KFA_NUM_THREADS`.
fn default_count() -> Setting<usize> {
    let available = available_parallelism().map_or(1, usize::from);
    let (asked, complaint) = from_environment("KFA_NUM_THREADS");
    (asked.filter(|asked| *asked >= 1).map_or(available, |asked| available.min(asked)), complaint)
}

/// Decode's spin time: `KFA_SPIN_MICROSECONDS`, or the default.
fn spin() -> Setting<Duration> {
    let (asked, complaint) = from_environment("KFA_SPIN_MICROSECONDS");
    (asked.map_or(DEFAULT_SPIN, |asked| Duration::from_micros(asked as u64)), complaint)
}

fn from_environment(name: &str) -> Setting<Option<usize>> {
    let Some(text) = std::env::var(name).ok().filter(|text| !text.is_empty()) else {
        return (None, None);
    };
    match text.parse() {
        Ok(number) => (Some(number), None),
        Err(_) => {
            (None, Some(format!("{name}={text}: expected a whole number; using the default")))
        }
    }
}

/// Says what is wrong with a setting once that is in use, as a log callback may call back.
fn complain(complaint: Option<String>) {
    if let Some(complaint) = complaint {
        log::warning(&complaint);
    }
}

/// The threads that may work on a call, its caller counted as one.
#[derive(Clone, Copy)]
pub struct Crew {
    /// The most of them.
    most: usize,
    host: Option<Host>,
}

impl Crew {
    /// The library's threads, as many as the process has set.
    pub const ALL: Crew = Crew { most: usize::MAX, host: None };

    /// Those that a problem allows.
    pub fn of(p: &Problem) -> Self {
        match p.parallel {
            Some(parallel) => Self::hosted(Host { parallel, pool: p.pool, threads: p.threads }),
            None if p.threads == 0 => Self::ALL,
            None => Self { most: p.threads, host: None },
        }
    }

    pub fn hosted(host: Host) -> Self {
        Self { most: host.threads, host: Some(host) }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        if self.host.is_some() { self.most } else { self.most.min(count()) }
    }
}

/// Runs `body(task, scratch)` for every task; scratch holds `scratch_floats`, contents undefined.
///
/// The caller takes part and could finish alone, so a busy machine delays no more than its share.
/// `bytes` is roughly how much memory the tasks touch together: it decides who is woken. Where the
/// caller's own scratch cannot be had nothing runs; a helper without scratch stays away.
pub fn run(
    crew: Crew,
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<()> {
    let helpers = if bytes < WORTH_WAKING { Threads::team } else { Threads::pool };
    share(crew, tasks, scratch_floats, bytes, body, helpers)
}

/// As [`run`], for work that is short or waits for memory: helpers are the team's.
pub fn run_on_team(
    crew: Crew,
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<()> {
    share(crew, tasks, scratch_floats, bytes, body, Threads::team)
}

/// Has the caller and `helpers` claim tasks until none is left; small work starts and wakes no one.
fn share(
    crew: Crew,
    tasks: usize,
    scratch_floats: usize,
    bytes: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
    helpers: fn(&Threads) -> Option<&dyn Helpers>,
) -> Result<()> {
    let work_off = |claim: Claim, scratch: &mut [f32]| {
        while let Some(task) = claim() {
            body(task, scratch);
        }
    };
    let help = |claim: Claim| {
        let _state = DefaultFloatState::enter();
        // Without scratch this thread leaves the job as it found it.
        let _ = scratch::lend(scratch_floats, |scratch| work_off(claim, scratch));
    };
    let _state = DefaultFloatState::enter();
    let alone = tasks == 1 || bytes < WORTH_SHARING;
    if let Some(host) = crew.host.filter(|host| !alone && host.threads > 1) {
        // The caller keeps its own, so that it can do what the host's threads leave.
        scratch::lend(scratch_floats, |_| ())?;
        host.run(tasks, &help);
        return Ok(());
    }
    scratch::lend(scratch_floats, |scratch| {
        let work = |claim: Claim| work_off(claim, scratch);
        if alone {
            return board::work_alone(tasks, work);
        }
        let threads = threads();
        let wanted = (tasks - 1).min(threads.count.min(crew.most) - 1);
        match if wanted == 0 { None } else { helpers(&threads) } {
            Some(helpers) => {
                helpers.board().run(tasks, wanted, work, &help, |which| helpers.invite(which));
            }
            None => board::work_alone(tasks, work),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Whoever does not come first goes on without, at once.
    #[test]
    fn nobody_waits_for_what_another_is_making() {
        let thing = OnFirstUse::new();
        let made = thing.get(|| {
            assert_eq!(thing.get(|| Some(2)), None);
            Some(1)
        });
        assert_eq!(made, Some(&1));
        assert_eq!(thing.get(|| Some(3)), Some(&1));
    }

    #[test]
    fn nothing_runs_without_scratch_for_the_caller() {
        for bytes in [0, WORTH_SHARING, WORTH_WAKING] {
            let ran = AtomicUsize::new(0);
            let result = run(Crew::ALL, 8, isize::MAX as usize / 4, bytes, |_, _| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(result.unwrap_err().status, Status::OutOfMemory);
            assert_eq!(ran.into_inner(), 0);
        }
    }

    /// Every thread that works has the default state, and the caller its own again afterwards.
    #[test]
    fn denormals_are_kept_whatever_the_caller_set() {
        for bytes in [0, WORTH_SHARING, WORTH_WAKING] {
            flushing_denormals(|| {
                let kept = AtomicUsize::new(0);
                run(Crew::ALL, 64, 1, bytes, |_, scratch| {
                    scratch[0] = std::hint::black_box(f32::MIN_POSITIVE) * 0.5;
                    if std::hint::black_box(scratch[0]).to_bits() == 1 << 22 {
                        kept.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .unwrap();
                assert_eq!(kept.into_inner(), 64);
            });
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_its_own_caller_alone() {
        for bytes in [WORTH_SHARING, WORTH_WAKING] {
            for round in 0..50 {
                let result = std::panic::catch_unwind(|| {
                    run(Crew::ALL, 16, 1, bytes, |_, _| assert!(round % 2 == 0, "on purpose"))
                        .unwrap();
                });
                assert_eq!(result.is_ok(), round % 2 == 0);
            }
        }
    }
}
