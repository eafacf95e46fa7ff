//! The CUDA backend: picks the first entry of the table that accepts a problem, and enqueues it.

#[macro_use]
mod lists;
mod arch;
mod caps;
mod driver;
mod flash_decode;
mod flash_prefill;
mod flash_prefill_sm90;
mod merge;
mod modules;
mod params;
mod reason;
mod standard_mha;
mod table;
#[cfg(test)]
mod tests;

use crate::choice::{self, Workspace};
use crate::error::{Error, Result, Status};
use crate::merge::Merge;
use crate::problem::Problem;
use crate::settings::Mode;
use driver::Scratch;
use modules::{Code, MISSING, MODULES};
use table::Cuda;

pub use driver::Scratch as DeviceScratch;

type Choice<'a> = choice::Choice<'a, Cuda>;

/// Enqueues a problem with the first kernel that accepts it.
pub fn run(p: &Problem) -> Result<()> {
    built()?;
    let gpu = driver::enter(p)?;
    Choice::new(p, gpu.caps()).plan()?.run(p, &gpu)
}

/// As [`run`], in scratch of ours. `capacity` is what `kv_len` may grow to, so that the scratch of
/// a whole generation is allocated at once. A workspace that the problem has is an engine's score
/// storage: standard MHA's, which the other kernels leave alone.
pub fn run_in(p: &Problem, capacity: usize, scratch: &Scratch) -> Result<()> {
    built()?;
    let gpu = driver::enter(p)?;
    let plan = Choice::new(p, gpu.caps()).plan()?;
    let mut bytes = plan.workspace.preferred;
    match plan.family() {
        Mode::Standard if p.workspace_size > 0 => return plan.run(p, &gpu),
        Mode::Standard => {}
        _ => {
            let grown = p.grown(capacity);
            bytes = bytes.max(Choice::new(&grown, gpu.caps()).plan()?.workspace.preferred);
        }
    }
    if bytes == 0 {
        return plan.run(&p.with_workspace(std::ptr::null_mut(), 0), &gpu);
    }
    let (workspace, size) = scratch.at_least(bytes, &gpu)?;
    plan.run(&p.with_workspace(workspace, size), &gpu)
}

/// Bytes of workspace that [`run`] would use. Loads the kernels too, so that the first call,
/// which may be inside a stream capture, does not have to.
pub fn workspace(p: &Problem) -> Result<Workspace> {
    built()?;
    let device = driver::planned_device(p)?;
    let plan = Choice::new(p, device.caps()).plan()?;
    driver::load(device, plan.row().kernels.modules)?;
    Ok(plan.workspace)
}

/// Which kernel [`run`] would use, and why each one before it was passed over.
pub fn explain(p: &Problem) -> String {
    match built().and_then(|()| driver::planned_device(p)) {
        Ok(device) => Choice::new(p, device.caps()).explain(),
        Err(error) => format!("none: {error}\n"),
    }
}

/// Whether any kernel serves the problem.
pub fn serves(p: &Problem) -> bool {
    MISSING.is_none()
        && driver::planned_device(p).is_ok_and(|device| Choice::new(p, device.caps()).is_served())
}

/// Enqueues a merge of partial results.
pub fn merge(m: &Merge) -> Result<()> {
    built()?;
    merge::merge(m)
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
