//! The CPU backend: picks the first entry of the table that accepts a problem, and runs it.

mod board;
mod caps;
mod flash_decode;
mod flash_prefill;
mod float_state;
mod isa;
mod pool;
mod reason;
mod rows;
mod scratch;
mod softmax;
mod standard_mha;
mod table;
mod team;
#[cfg(test)]
mod tests;
pub mod threads;
mod vector;

use crate::dispatch;
use crate::dtype::Dtype;
use crate::error::{self, Error, Result};
use crate::log;
use crate::problem::Problem;
use crate::settings::{self, Mode};
use reason::Reason;
use std::sync::atomic::{AtomicBool, Ordering};
use table::{Entry, Limits, TABLE};

pub use caps::summary;

/// Flash kernels keep an output row of this many elements per thread; standard MHA has no bound.
const MAX_FLASH_HEAD_DIM: usize = 512;

/// Runs a problem with the kernel that [`select`] chooses.
pub fn run(p: &Problem) -> Result<()> {
    let limits = limits(p);
    let entry = select(p, &limits)?;
    let needed = (entry.algorithm.min_workspace_size)(p);
    if p.workspace_size < needed {
        return Err(Error::invalid(format!(
            "workspace_size is {}; expected at least {needed} bytes for {}",
            p.workspace_size,
            entry.name()
        )));
    }
    report_fallback(p, &limits, entry);
    (entry.algorithm.run)(p, entry.kernels)?;
    error::set_last_kernel(entry.name);
    Ok(())
}

/// Bytes of workspace that [`run`] would use.
pub fn workspace_size(p: &Problem) -> Result<usize> {
    Ok((select(p, &limits(p))?.algorithm.workspace_size)(p))
}

/// The family of the kernel that [`run`] would use.
pub fn family(p: &Problem) -> Result<Mode> {
    Ok(select(p, &limits(p))?.algorithm.family)
}

/// Which kernel [`run`] would use, and why each entry before it was passed over.
pub fn explain(p: &Problem) -> String {
    let limits = limits(p);
    dispatch::explain_choice("CPU", TABLE.iter().map(|e| (e.name(), e.accepts(p, &limits))))
}

fn limits(p: &Problem) -> Limits {
    Limits {
        isa: caps::isa(),
        mode: settings::effective_mode(p.mode),
        flash_disabled: settings::flash_disabled_by_environment(),
    }
}

fn select(p: &Problem, limits: &Limits) -> Result<&'static Entry> {
    TABLE.iter().find(|entry| entry.accepts(p, limits).is_ok()).ok_or_else(|| {
        Error::unsupported(format!("no CPU kernel serves this problem: {}", refusal(p, limits)))
    })
}

/// Why neither family serves a problem, in the words of its most general kernel.
fn refusal(p: &Problem, limits: &Limits) -> String {
    [("flash attention", Mode::Flash), ("standard MHA", Mode::Standard)]
        .into_iter()
        .filter_map(|(name, family)| Some((name, most_general(family).accepts(p, limits).err()?)))
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The last entry of a family, which serves all that any entry of the family does.
fn most_general(family: Mode) -> &'static Entry {
    let last = TABLE.iter().rfind(|entry| entry.algorithm.family == family);
    last.expect("the table has entries of both families")
}

/// Says once per process, with the reason, that standard MHA runs where flash was expected.
fn report_fallback(p: &Problem, limits: &Limits, entry: &Entry) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if limits.mode != Mode::Auto
        || entry.algorithm.family == Mode::Flash
        || REPORTED.load(Ordering::Relaxed)
        || REPORTED.swap(true, Ordering::Relaxed)
    {
        return;
    }
    if let Err(reason) = most_general(Mode::Flash).accepts(p, limits) {
        log::warning(&format!("falling back to standard MHA ({}): {reason}", entry.name()));
    }
}

/// What the CPU kernels read and write: query and output of one type, keys and values of one, which
/// is the query's or, under a float32 query, a 16-bit one.
fn require_dtypes(p: &Problem) -> std::result::Result<(), Reason> {
    let [query, key, value, output] = [p.query, p.key, p.value, p.output].map(|view| view.dtype);
    if key == value && query == output && (key == query || query == Dtype::Fp32) {
        return Ok(());
    }
    Err(Reason::Dtypes { query, key, value, output })
}
