//! Element types: how many bytes they take and how random ones look.

use crate::random::Random;
use half::{bf16, f16};
use kuiper_flash_attention::abi::*;
use kuiper_flash_attention::reference::Elements;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Type {
    #[default]
    F32,
    F16,
    Bf16,
    I8,
    U8,
    I4,
    U4,
    E4m3,
    E5m2,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Iq4Nl,
}

impl Type {
    pub const FLOATS: [Type; 3] = [Type::F32, Type::F16, Type::Bf16];
    pub const QUANTISED: [Type; 12] = [
        Type::I8,
        Type::U8,
        Type::I4,
        Type::U4,
        Type::E4m3,
        Type::E5m2,
        Type::Q8_0,
        Type::Q4_0,
        Type::Q4_1,
        Type::Q5_0,
        Type::Q5_1,
        Type::Iq4Nl,
    ];

    pub fn to_c(self) -> kfa_dtype {
        match self {
            Type::F32 => KFA_DTYPE_FP32,
            Type::F16 => KFA_DTYPE_FP16,
            Type::Bf16 => KFA_DTYPE_BF16,
            Type::I8 => KFA_DTYPE_INT8,
            Type::U8 => KFA_DTYPE_UINT8,
            Type::I4 => KFA_DTYPE_INT4,
            Type::U4 => KFA_DTYPE_UINT4,
            Type::E4m3 => KFA_DTYPE_FP8_E4M3,
            Type::E5m2 => KFA_DTYPE_FP8_E5M2,
            Type::Q8_0 => KFA_DTYPE_Q8_0,
            Type::Q4_0 => KFA_DTYPE_Q4_0,
            Type::Q4_1 => KFA_DTYPE_Q4_1,
            Type::Q5_0 => KFA_DTYPE_Q5_0,
            Type::Q5_1 => KFA_DTYPE_Q5_1,
            Type::Iq4Nl => KFA_DTYPE_IQ4_NL,
        }
    }

    pub fn is_float(self) -> bool {
        Self::FLOATS.contains(&self)
    }

    pub fn is_nibble(self) -> bool {
        matches!(self, Type::I4 | Type::U4)
    }

    /// Bytes of a block; 0 for types without blocks.
    fn block(self) -> usize {
        match self {
            Type::Q8_0 => 34,
            Type::Q4_0 | Type::Iq4Nl => 18,
            Type::Q4_1 => 20,
            Type::Q5_0 => 22,
            Type::Q5_1 => 24,
            _ => 0,
        }
    }

    /// Whether scales and zero points come from a `kfa_quant`.
    pub fn is_scaled(self) -> bool {
        !self.is_float() && self.block() == 0
    }

    /// Elements that a head holds a multiple of.
    pub fn packing(self) -> usize {
        match self.block() {
            0 if self.is_nibble() => 2,
            0 => 1,
            _ => 32,
        }
    }

    /// What strides count: elements, or blocks.
    pub fn units(self, elements: usize) -> usize {
        if self.block() > 0 { elements / 32 } else { elements }
    }

    pub fn bytes(self, units: usize) -> usize {
        match self {
            Type::F32 => 4 * units,
            Type::F16 | Type::Bf16 => 2 * units,
            Type::I4 | Type::U4 => units / 2,
            _ => self.block().max(1) * units,
        }
    }

    /// Numbers of about unit size (before the scale of [`Self::scale`]) as they are stored.
    pub fn encode(self, count: usize, spread: f32, random: &mut Random) -> Vec<u8> {
        let mut bytes = vec![];
        match self {
            Type::F32 => {
                (0..count).for_each(|_| bytes.extend((spread * random.normal()).to_le_bytes()));
            }
            Type::F16 => (0..count).for_each(|_| {
                bytes.extend(f16::from_f32(spread * random.normal()).to_le_bytes());
            }),
            Type::Bf16 => (0..count).for_each(|_| {
                bytes.extend(bf16::from_f32(spread * random.normal()).to_le_bytes());
            }),
            Type::E4m3 | Type::E5m2 => (0..count).for_each(|_| {
                // Any sign and mantissa; exponents from subnormal to 4 or so.
                let most = if self == Type::E4m3 { 0x48 } else { 0x44 };
                bytes.push(random.below(most) as u8 | (random.below(2) as u8) << 7);
            }),
            _ if self.block() > 0 => (0..count / 32).for_each(|_| {
                let start = bytes.len();
                bytes.extend((0..self.block()).map(|_| random.next() as u8));
                // The root mean square of a block's codes.
                let code = match self {
                    Type::Q4_0 => 4.6,
                    Type::Q4_1 => 8.8,
                    Type::Q5_0 => 9.2,
                    Type::Q5_1 => 18.0,
                    _ => 73.0,
                };
                let scale = f16::from_f32(random.normal() / code);
                bytes[start..start + 2].copy_from_slice(&scale.to_le_bytes());
                if matches!(self, Type::Q4_1 | Type::Q5_1) {
                    let offset = f16::from_f32(random.normal());
                    bytes[start + 2..start + 4].copy_from_slice(&offset.to_le_bytes());
                }
            }),
            _ => bytes.extend((0..self.bytes(count)).map(|_| random.next() as u8)),
        }
        bytes
    }

    /// A scale that brings stored numbers to about unit size.
    pub fn scale(self) -> f32 {
        match self {
            Type::I8 | Type::U8 => 1.0 / 64.0,
            Type::I4 | Type::U4 => 0.25,
            _ => 1.0,
        }
    }

    /// One number as it is stored, for the float types.
    pub fn float(self, value: f32) -> Vec<u8> {
        match self {
            Type::F32 => value.to_le_bytes().to_vec(),
            Type::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Type::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            _ => unreachable!("{self:?} is no float type"),
        }
    }

    /// The most that rounding to the type changes a number.
    pub fn rounding(self, value: f64) -> f64 {
        match self {
            Type::F16 => (value.abs() / 2048.0).max(2f64.powi(-25)),
            Type::Bf16 => value.abs() / 256.0,
            _ => 0.0, // within the bar
        }
    }

    /// The oracle's view of memory that is aligned to 8.
    pub fn elements(self, bytes: &[u8]) -> Elements<'_> {
        // SAFETY: any bits are a number of these types, and the memory is aligned for them.
        unsafe fn cast<T>(bytes: &[u8]) -> &[T] {
            // SAFETY: the caller's.
            let (before, middle, _) = unsafe { bytes.align_to::<T>() };
            assert!(before.is_empty());
            middle
        }
        // SAFETY: shadows are vectors of u64.
        unsafe {
            match self {
                Type::F32 => Elements::F32(cast(bytes)),
                Type::F16 => Elements::F16(cast(bytes)),
                Type::Bf16 => Elements::Bf16(cast(bytes)),
                Type::I8 => Elements::I8(cast(bytes)),
                Type::U8 => Elements::U8(bytes),
                Type::I4 => Elements::I4(bytes),
                Type::U4 => Elements::U4(bytes),
                Type::E4m3 => Elements::E4m3(bytes),
                Type::E5m2 => Elements::E5m2(bytes),
                Type::Q8_0 => Elements::Q8_0(bytes),
                Type::Q4_0 => Elements::Q4_0(bytes),
                Type::Q4_1 => Elements::Q4_1(bytes),
                Type::Q5_0 => Elements::Q5_0(bytes),
                Type::Q5_1 => Elements::Q5_1(bytes),
                Type::Iq4Nl => Elements::Iq4Nl(bytes),
            }
        }
    }
}
