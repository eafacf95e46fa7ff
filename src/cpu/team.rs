//! A small team of threads for short work: they spin for a while after each job, then park.
//!
//! Waking a parked thread costs tens of microseconds, as much as a whole decode step over a short
//! context; a spinning one picks a job up within about a microsecond.

use crate::cpu::board::{Board, Helpers};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::{hint, io};

struct Shared {
    board: Board,
    quit: AtomicBool,
    parked: Vec<AtomicBool>,
    spin: Duration,
}

/// The members; dropping the team ends them.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<Thread>,
}

impl Team {
    /// Starts `members` threads that spin for `spin` after each job before they park; fewer, and why,
    /// where the system has no more.
    pub fn start(members: usize, spin: Duration) -> (Self, io::Result<()>) {
        let shared = Arc::new(Shared {
            board: Board::new(members + 1),
            quit: AtomicBool::new(false),
            parked: (0..members).map(|_| AtomicBool::new(false)).collect(),
            spin,
        });
        let mut team = Self { shared, members: Vec::with_capacity(members) };
        for index in 0..members {
            let shared = Arc::clone(&team.shared);
            let member = thread::Builder::new()
                .name(format!("kfa-decode-{index}"))
                .spawn(move || serve(&shared, index));
            match member {
                Ok(member) => team.members.push(member.thread().clone()),
                Err(cause) => return (team, Err(cause)),
            }
        }
        (team, Ok(()))
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }
}

impl Helpers for Team {
    fn board(&self) -> &Board {
        &self.shared.board
    }

    fn invite(&self, which: Range<usize>) {
        // Whoever parks says so before it looks at the board a last time.
        fence(Ordering::SeqCst);
        let members = self.shared.parked.iter().zip(&self.members);
        for (parked, member) in members.take(which.end).skip(which.start) {
            if parked.load(Ordering::Relaxed) && parked.swap(false, Ordering::Relaxed) {
                member.unpark();
            }
        }
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

/// A member's life: help with jobs as they come, until the team ends.
fn serve(shared: &Shared, index: usize) {
    let parked = &shared.parked[index];
    let mut idle_since = Instant::now();
    while !shared.quit.load(Ordering::Relaxed) {
        for _ in 0..64 {
            if shared.board.help() {
                idle_since = Instant::now();
            }
            hint::spin_loop();
        }
        if idle_since.elapsed() >= shared.spin {
            parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !shared.board.wants_help() && !shared.quit.load(Ordering::SeqCst) {
                thread::park();
            }
            parked.store(false, Ordering::Relaxed);
            idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn run(team: &Team, tasks: usize, task: impl Fn() + Sync) {
        let work = |claim: crate::cpu::board::Claim| {
            while claim().is_some() {
                task();
            }
        };
        team.board().run(tasks, team.members.len(), work, &work, |which| team.invite(which));
    }

    #[test]
    fn every_task_runs_once_whatever_the_members_do() {
        for spin in [0, 20, 100_000] {
            let (team, started) = Team::start(3, Duration::from_micros(spin));
            started.unwrap();
            for round in 0..2000 {
                let done = AtomicUsize::new(0);
                run(&team, 7, || {
                    done.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(done.into_inner(), 7);
                if round % 500 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// A parked member hears of a job that never ends without it.
    #[test]
    fn parked_members_are_woken() {
        let (team, started) = Team::start(2, Duration::ZERO);
        started.unwrap();
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
            let inside = AtomicUsize::new(0);
            run(&team, 3, || {
                inside.fetch_add(1, Ordering::SeqCst);
                while inside.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn callers_share_a_team_without_waiting_for_each_other() {
        let (team, started) = Team::start(2, Duration::from_micros(50));
        started.unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let done = AtomicUsize::new(0);
                        run(&team, 3, || {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                        assert_eq!(done.into_inner(), 3);
                    }
                });
            }
        });
    }
}
