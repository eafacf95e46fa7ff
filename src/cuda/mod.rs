//! The CUDA backend: picks the first entry of the table that accepts a problem, and enqueues it.

#[macro_use]
mod lists;
mod arch;
mod caps;
mod driver;
mod flash_decode;
mod flash_prefill;
mod merge;
mod modules;
mod params;
mod reason;
mod standard_mha;
mod table;
#[cfg(test)]
mod tests;

use crate::dispatch;
use crate::error::{self, Error, Result, Status};
use crate::log;
use crate::merge::Merge;
use crate::problem::Problem;
use crate::settings::{self, Mode};
use caps::Caps;
use driver::{Gpu, Scratch};
use modules::{Code, MISSING, MODULES};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use table::{Entry, Limits, TABLE};

pub use driver::Scratch as DeviceScratch;

/// Score storage that standard MHA gets when the caller brings none: enough rows to fill a GPU.
const MOST_SCORE_BYTES: usize = 256 << 20;

/// Enqueues a problem with the kernel that [`select`] chooses.
pub fn run(p: &Problem) -> Result<()> {
    built()?;
    let gpu = driver::enter(p)?;
    let entry = select(p, gpu.caps())?;
    enqueue(p, entry, &gpu)
}

/// As [`run`], in scratch of ours. `capacity` is what `kv_len` may grow to, so that the scratch of
/// a whole generation is allocated at once. A workspace that the problem has is an engine's score
/// storage: standard MHA's, which the other kernels leave alone.
pub fn run_in(p: &Problem, capacity: usize, scratch: &Scratch) -> Result<()> {
    built()?;
    let gpu = driver::enter(p)?;
    let caps = gpu.caps();
    let entry = select(p, caps)?;
    let mut bytes = (entry.workspace_size)(p, caps);
    match entry.family {
        Mode::Standard if p.workspace_size > 0 => return enqueue(p, entry, &gpu),
        Mode::Standard => {
            bytes = bytes.min(MOST_SCORE_BYTES.max((entry.min_workspace_size)(p, caps)));
        }
        _ => {
            let grown = Problem { kv_len: capacity.max(p.kv_len), ..*p };
            bytes = bytes.max((select(&grown, caps)?.workspace_size)(&grown, caps));
        }
    }
    let mut p = *p;
    if bytes > 0 {
        (p.workspace, p.workspace_size) = scratch.at_least(bytes, &gpu)?;
    }
    enqueue(&p, entry, &gpu)
}

fn enqueue(p: &Problem, entry: &Entry, gpu: &Gpu) -> Result<()> {
    let needed = (entry.min_workspace_size)(p, gpu.caps());
    if p.workspace_size < needed {
        return Err(Error::invalid(format!(
            "workspace_size is {}; expected at least {needed} bytes for {}",
            p.workspace_size,
            entry.name()
        )));
    }
    report_fallback(p, &limits(p, gpu.caps()), entry);
    (entry.run)(p, gpu)?;
    error::set_last_kernel(entry.name);
    Ok(())
}

/// Bytes of workspace that [`run`] would use. Loads the kernels too, so that the first call,
/// which may be inside a stream capture, does not have to.
pub fn workspace_size(p: &Problem) -> Result<usize> {
    built()?;
    let device = driver::planned_device(p)?;
    let entry = select(p, device.caps())?;
    driver::load(device, entry.modules)?;
    Ok((entry.workspace_size)(p, device.caps()))
}

/// Which kernel [`run`] would use, and why each entry before it was passed over.
pub fn explain(p: &Problem) -> String {
    let device = match built().and_then(|()| driver::planned_device(p)) {
        Ok(device) => device,
        Err(error) => return format!("none: {error}\n"),
    };
    let limits = limits(p, device.caps());
    dispatch::explain_choice("CUDA", TABLE.iter().map(|e| (e.name(), e.accepts(p, &limits))))
}

/// Enqueues a merge of partial results.
pub fn merge(m: &Merge, stream: *mut c_void) -> Result<()> {
    built()?;
    merge::merge(m, stream)
}

/// Whether CUDA problems can be served at all.
pub fn available() -> Result<()> {
    built()?;
    driver::probe()
}

/// Loads what a first call would have to.
pub fn warm_up() -> Result<()> {
    built()?;
    driver::load_all()
}

/// For `kfa_build_info`; asks no driver.
pub fn summary() -> String {
    match MISSING {
        Some(why) => format!("cuda: not built ({why})"),
        None => {
            let machine = MODULES.iter().flat_map(|module| module.codes);
            let mut archs: Vec<_> = machine
                .filter_map(|code| match *code {
                    Code::Machine(arch) | Code::Specific(arch) => Some(arch),
                    Code::Ptx(_) => None,
                })
                .collect();
            archs.sort_unstable();
            archs.dedup();
            let archs: Vec<_> = archs.iter().map(|arch| format!("sm_{arch}")).collect();
            format!("cuda kernels: {} modules for {}", MODULES.len(), archs.join(" "))
        }
    }
}

fn built() -> Result<()> {
    match MISSING {
        None => Ok(()),
        Some(why) => Err(Error {
            status: Status::NoDevice,
            message: format!("device is KFA_DEVICE_CUDA; this build has no CUDA kernels: {why}"),
        }),
    }
}

fn limits<'a>(p: &Problem, caps: &'a Caps) -> Limits<'a> {
    Limits {
        caps,
        mode: settings::effective_mode(p.mode),
        flash_disabled: settings::flash_disabled_by_environment(),
    }
}

fn select(p: &Problem, caps: &Caps) -> Result<&'static Entry> {
    let limits = limits(p, caps);
    TABLE.iter().find(|entry| entry.accepts(p, &limits).is_ok()).ok_or_else(|| {
        Error::unsupported(format!("no CUDA kernel serves this problem: {}", refusal(p, &limits)))
    })
}

/// The reasons of the most general flash and standard entries, which stand last in their family.
fn refusal(p: &Problem, limits: &Limits) -> String {
    [Mode::Flash, Mode::Standard]
        .iter()
        .filter_map(|family| TABLE.iter().rfind(|entry| entry.family == *family))
        .filter_map(|entry| {
            entry.accepts(p, limits).err().map(|why| format!("{}: {why}", entry.name()))
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// Says once per process, with the reason, that standard MHA runs where flash was expected.
fn report_fallback(p: &Problem, limits: &Limits, entry: &Entry) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if limits.mode != Mode::Auto
        || entry.family == Mode::Flash
        || REPORTED.load(Ordering::Relaxed)
        || REPORTED.swap(true, Ordering::Relaxed)
    {
        return;
    }
    let most_general = TABLE.iter().rfind(|entry| entry.family == Mode::Flash);
    if let Some(Err(reason)) = most_general.map(|entry| entry.accepts(p, limits)) {
        log::warning(&format!("falling back to standard MHA ({}): {reason}", entry.name()));
    }
}
