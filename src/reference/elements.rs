//! How numbers are stored, each type by its own definition.

use half::{bf16, f16};

/// Stored numbers. The block types are ggml's, byte for byte; an index counts blocks for them and
/// elements for all others.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    I8(&'a [i8]),
    U8(&'a [u8]),
    /// Two's complement, two to a byte, the even element in the low half.
    I4(&'a [u8]),
    U4(&'a [u8]),
    E4m3(&'a [u8]),
    E5m2(&'a [u8]),
    Q8_0(&'a [u8]),
    Q4_0(&'a [u8]),
    Q4_1(&'a [u8]),
    Q5_0(&'a [u8]),
    Q5_1(&'a [u8]),
    Iq4Nl(&'a [u8]),
}

impl Default for Elements<'_> {
    fn default() -> Self {
        Self::F32(&[])
    }
}

impl<'a> From<&'a [f32]> for Elements<'a> {
    fn from(data: &'a [f32]) -> Self {
        Self::F32(data)
    }
}

impl Elements<'_> {
    /// Element `i` of a head that begins at `index`.
    pub fn at(&self, index: usize, i: usize) -> f64 {
        let at = index + i;
        match *self {
            Self::F32(data) => data[at].into(),
            Self::F16(data) => data[at].into(),
            Self::Bf16(data) => data[at].into(),
            Self::I8(data) => data[at].into(),
            Self::U8(data) => data[at].into(),
            Self::I4(data) => f64::from((nibble(data[at / 2], at % 2) as i8) << 4 >> 4),
            Self::U4(data) => nibble(data[at / 2], at % 2).into(),
            Self::E4m3(data) => e4m3(data[at]),
            Self::E5m2(data) => e5m2(data[at]),
            Self::Q8_0(data) => {
                let block = block::<34>(data, index, i);
                half(block, 0) * f64::from(block[2 + i % 32] as i8)
            }
            Self::Q4_0(data) => {
                let block = block::<18>(data, index, i);
                half(block, 0) * (f64::from(block_nibble(&block[2..], i)) - 8.0)
            }
            Self::Q4_1(data) => {
                let block = block::<20>(data, index, i);
                half(block, 0) * f64::from(block_nibble(&block[4..], i)) + half(block, 2)
            }
            Self::Q5_0(data) => {
                let block = block::<22>(data, index, i);
                let fifth = fifth_bit(&block[2..6], i);
                half(block, 0) * (f64::from(block_nibble(&block[6..], i) | fifth) - 16.0)
            }
            Self::Q5_1(data) => {
                let block = block::<24>(data, index, i);
                let fifth = fifth_bit(&block[4..8], i);
                half(block, 0) * f64::from(block_nibble(&block[8..], i) | fifth) + half(block, 2)
            }
            Self::Iq4Nl(data) => {
                const LEVELS: [i8; 16] =
                    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
                let block = block::<18>(data, index, i);
                half(block, 0) * f64::from(LEVELS[block_nibble(&block[2..], i) as usize])
            }
        }
    }
}

fn nibble(byte: u8, which: usize) -> u8 {
    byte >> (4 * which) & 15
}

/// The block of `SIZE` bytes and 32 elements that holds element `i` of a head.
fn block<const SIZE: usize>(data: &[u8], index: usize, i: usize) -> &[u8] {
    &data[(index + i / 32) * SIZE..][..SIZE]
}

/// A block's first 16 elements are the low halves of its bytes, the other 16 the high halves.
fn block_nibble(quants: &[u8], i: usize) -> u8 {
    nibble(quants[i % 16], i % 32 / 16)
}

/// The fifth bits of a block's elements, in the order of the elements, as 16.
fn fifth_bit(bits: &[u8], i: usize) -> u8 {
    (bits[i % 32 / 8] >> (i % 8) & 1) << 4
}

fn half(block: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([block[at], block[at + 1]]).into()
}

/// Four exponent bits of bias 7, no infinities: only all ones is NaN (OCP "fn").
fn e4m3(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

/// The upper half of a binary16.
fn e5m2(byte: u8) -> f64 {
    f16::from_bits(u16::from(byte) << 8).into()
}
