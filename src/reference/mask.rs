//! Explicit masks.

use super::{Elements, Sequence};

/// A mask `[batch, heads, q_len, columns]`; a stride of 0 shares it along that axis.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    pub kind: MaskKind<'a>,
    pub batch_stride: usize,
    pub head_stride: usize,
    pub row_stride: usize,
    /// Keys that the mask speaks of.
    pub columns: usize,
    /// They are the newest keys of the sequence, not the oldest.
    pub newest: bool,
    /// Where each sequence's mask begins, instead of `batch_stride`.
    pub offsets: Option<&'a [i64]>,
    /// Factor on an additive mask, per head.
    pub head_factor: Option<&'a [f32]>,
}

/// What a mask holds. Strides and offsets count elements; of a bit mask, bits.
#[derive(Clone, Copy, Debug)]
pub enum MaskKind<'a> {
    /// Numbers added to the scores; -infinity hides.
    Additive(Elements<'a>),
    /// 0 hides.
    Boolean(&'a [u8]),
    /// 0 hides; a byte's least significant bit is its first.
    Bits(&'a [u8]),
}

impl Mask<'_> {
    /// What the mask adds to a score; `None` if it hides the key.
    pub fn at(
        &self,
        batch: usize,
        head: usize,
        row: usize,
        key: usize,
        sequence: &Sequence,
    ) -> Option<f64> {
        let oldest = if self.newest { sequence.kv_len as i64 - self.columns as i64 } else { 0 };
        let column = key as i64 - oldest;
        if !(0..self.columns as i64).contains(&column) {
            return Some(0.0);
        }
        let first = match self.offsets {
            Some(offsets) => offsets[batch] as usize,
            None => batch * self.batch_stride,
        };
        let at = first + head * self.head_stride + row * self.row_stride + column as usize;
        match self.kind {
            MaskKind::Boolean(mask) => (mask[at] != 0).then_some(0.0),
            MaskKind::Bits(mask) => (mask[at / 8] >> (at % 8) & 1 != 0).then_some(0.0),
            MaskKind::Additive(mask) => {
                let value = mask.at(at, 0);
                let factor = self.head_factor.map_or(1.0, |factor| f64::from(factor[head]));
                (value != f64::NEG_INFINITY).then_some(factor * value)
            }
        }
    }
}
