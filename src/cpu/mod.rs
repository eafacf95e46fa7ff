//! The CPU backend: picks the first entry of the table that accepts a problem, and runs it.

mod board;
mod cache;
mod caps;
mod dequantise;
mod flash_decode;
mod flash_prefill;
mod float_state;
mod heuristics;
mod host;
mod isa;
mod level;
mod mask;
mod merge;
mod pool;
mod product;
mod reason;
mod rows;
mod scores;
mod scratch;
mod softmax;
mod standard_mha;
mod table;
mod team;
#[cfg(test)]
mod tests;
pub mod threads;
mod tile;
mod vector;

use crate::choice::{self, Workspace};
use crate::dtype::Dtype;
use crate::error::{Error, Result, Status};
use crate::merge::Merge;
use crate::problem::Problem;
use crate::settings::Mode;
use heuristics::MAX_FLASH_HEAD_DIM;
use reason::Reason;
use table::Cpu;

pub use caps::summary;

type Choice<'a> = choice::Choice<'a, Cpu>;

/// Runs a problem with the first kernel that accepts it.
pub fn run(p: &Problem) -> Result<()> {
    Choice::new(p, &caps::level()).plan()?.run(p, &())
}

/// As [`run`], in scratch of ours. A workspace that the problem has is an engine's score storage:
/// standard MHA's, which the other kernels leave alone.
pub fn run_in(p: &Problem, scratch: &mut Vec<f32>) -> Result<()> {
    let level = caps::level();
    let plan = Choice::new(p, &level).plan()?;
    if p.workspace_size > 0 && plan.family() == Mode::Standard {
        return plan.run(p, &());
    }
    let bytes = plan.workspace.preferred;
    let floats = bytes.div_ceil(size_of::<f32>());
    if scratch.len() < floats {
        scratch.try_reserve_exact(floats - scratch.len()).map_err(|_| Error {
            status: Status::OutOfMemory,
            message: format!("could not allocate {bytes} bytes of workspace"),
        })?;
        scratch.resize(floats, 0.0);
    }
    let size = scratch.len() * size_of::<f32>();
    plan.run(&p.with_workspace(scratch.as_mut_ptr().cast(), size), &())
}

/// Bytes of workspace that [`run`] would use.
pub fn workspace(p: &Problem) -> Result<Workspace> {
    Ok(Choice::new(p, &caps::level()).plan()?.workspace)
}

/// Which kernel [`run`] would use, and why each one before it was passed over.
pub fn explain(p: &Problem) -> String {
    Choice::new(p, &caps::level()).explain()
}

/// Whether any kernel serves the problem.
pub fn serves(p: &Problem) -> bool {
    Choice::new(p, &caps::level()).is_served()
}

/// Merges partial results with the strongest kernels.
///
/// # Safety
/// The arrays are valid for the merge's shapes.
pub unsafe fn merge(m: &Merge) -> Result<()> {
    let task = table::kernels(caps::level()).merge.prove()?;
    // SAFETY: the caller's.
    unsafe { merge::run(m, task) }
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

/// Flash kernels bound the heads they keep in scratch; standard MHA does not.
fn require_head_dims(p: &Problem) -> std::result::Result<(), Reason> {
    let head_dim = p.head_dim.max(p.value_head_dim);
    if head_dim > MAX_FLASH_HEAD_DIM {
        return Err(Reason::HeadDim { head_dim, max: MAX_FLASH_HEAD_DIM });
    }
    Ok(())
}
