//! Element types; the numbers are the engine's `base::DataType`, continued for 16-bit floats.

use half::{bf16, f16};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Fp32,
    Fp16,
    Bf16,
}

impl Dtype {
    pub const fn size(self) -> usize {
        match self {
            Dtype::Fp32 => 4,
            Dtype::Fp16 | Dtype::Bf16 => 2,
        }
    }
}

/// The Rust type of a [`Dtype`]'s elements.
pub trait Typed {
    const DTYPE: Dtype;
}

impl Typed for f32 {
    const DTYPE: Dtype = Dtype::Fp32;
}

impl Typed for f16 {
    const DTYPE: Dtype = Dtype::Fp16;
}

impl Typed for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Fp32 => "fp32",
            Dtype::Fp16 => "fp16",
            Dtype::Bf16 => "bf16",
        })
    }
}
