//! The protocol by which a call's tasks are handed out, whoever the helpers are.
//!
//! A caller puts a job on the board and works it off itself; helpers that come by enter, and claim
//! tasks beside it until none is left. Closing the job turns helpers away that come too late, so the
//! caller waits only for those inside: one that is asleep, busy elsewhere or, in a forked child, does
//! not exist delays nobody. Concurrent callers share the threads evenly: between two tasks a helper
//! leaves a job that has more than its share, for one that has less.

#[cfg(all(loom, test))]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    thread::yield_now,
};
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(not(all(loom, test)))]
use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    thread::yield_now,
};
#[cfg(not(all(loom, test)))]
use unsafe_cell::UnsafeCell;

/// Jobs that a board holds at once; further callers work alone.
const JOBS: usize = if cfg!(all(loom, test)) { 2 } else { 16 };

/// Hands out the next task, or nothing when the thread should leave the job.
pub type Claim<'a> = &'a dyn Fn() -> Option<usize>;

/// Threads that help with the jobs of a board.
pub trait Helpers {
    fn board(&self) -> &Board;
    /// Wakes the helpers of these numbers, as far as there are so many: those before are busy.
    fn invite(&self, which: Range<usize>);
}

/// Has the caller do all tasks.
pub fn work_alone(tasks: usize, work: impl FnOnce(Claim)) {
    let next = Cell::new(0);
    work(&|| (next.get() < tasks).then(|| next.replace(next.get() + 1)));
}

/// A helper's part in a job: works off the tasks that it claims.
type Help<'a> = &'a (dyn Fn(Claim) + Sync);

// A job's state: how many helpers it wants, how many are inside, whether more may enter, and whether
// a caller has the place at all.
const INSIDE: u32 = (1 << 12) - 1;
const WANTED: u32 = 12;
const OPEN: u32 = 1 << 30;
const TAKEN: u32 = 1 << 31;

const fn inside(state: u32) -> usize {
    (state & INSIDE) as usize
}

const fn wanted(state: u32) -> usize {
    (state >> WANTED & INSIDE) as usize
}

const fn is_open(state: u32) -> bool {
    state & OPEN != 0
}

/// The states of all jobs: one cache line, which is all that a helper looks at until it enters.
#[repr(align(64))]
struct States([AtomicU32; JOBS]);

#[repr(align(64))]
struct Job {
    help: UnsafeCell<Option<Help<'static>>>,
    panicked: AtomicBool,
    tasks: AtomicUsize,
    next: NextTask,
}

/// Every thread inside writes here for each task: on a line of its own.
#[repr(align(64))]
struct NextTask(AtomicUsize);

pub struct Board {
    states: States,
    jobs: [Job; JOBS],
    /// Threads to share among the callers, which are counted.
    threads: usize,
}

// SAFETY: `help` is written by the caller that has taken the job's place, before it opens the job,
// and read by helpers that are inside; `states` orders the two. The function itself is Sync.
unsafe impl Sync for Board {}
// SAFETY: as above.
unsafe impl Send for Board {}

impl Board {
    pub fn new(threads: usize) -> Self {
        Self {
            states: States(std::array::from_fn(|_| AtomicU32::new(0))),
            jobs: std::array::from_fn(|_| Job {
                help: UnsafeCell::new(None),
                panicked: AtomicBool::new(false),
                tasks: AtomicUsize::new(0),
                next: NextTask(AtomicUsize::new(0)),
            }),
            threads,
        }
    }

    /// Has `work` claim and do tasks `0..tasks` on the caller, and `help` on up to `helpers` threads
    /// that [`Board::help`] meanwhile; returns when every thread that entered has left.
    ///
    /// `invite` is told which helpers should be woken, for this job and for others that get more
    /// when it ends.
    ///
    /// # Panics
    /// If a helper's part did.
    pub fn run(
        &self,
        tasks: usize,
        helpers: usize,
        work: impl FnOnce(Claim),
        help: Help,
        invite: impl Fn(Range<usize>),
    ) {
        let Some(index) = self.take() else { return work_alone(tasks, work) };
        let job = &self.jobs[index];
        // SAFETY: the place is this caller's, closed and empty, so no one reads the function. It
        // outlives its use: `opened` closes the job and waits for all who are inside before it ends.
        let help = unsafe { std::mem::transmute::<Help<'_>, Help<'static>>(help) };
        // SAFETY: as above.
        job.help.with_mut(|place| unsafe { *place = Some(help) });
        job.panicked.store(false, Ordering::Relaxed);
        job.tasks.store(tasks, Ordering::Relaxed);
        job.next.0.store(0, Ordering::Relaxed);
        let wants = helpers.min(INSIDE as usize) as u32;
        let busy = self.helping();
        // Closes the job even if the caller's own part panics: helpers hold a borrow of `help`.
        let opened = Opened { board: self, index };
        self.states.0[index].store(TAKEN | OPEN | wants << WANTED, Ordering::Release);
        invite(busy..busy + helpers.min(self.share()));
        work(&|| job.claim());
        opened.close();
        let panicked = job.panicked.load(Ordering::Relaxed);
        drop(opened);
        // What this job's helpers left is the others' now.
        match self.missing() {
            0 => {}
            missing => {
                let busy = self.helping();
                invite(busy..busy + missing);
            }
        }
        assert!(!panicked, "a worker thread panicked");
    }

    /// Enters the open job that most wants a helper and helps; false if none wants any.
    pub fn help(&self) -> bool {
        let Some(index) = self.enter() else { return false };
        let (job, state) = (&self.jobs[index], &self.states.0[index]);
        // SAFETY: this thread is inside, so the caller keeps the function alive and in its place.
        let help = job.help.with(|place| unsafe { (*place).expect("an open job has a function") });
        let called_away = Cell::new(false);
        let claim = || {
            called_away.set(inside(state.load(Ordering::Relaxed)) > self.share());
            if called_away.get() { None } else { job.claim() }
        };
        if catch_unwind(AssertUnwindSafe(|| help(&claim))).is_err() {
            job.panicked.store(true, Ordering::Relaxed);
        }
        if !called_away.get() {
            // No task is left, or this helper cannot help: none should come after it.
            state.fetch_and(!OPEN, Ordering::Relaxed);
        }
        state.fetch_sub(1, Ordering::Release);
        true
    }

    /// Takes a free place.
    fn take(&self) -> Option<usize> {
        self.states.0.iter().position(|state| {
            state.compare_exchange(0, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
    }

    /// Enters the job that has the fewest helpers of those that want one.
    fn enter(&self) -> Option<usize> {
        loop {
            let share = self.share();
            let jobs = self.states.0.iter().map(|state| state.load(Ordering::Relaxed)).enumerate();
            let (index, state) = jobs
                .filter(|(_, state)| missing(*state, share) > 0)
                .min_by_key(|(_, state)| inside(*state))?;
            let entered = self.states.0[index].compare_exchange(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                return Some(index);
            }
        }
    }

    /// Helpers that each open job may have, its caller being a thread, too.
    fn share(&self) -> usize {
        let open = self.states.0.iter().filter(|state| is_open(state.load(Ordering::Relaxed)));
        (self.threads.div_ceil(open.count().max(1))).saturating_sub(1)
    }

    /// Helpers that the open jobs lack together.
    fn missing(&self) -> usize {
        let share = self.share();
        self.states.0.iter().map(|state| missing(state.load(Ordering::Relaxed), share)).sum()
    }

    /// Whether [`Board::help`] would find a job to help with.
    pub fn wants_help(&self) -> bool {
        self.missing() > 0
    }

    /// Helpers that are inside any job.
    fn helping(&self) -> usize {
        self.states.0.iter().map(|state| inside(state.load(Ordering::Relaxed))).sum()
    }
}

/// Helpers that a job of this state lacks.
fn missing(state: u32, share: usize) -> usize {
    if is_open(state) { wanted(state).min(share).saturating_sub(inside(state)) } else { 0 }
}

impl Job {
    fn claim(&self) -> Option<usize> {
        let task = self.next.0.fetch_add(1, Ordering::Relaxed);
        (task < self.tasks.load(Ordering::Relaxed)).then_some(task)
    }
}

/// A job under way; ends it when dropped.
struct Opened<'a> {
    board: &'a Board,
    index: usize,
}

impl Opened<'_> {
    /// Turns away who comes from now on, and waits for those inside.
    fn close(&self) {
        let state = &self.board.states.0[self.index];
        state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut spins = 0u32;
        while inside(state.load(Ordering::Acquire)) != 0 {
            spins += 1;
            // A helper in the middle of a long task may need this very CPU.
            if cfg!(all(loom, test)) || spins > 4096 { yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.close();
        self.board.states.0[self.index].store(0, Ordering::Release);
    }
}

/// The standard library's cell with the interface of loom's.
#[cfg(not(all(loom, test)))]
mod unsafe_cell {
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        pub fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }
        pub fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
