//! The only validator: a C description becomes a [`Problem`] that all later code trusts.
//!
//! Three seams carry what a description may ask for: [`Visible`] (which keys a row sees), the cache
//! (views, [`Pages`], [`Quant`]: where a key lies and how it is stored) and [`Scores`] (what happens to
//! a score). [`Features`] names all that goes beyond plain attention, for the choice of a kernel.

mod cache;
mod lengths;
mod memory;
mod overlap;
mod scores;
mod step;
#[cfg(test)]
mod tests;
mod validate;
mod validator;
mod view;
mod visible;

pub use cache::{Pages, Quant};
pub use lengths::{Lengths, Sequence};
pub use memory::{Span, aligned, extent};
pub use scores::{Mask, MaskKind, Scores};
pub use step::{Append, Norm, Rope};
pub use validator::{positive, scale_or_default};
pub use view::{View, refuse_self_overlap};
pub use visible::{Causal, Visible};

use crate::abi::*;
#[cfg(test)]
use crate::error::Error;
use crate::error::{Refusal, Result, Status};
use crate::features::Features;
use crate::settings::Mode;
use std::ffi::c_void;
use std::ops::Deref;

/// Where the tensors of a problem lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
}

impl Device {
    /// Reads a device of the C API; `argument` names it in the error.
    pub fn from_c(value: kfa_device_type, argument: &str) -> Result<Self> {
        Self::read(value, argument)
    }

    fn read<E: Refusal>(value: kfa_device_type, argument: &str) -> Result<Self, E> {
        match value {
            KFA_DEVICE_CPU => Ok(Device::Cpu),
            KFA_DEVICE_CUDA => Ok(Device::Cuda),
            KFA_DEVICE_ROCM | KFA_DEVICE_XPU => Err(E::refuse(
                Status::NoDevice,
                format_args!(
                    "{argument} is {}; this version has no backend for it",
                    if value == KFA_DEVICE_ROCM {
                        "KFA_DEVICE_ROCM (3)"
                    } else {
                        "KFA_DEVICE_XPU (4)"
                    }
                ),
            )),
            _ => Err(E::refuse(
                Status::InvalidArgument,
                format_args!(
                    "{argument} is {value}; expected KFA_DEVICE_CPU (1) or KFA_DEVICE_CUDA (2)"
                ),
            )),
        }
    }
}

/// What an attention problem says; see `kfa_attention_desc` for the meaning of each field.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "kernels read each field as they come to serve its feature")]
pub struct Spec {
    pub device: Device,
    pub mode: Mode,
    /// Whether the result must not depend on the number of threads.
    pub deterministic: bool,
    /// All that goes beyond plain attention.
    pub features: Features,
    pub batch: usize,
    /// Query rows of a sequence: all of them, or the most where [`Lengths`] say how many.
    pub q_len: usize,
    /// Keys of a sequence, likewise.
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub value_head_dim: usize,
    /// The newest row sees all keys, and each one before it one less.
    pub causal: bool,
    pub scale: f32,
    pub visible: Visible,
    pub scores: Scores,
    pub lengths: Lengths,
    pub query: View,
    pub key: View,
    pub value: View,
    pub output: View,
    pub pages: Option<Pages>,
    pub key_quant: Option<Quant>,
    pub value_quant: Option<Quant>,
    pub norm: Option<Norm>,
    pub rope: Option<Rope>,
    pub append: Option<Append>,
    /// Null if none is wanted.
    pub lse: *mut f32,
    /// Elements from one sequence, head and row to the next.
    pub lse_strides: [usize; 3],
    /// The multiples of keys at which a batch-invariant context is cut; 0 leaves it to the kernel.
    pub split_keys: usize,
    /// The most threads of the call; 0 is the process's number.
    pub threads: usize,
    /// The host's own threads.
    pub parallel: kfa_parallel,
    pub pool: *mut c_void,
    pub workspace: *mut u8,
    pub workspace_size: usize,
    /// The newest row's position in device memory, or null. If set, `kv_len` is the capacity that
    /// the call is planned for, and the valid keys are the position and those before it.
    pub pos_device: *const i32,
    /// CUDA ordinal, if the caller names one.
    pub device_index: Option<i32>,
    /// CUDA stream.
    pub stream: *mut c_void,
}

/// A validated attention problem. Nothing outside this module makes one or changes its fields.
#[derive(Clone, Copy, Debug)]
pub struct Problem(Spec);

impl Deref for Problem {
    type Target = Spec;

    #[inline(always)]
    fn deref(&self) -> &Spec {
        &self.0
    }
}

// SAFETY: a problem only names memory; the caller of the C API vouches that the memory stays valid
// and unshared for the call, and each kernel gives every task its own rows of the output.
unsafe impl Send for Problem {}
// SAFETY: as above.
unsafe impl Sync for Problem {}

/// What the caller's signature calls its arguments, for the messages.
pub struct Names {
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub output: &'static str,
    pub workspace: &'static str,
    /// The engine's index into its caches; a description has none.
    pub layer: &'static str,
}

/// The names of `kfa_attention_desc`.
pub const DESC_NAMES: Names = Names {
    query: "query",
    key: "key",
    value: "value",
    output: "output",
    workspace: "workspace",
    layer: "layer_idx",
};

/// How much of a description to check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Shapes, types and strides: enough to plan; the memory of tensors may still be absent.
    Shape,
    /// Everything that a launch needs.
    All,
}

impl Problem {
    /// Validates a description. A failure leaves an [`Error`], or a bare [`Status`].
    ///
    /// # Safety
    /// The structs that the description points to are as their sizes say. Where `check` is
    /// [`Check::All`] and the device is the CPU, so are its arrays of lengths, offsets and tables.
    pub unsafe fn new<E: Refusal>(desc: &kfa_attention_desc, check: Check) -> Result<Self, E> {
        // SAFETY: the caller's.
        unsafe { validate::validate(desc, check, &DESC_NAMES).map(Problem) }
    }

    /// As [`Problem::new`], with the caller's own names for its arguments.
    ///
    /// # Safety
    /// As [`Problem::new`].
    pub unsafe fn named(desc: &kfa_attention_desc, check: Check, names: &Names) -> Result<Self> {
        // SAFETY: the caller's.
        unsafe { validate::validate(desc, check, names).map(Problem) }
    }

    /// The same problem in other scratch, which the caller knows to be aligned and apart from every
    /// tensor.
    pub fn with_workspace(mut self, workspace: *mut u8, size: usize) -> Self {
        (self.0.workspace, self.0.workspace_size) = (workspace, size);
        self
    }

    /// The same problem, to plan with, when its cache has grown to so many keys.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub fn grown(mut self, kv_len: usize) -> Self {
        self.0.kv_len = self.0.kv_len.max(kv_len);
        self
    }

    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where the LSE of a row goes; null when none is wanted.
    pub fn lse_at(&self, batch: usize, head: usize, row: usize) -> *mut f32 {
        if self.lse.is_null() {
            return self.lse;
        }
        let [of_batch, of_head, of_row] = self.lse_strides;
        self.lse.wrapping_add(batch * of_batch + head * of_head + row * of_row)
    }
}

/// Whether a problem is one that the description's reader would accept, in an [`Error`] for tests.
#[cfg(test)]
pub fn of(desc: &kfa_attention_desc, check: Check) -> Result<Problem> {
    // SAFETY: tests describe memory of their own.
    unsafe { Problem::new::<Error>(desc, check) }
}
