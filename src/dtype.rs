//! Element types; the numbers are the engine's `base::DataType`, continued.

use crate::abi::*;
use half::{bf16, f16};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Fp32,
    Fp16,
    Bf16,
    Int8,
    Uint8,
    Int4,
    Uint4,
    Fp8E4m3,
    Fp8E5m2,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Iq4Nl,
}

use Dtype::*;

impl Dtype {
    /// Reads a type of the C API that a tensor of attention may have.
    pub const fn from_c(value: kfa_dtype) -> Option<Self> {
        Some(match value {
            KFA_DTYPE_FP32 => Fp32,
            KFA_DTYPE_FP16 => Fp16,
            KFA_DTYPE_BF16 => Bf16,
            KFA_DTYPE_INT8 => Int8,
            KFA_DTYPE_UINT8 => Uint8,
            KFA_DTYPE_INT4 => Int4,
            KFA_DTYPE_UINT4 => Uint4,
            KFA_DTYPE_FP8_E4M3 => Fp8E4m3,
            KFA_DTYPE_FP8_E5M2 => Fp8E5m2,
            KFA_DTYPE_Q4_0 => Q4_0,
            KFA_DTYPE_Q4_1 => Q4_1,
            KFA_DTYPE_Q5_0 => Q5_0,
            KFA_DTYPE_Q5_1 => Q5_1,
            KFA_DTYPE_Q8_0 => Q8_0,
            KFA_DTYPE_IQ4_NL => Iq4Nl,
            _ => return None,
        })
    }

    /// Whether elements are numbers as they lie there, without scales.
    pub const fn is_float(self) -> bool {
        matches!(self, Fp32 | Fp16 | Bf16)
    }

    /// Whether elements come in blocks that hold their own scales, and strides count blocks.
    pub const fn is_block(self) -> bool {
        self.packing().0 == 32
    }

    /// The fewest elements that fill whole bytes, and how many bytes.
    pub const fn packing(self) -> (usize, usize) {
        match self {
            Fp32 => (1, 4),
            Fp16 | Bf16 => (1, 2),
            Int8 | Uint8 | Fp8E4m3 | Fp8E5m2 => (1, 1),
            Int4 | Uint4 => (2, 1),
            Q4_0 | Iq4Nl => (32, 18),
            Q4_1 => (32, 20),
            Q5_0 => (32, 22),
            Q5_1 => (32, 24),
            Q8_0 => (32, 34),
        }
    }

    /// Bytes of the smallest addressable piece: an element, two of a packed type, or a block.
    pub const fn size(self) -> usize {
        self.packing().1
    }

    /// What addresses are multiples of.
    pub const fn alignment(self) -> usize {
        match self {
            Fp32 => 4,
            Int8 | Uint8 | Fp8E4m3 | Fp8E5m2 | Int4 | Uint4 => 1,
            // A block begins with a 16-bit float.
            _ => 2,
        }
    }

    /// What a stride counts in the elements of a row.
    pub const fn stride_elements(self) -> usize {
        if self.is_block() { 32 } else { 1 }
    }

    /// Bytes of a stride, if it is one of whole bytes.
    pub fn stride_bytes(self, stride: usize) -> Option<usize> {
        let (elements, bytes) = self.packing();
        let elements = elements / self.stride_elements();
        if stride.is_multiple_of(elements) { (stride / elements).checked_mul(bytes) } else { None }
    }
}

/// The Rust type of a [`Dtype`]'s elements.
pub trait Typed {
    const DTYPE: Dtype;
}

impl Typed for f32 {
    const DTYPE: Dtype = Fp32;
}

impl Typed for f16 {
    const DTYPE: Dtype = Fp16;
}

impl Typed for bf16 {
    const DTYPE: Dtype = Bf16;
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fp32 => "fp32",
            Fp16 => "fp16",
            Bf16 => "bf16",
            Int8 => "int8",
            Uint8 => "uint8",
            Int4 => "int4",
            Uint4 => "uint4",
            Fp8E4m3 => "fp8_e4m3",
            Fp8E5m2 => "fp8_e5m2",
            Q4_0 => "q4_0",
            Q4_1 => "q4_1",
            Q5_0 => "q5_0",
            Q5_1 => "q5_1",
            Q8_0 => "q8_0",
            Iq4Nl => "iq4_nl",
        })
    }
}
