//! Attention kernels behind a C ABI, for C++ inference engines.
//!
//! A call walks one line: [`capi`] → [`problem`] (the only validator) → [`dispatch`] →
//! [`cpu`] → its table → a kernel instantiated for one instruction set.

pub mod capi;
mod cpu;
mod dispatch;
mod dtype;
mod engine;
mod error;
mod layer;
mod log;
mod merge;
mod problem;
pub mod reference;
mod settings;
