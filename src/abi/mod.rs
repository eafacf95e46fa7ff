//! The structs, constants and defaults of the C API. Field order is the ABI: append only.

#![allow(non_camel_case_types)]

mod attention;
mod codes;
mod kernels;
mod merge;
mod parts;

pub use attention::*;
pub use codes::*;
pub use kernels::*;
pub use merge::*;
pub use parts::*;
