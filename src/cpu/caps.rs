//! What this CPU can do, lowered by the environment; found out once.

use crate::cpu::isa::Isa;
use crate::log;
use std::sync::OnceLock;

/// The strongest instruction set that may be used.
pub fn isa() -> Isa {
    static LEVEL: OnceLock<Isa> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let detected = Isa::ALL.iter().copied().filter(|isa| isa.detected());
        let best = detected.max().unwrap_or(Isa::Portable);
        match std::env::var("KFA_CPU_ISA") {
            Ok(name) if !name.is_empty() => lower(best, &name),
            _ => best,
        }
    })
}

/// `KFA_CPU_ISA` may only lower the level.
fn lower(best: Isa, name: &str) -> Isa {
    match Isa::ALL.iter().copied().find(|isa| isa.name() == name) {
        Some(asked) if asked <= best => asked,
        Some(asked) => {
            log::warning(&format!("KFA_CPU_ISA={asked}: this CPU has {best} at most; using that"));
            best
        }
        None => {
            let known = Isa::names(", ");
            log::warning(&format!("KFA_CPU_ISA={name}: expected one of {known}; using {best}"));
            best
        }
    }
}

/// For `kfa_build_info`.
pub fn summary() -> String {
    let compiled = Isa::names(" ");
    format!("cpu kernels: {compiled}; in use: {}", isa())
}
