//! The CUDA driver, and the only folder that knows its bindings.
//!
//! libcuda is opened at run time; each function is looked up when it is first called, and [`probe`]
//! has made sure that they all exist. Everything that lives as long as the process (the probe, the
//! contexts' records, modules, kernel handles) is never torn down: at exit the driver goes first,
//! and nothing of ours may call it then.
//!
//! The hot path, [`enter`] and [`Gpu::launch`], takes no lock, allocates nothing and never waits.
//! What a first call in a context must do besides (loading code, allocating scratch) runs with the
//! thread's capture mode relaxed, so that it works inside a stream capture too.

mod context;
mod launch;
mod place;
mod probe;
mod result;
mod scratch;
mod tensor_map;

pub use context::{load, load_all, planned_device};
pub use launch::{Gpu, Kernel, KernelParam, Launch, enter, enter_with};
pub use probe::probe;
pub use scratch::Scratch;
pub use tensor_map::{TensorMap, TensorShape};
