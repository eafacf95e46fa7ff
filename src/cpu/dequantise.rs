//! A row of a quantised cache as float32: integers and 8-bit floats with scales beside them, and
//! ggml's blocks.

use crate::dtype::Dtype;
use crate::problem::Quant;
use half::{bf16, f16};

/// One head of one stored row.
pub struct Quantised<'a> {
    pub dtype: Dtype,
    pub data: *const u8,
    /// Where scales are kept apart from the elements.
    pub quant: Option<&'a Quant>,
    /// Batch entry or page, row of it, and head: what scales depend on.
    pub place: [usize; 3],
}

/// Elements of a ggml block.
const BLOCK: usize = 32;

/// Writes the row's `dim` values.
///
/// # Safety
/// The row is readable as its type says, its scales as `quant` says; `to` holds `dim` floats.
pub unsafe fn row(stored: &Quantised, dim: usize, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let to = std::slice::from_raw_parts_mut(to, dim);
        let bytes = dim / (stored.dtype.packing().0) * stored.dtype.size();
        let data = std::slice::from_raw_parts(stored.data, bytes);
        numbers(stored.dtype, data, to);
        if let Some(quant) = stored.quant {
            rescale(quant, stored.place, to);
        }
    }
}

/// The numbers as they are stored; of a block type, as they are meant.
fn numbers(dtype: Dtype, data: &[u8], to: &mut [f32]) {
    let by_byte = |to: &mut [f32], number: fn(u8) -> f32| {
        for (to, byte) in to.iter_mut().zip(data) {
            *to = number(*byte);
        }
    };
    let by_nibble = |to: &mut [f32], number: fn(u8) -> f32| {
        for (to, byte) in to.chunks_exact_mut(2).zip(data) {
            to[0] = number(byte & 15);
            to[1] = number(byte >> 4);
        }
    };
    match dtype {
        Dtype::Int8 => by_byte(to, |byte| f32::from(byte as i8)),
        Dtype::Uint8 => by_byte(to, f32::from),
        Dtype::Fp8E4m3 => by_byte(to, |byte| E4M3[usize::from(byte)]),
        // The upper half of a binary16.
        Dtype::Fp8E5m2 => by_byte(to, |byte| f16::from_bits(u16::from(byte) << 8).to_f32()),
        Dtype::Int4 => by_nibble(to, |nibble| f32::from((nibble << 4) as i8 >> 4)),
        Dtype::Uint4 => by_nibble(to, f32::from),
        Dtype::Q8_0 => blocks::<34>(data, to, |block, to| {
            for (to, byte) in to.iter_mut().zip(&block[2..]) {
                *to = half(block, 0) * f32::from(*byte as i8);
            }
        }),
        Dtype::Q4_0 => blocks::<18>(data, to, |block, to| {
            nibbles(&block[2..], [0; 4], to, |n| half(block, 0) * (f32::from(n) - 8.0));
        }),
        Dtype::Q4_1 => blocks::<20>(data, to, |block, to| {
            nibbles(&block[4..], [0; 4], to, |n| half(block, 0) * f32::from(n) + half(block, 2));
        }),
        Dtype::Q5_0 => blocks::<22>(data, to, |block, to| {
            let fifth = [block[2], block[3], block[4], block[5]];
            nibbles(&block[6..], fifth, to, |n| half(block, 0) * (f32::from(n) - 16.0));
        }),
        Dtype::Q5_1 => blocks::<24>(data, to, |block, to| {
            let fifth = [block[4], block[5], block[6], block[7]];
            nibbles(&block[8..], fifth, to, |n| half(block, 0) * f32::from(n) + half(block, 2));
        }),
        Dtype::Iq4Nl => blocks::<18>(data, to, |block, to| {
            nibbles(&block[2..], [0; 4], to, |n| half(block, 0) * IQ4_NL[usize::from(n)]);
        }),
        Dtype::Fp32 | Dtype::Fp16 | Dtype::Bf16 => unreachable!("{dtype} is not quantised"),
    }
}

fn blocks<const SIZE: usize>(data: &[u8], to: &mut [f32], block: impl Fn(&[u8; SIZE], &mut [f32])) {
    for (from, to) in data.as_chunks().0.iter().zip(to.chunks_exact_mut(BLOCK)) {
        block(from, to);
    }
}

/// A block's first 16 numbers lie in the lower halves of its bytes, the others in the upper ones;
/// their fifth bits in a word of their own.
fn nibbles(data: &[u8], fifth: [u8; 4], to: &mut [f32], number: impl Fn(u8) -> f32) {
    let fifth = u32::from_le_bytes(fifth);
    let bit = |i: usize| ((fifth >> i & 1) as u8) << 4;
    for (i, byte) in data.iter().enumerate().take(BLOCK / 2) {
        to[i] = number(byte & 15 | bit(i));
        to[i + BLOCK / 2] = number(byte >> 4 | bit(i + BLOCK / 2));
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `(stored - zero) * scale`, group by group of channels.
///
/// # Safety
/// Scales and zero points lie as `quant` says.
unsafe fn rescale(quant: &Quant, [batch, row, head]: [usize; 3], values: &mut [f32]) {
    let first = batch * quant.batch_stride
        + row / quant.token_group * quant.token_stride
        + head * quant.head_stride;
    for (group, values) in values.chunks_mut(quant.channel_group).enumerate() {
        let at = first + group * quant.channel_stride;
        // SAFETY: the caller's.
        let (scale, zero) = unsafe {
            let zero = if quant.zero.is_null() { 0.0 } else { float(quant.dtype, quant.zero, at) };
            (float(quant.dtype, quant.scale, at), zero)
        };
        for value in values {
            *value = (*value - zero) * scale;
        }
    }
}

/// # Safety
/// There is such an element.
unsafe fn float(dtype: Dtype, data: *const u8, at: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        match dtype {
            Dtype::Fp16 => (*data.cast::<f16>().add(at)).to_f32(),
            Dtype::Bf16 => (*data.cast::<bf16>().add(at)).to_f32(),
            _ => *data.cast::<f32>().add(at),
        }
    }
}

/// What the indices of `iq4_nl` stand for.
const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Four exponent bits of bias 7 and three of mantissa, without infinities.
static E4M3: [f32; 256] = {
    let mut numbers = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, mantissa) = ((byte >> 3 & 15) as u32, (byte & 7) as u32);
        let sign = (byte as u32 >> 7) << 31;
        numbers[byte] = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            // Multiples of 2^-9.
            (0, _) => f32::from_bits(sign | 0x3b00_0000) * mantissa as f32,
            _ => f32::from_bits(sign | (exponent + 120) << 23 | mantissa << 20),
        };
        byte += 1;
    }
    numbers
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Elements;

    /// Every byte of every type, as the oracle reads it.
    #[test]
    fn numbers_are_what_the_oracle_reads() {
        type Oracle = fn(&[u8]) -> Elements<'_>;
        let types: [(Dtype, Oracle); 11] = [
            (Dtype::Uint8, |data| Elements::U8(data)),
            (Dtype::Int4, |data| Elements::I4(data)),
            (Dtype::Uint4, |data| Elements::U4(data)),
            (Dtype::Fp8E4m3, |data| Elements::E4m3(data)),
            (Dtype::Fp8E5m2, |data| Elements::E5m2(data)),
            (Dtype::Q8_0, |data| Elements::Q8_0(data)),
            (Dtype::Q4_0, |data| Elements::Q4_0(data)),
            (Dtype::Q4_1, |data| Elements::Q4_1(data)),
            (Dtype::Q5_0, |data| Elements::Q5_0(data)),
            (Dtype::Q5_1, |data| Elements::Q5_1(data)),
            (Dtype::Iq4Nl, |data| Elements::Iq4Nl(data)),
        ];
        for (dtype, oracle) in types {
            let (elements, size) = dtype.packing();
            let mut data: Vec<u8> = (0..64 * size).map(|i| (i * 37 + i / 256) as u8).collect();
            if size == 1 {
                data = (0..=255).collect();
            }
            if dtype.is_block() {
                // Scales and minima that are finite.
                for block in data.chunks_mut(size) {
                    block[1] = 0x3c;
                    block[3] =
                        if matches!(dtype, Dtype::Q4_1 | Dtype::Q5_1) { 0x2e } else { block[3] };
                }
            }
            let dim = data.len() / size * elements;
            let mut got = vec![f32::NAN; dim];
            numbers(dtype, &data, &mut got);
            for (i, got) in got.iter().enumerate() {
                let want = oracle(&data).at(0, i);
                let same = (f64::from(*got) - want).abs() <= want.abs() * 1e-7
                    || got.is_nan() && want.is_nan()
                    || f64::from(*got) == want;
                assert!(same, "{dtype} element {i} is {got}, want {want}");
            }
        }
        let bytes: Vec<i8> = (-128..=127).collect();
        let mut got = vec![0.0; 256];
        numbers(Dtype::Int8, &bytes.iter().map(|byte| *byte as u8).collect::<Vec<_>>(), &mut got);
        assert!(got.iter().zip(&bytes).all(|(got, want)| *got == f32::from(*want)));
    }
}
