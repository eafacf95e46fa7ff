//! What this CPU can do, lowered by the environment; found out once.

use crate::cpu::isa::{LEVELS, names, portable};
use crate::cpu::level::Level;
use crate::log;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The strongest instruction set that may be used.
pub fn level() -> &'static Level {
    /// One more than the level's index in [`LEVELS`]; 0 as long as nobody knows.
    static INDEX: AtomicUsize = AtomicUsize::new(0);
    if let Some(index) = INDEX.load(Ordering::Relaxed).checked_sub(1) {
        return LEVELS[index];
    }
    // Threads that ask at the same time all find the same; none waits for another, which a child
    // forked in that moment would do for ever.
    let (level, complaint) = allowed();
    let index = LEVELS.iter().position(|known| **known == *level).unwrap_or(0);
    // Said by one of them, and only once the level is known: a log callback may call back.
    if INDEX.swap(index + 1, Ordering::Relaxed) == 0
        && let Some(complaint) = complaint
    {
        log::warning(&complaint);
    }
    level
}

/// The best that this CPU has and `KFA_CPU_ISA` allows, and what is wrong with that variable.
fn allowed() -> (&'static Level, Option<String>) {
    let best = LEVELS.iter().find(|level| (level.detected)()).copied().unwrap_or(&portable::LEVEL);
    let Some(name) = std::env::var("KFA_CPU_ISA").ok().filter(|name| !name.is_empty()) else {
        return (best, None);
    };
    match LEVELS.iter().find(|level| level.name == name) {
        Some(asked) if asked.strength <= best.strength => (asked, None),
        Some(asked) => {
            (best, Some(format!("KFA_CPU_ISA={asked}: this CPU has {best} at most; using that")))
        }
        None => {
            let known = names(", ");
            (best, Some(format!("KFA_CPU_ISA={name}: expected one of {known}; using {best}")))
        }
    }
}

/// For `kfa_build_info`.
pub fn summary() -> String {
    format!("cpu kernels: {}; in use: {}", names(" "), level())
}
