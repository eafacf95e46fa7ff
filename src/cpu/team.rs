//! A small team of threads for short work: they spin for a while after each job, then park.
//!
//! Waking a parked thread costs tens of microseconds, as much as a whole decode step over a short
//! context; a spinning one picks a job up within about a microsecond. Members join a job only
//! while it is open, and the caller works too, so it never waits for a member that did not come:
//! on a busy machine, or in a forked child where the members do not exist, it finishes alone.

use std::cell::UnsafeCell;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A job's body, called once by each thread that takes part.
type Body<'a> = &'a (dyn Fn() + Sync);

/// `state` packs the job number (upper bits), whether the job is open, and who is inside.
const INSIDE: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const JOB: u64 = 1 << 17;

struct Shared {
    state: AtomicU64,
    /// Whether a caller owns the team; another caller works alone meanwhile.
    busy: AtomicBool,
    /// A member's panic, for the caller to raise.
    panicked: AtomicBool,
    quit: AtomicBool,
    parked: Vec<AtomicBool>,
    body: UnsafeCell<Option<Body<'static>>>,
    spin: Duration,
}

// SAFETY: `body` is written only by the owner of `busy` while the job is closed and no one is
// inside, and read only by members that are inside; `state` orders the two.
unsafe impl Sync for Shared {}

/// The members; dropping the team ends them.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<Thread>,
}

impl Team {
    /// Starts `members` threads that spin for `spin` after each job before they park.
    pub fn new(members: usize, spin: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            parked: (0..members).map(|_| AtomicBool::new(false)).collect(),
            body: UnsafeCell::new(None),
            spin,
        });
        // Built first, so that a failed start ends the members that did start.
        let mut team = Self { shared, members: Vec::with_capacity(members) };
        for index in 0..members {
            let shared = Arc::clone(&team.shared);
            let member = thread::Builder::new()
                .name(format!("kfa-decode-{index}"))
                .spawn(move || serve(&shared, index))?;
            team.members.push(member.thread().clone());
        }
        Ok(team)
    }

    /// Runs `body` on the caller and on up to `helpers` members, all at once; returns when every
    /// thread that entered has left. Where another caller has the team, the caller works alone.
    pub fn run(&self, helpers: usize, body: Body) {
        let shared = &*self.shared;
        if helpers == 0 || shared.busy.swap(true, Ordering::Acquire) {
            return body();
        }
        // Closes the job even if the caller's own part panics: members hold a borrow of `body`.
        let open = Opened { shared };
        // SAFETY: the team is this caller's, and closed and empty, so no one reads the body. It
        // outlives its use: `open` closes the job and waits for all who are inside before it ends.
        unsafe {
            *shared.body.get() = Some(std::mem::transmute::<Body<'_>, Body<'static>>(body));
        }
        shared.state.fetch_add(JOB | OPEN, Ordering::SeqCst);
        for (parked, member) in shared.parked.iter().zip(&self.members).take(helpers) {
            if parked.swap(false, Ordering::SeqCst) {
                member.unpark();
            }
        }
        body();
        drop(open);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a worker thread panicked");
    }
}

/// A job under way; ends it when dropped.
struct Opened<'a> {
    shared: &'a Shared,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let mut spins = 0u32;
        self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        while self.shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins.is_multiple_of(1024) { thread::yield_now() } else { hint::spin_loop() }
        }
        self.shared.busy.store(false, Ordering::Release);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        for member in &self.members {
            member.unpark();
        }
    }
}

/// A member's life: wait for a job it has not served, enter if it is still open, work, leave.
fn serve(shared: &Shared, index: usize) {
    let mut served = 0;
    while let Some(state) = await_job(shared, index, served) {
        served = state / JOB;
        let entered = shared.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & OPEN != 0 && state / JOB == served).then_some(state + 1)
        });
        if entered.is_err() {
            continue;
        }
        // SAFETY: this member is inside, so the caller keeps the body alive and unchanged.
        let body = unsafe { (*shared.body.get()).expect("an open job has a body") };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// The state with a job later than `served`, or nothing once the team ends.
fn await_job(shared: &Shared, index: usize, served: u64) -> Option<u64> {
    let parked = &shared.parked[index];
    let mut since = Instant::now();
    loop {
        for _ in 0..64 {
            let state = shared.state.load(Ordering::Acquire);
            if state / JOB != served {
                return Some(state);
            }
            hint::spin_loop();
        }
        if shared.quit.load(Ordering::Relaxed) {
            return None;
        }
        if since.elapsed() >= shared.spin {
            // Say so first, then look again: a caller that publishes in between sees the flag.
            parked.store(true, Ordering::SeqCst);
            if shared.state.load(Ordering::SeqCst) / JOB == served
                && !shared.quit.load(Ordering::SeqCst)
            {
                thread::park();
            }
            parked.store(false, Ordering::SeqCst);
            since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_task_runs_once_whatever_the_members_do() {
        for spin in [0, 20, 100_000] {
            let team = Team::new(3, Duration::from_micros(spin)).unwrap();
            for round in 0..2000 {
                let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
                team.run(3, &|| {
                    while next.fetch_add(1, Ordering::Relaxed) < 7 {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert_eq!(done.into_inner(), 7);
                if round % 500 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    #[test]
    fn callers_share_a_team_without_waiting_for_each_other() {
        let team = Team::new(2, Duration::from_micros(50)).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let calls = AtomicUsize::new(0);
                        team.run(2, &|| {
                            calls.fetch_add(1, Ordering::Relaxed);
                        });
                        assert!((1..=3).contains(&calls.into_inner()));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(1, Duration::from_micros(50)).unwrap();
        let caller = thread::current().id();
        let entered = AtomicBool::new(false);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(1, &|| {
                if thread::current().id() != caller {
                    entered.store(true, Ordering::SeqCst);
                    panic!("a member's panic, on purpose");
                }
                while !entered.load(Ordering::SeqCst) {
                    hint::spin_loop();
                }
            });
        }));
        assert!(panicked.is_err());
        let calls = AtomicUsize::new(0);
        team.run(1, &|| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert!(calls.into_inner() >= 1);
    }
}
