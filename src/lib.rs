//! Attention kernels behind a C ABI, for C++ inference engines.
//!
//! A call walks one line: [`capi`] → [`problem`] (the only validator) → [`dispatch`] → [`cpu`] or
//! [`cuda`] → [`choice`] of a row of its table → a kernel for one instruction set or GPU architecture.

pub mod abi;
pub mod capi;
mod choice;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda/absent.rs"]
mod cuda;
mod dispatch;
mod dtype;
mod engine;
mod error;
mod features;
mod layer;
mod log;
mod merge;
mod problem;
pub mod reference;
mod settings;
mod sized;
