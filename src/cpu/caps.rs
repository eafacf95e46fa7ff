//! What this CPU can do, lowered by the environment; found out once.

use crate::cpu::isa::Isa;
use crate::log;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The strongest instruction set that may be used.
pub fn isa() -> Isa {
    /// One more than the level's index in [`Isa::ALL`]; 0 as long as nobody knows.
    static LEVEL: AtomicUsize = AtomicUsize::new(0);
    if let Some(index) = LEVEL.load(Ordering::Relaxed).checked_sub(1) {
        return Isa::ALL[index];
    }
    // Threads that ask at the same time all find the same; none waits for another, which a child
    // forked in that moment would do for ever.
    let (isa, complaint) = allowed();
    let index = Isa::ALL.iter().position(|known| *known == isa).unwrap_or(0);
    // Said by one of them, and only once the level is known: a log callback may call back.
    if LEVEL.swap(index + 1, Ordering::Relaxed) == 0
        && let Some(complaint) = complaint
    {
        log::warning(&complaint);
    }
    isa
}

/// The best that this CPU has and `KFA_CPU_ISA` allows, and what is wrong with that variable.
fn allowed() -> (Isa, Option<String>) {
    let detected = Isa::ALL.iter().copied().filter(|isa| isa.detected());
    let best = detected.max().unwrap_or(Isa::Portable);
    let Some(name) = std::env::var("KFA_CPU_ISA").ok().filter(|name| !name.is_empty()) else {
        return (best, None);
    };
    match Isa::ALL.iter().copied().find(|isa| isa.name() == name) {
        Some(asked) if asked <= best => (asked, None),
        Some(asked) => {
            (best, Some(format!("KFA_CPU_ISA={asked}: this CPU has {best} at most; using that")))
        }
        None => {
            let known = Isa::names(", ");
            (best, Some(format!("KFA_CPU_ISA={name}: expected one of {known}; using {best}")))
        }
    }
}

/// For `kfa_build_info`.
pub fn summary() -> String {
    let compiled = Isa::names(" ");
    format!("cpu kernels: {compiled}; in use: {}", isa())
}
