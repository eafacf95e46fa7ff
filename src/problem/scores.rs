//! What happens to a score between product and softmax, and the sink beside it.
#![allow(dead_code, reason = "kernels that serve more than plain scores read it")]

use super::memory::{Arrays, extent};
use super::validator::{Validator, invalid};
use crate::abi::*;
use crate::dtype::Dtype;
use crate::error::{Refusal, Result};
use crate::features::Features;

#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// 0 is off.
    pub softcap: f32,
    /// `[heads]` per sequence, or null.
    pub alibi_slopes: *const f32,
    /// Slopes from one sequence to the next; 0 shares them.
    pub alibi_batch_stride: usize,
    pub mask: Option<Mask>,
    /// `[heads]`, or null.
    pub sinks: *const f32,
}

/// An explicit mask.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    pub data: *const u8,
    pub kind: MaskKind,
    /// Strides in elements, of a bit mask in bits; 0 shares.
    pub batch_stride: usize,
    pub head_stride: usize,
    pub row_stride: usize,
    /// Keys that a row of the mask speaks of.
    pub columns: usize,
    /// They are the newest of the sequence, not the first.
    pub newest: bool,
    /// Where each sequence's mask begins, instead of `batch_stride`; null if nowhere else.
    pub offsets: *const i64,
    /// Factor per head on what is added; null is 1.
    pub head_factor: *const f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    Additive(Dtype),
    Boolean,
    Bits,
}

impl Scores {
    pub fn features(&self) -> Features {
        let mut features = Features::SOFTCAP
            .when(self.softcap != 0.0)
            .and(Features::ALIBI.when(!self.alibi_slopes.is_null()))
            .and(Features::SINKS.when(!self.sinks.is_null()));
        if let Some(mask) = &self.mask {
            features = features
                .and(match mask.kind {
                    MaskKind::Additive(_) => Features::ADDITIVE_MASK,
                    MaskKind::Boolean => Features::BOOLEAN_MASK,
                    MaskKind::Bits => Features::BIT_MASK,
                })
                .and(Features::MASK_OFFSETS.when(!mask.offsets.is_null()))
                .and(Features::MASK_HEAD_FACTOR.when(!mask.head_factor.is_null()));
        }
        features
    }
}

impl<E: Refusal> Validator<'_, E> {
    pub fn scores(&self, shape: [usize; 4], arrays: &mut Arrays) -> Result<Scores, E> {
        let [batch, heads, ..] = shape;
        let d = self.desc;
        if !(d.softcap.is_finite() && d.softcap >= 0.0) {
            return invalid(format_args!(
                "softcap is {}; expected a finite number, or 0 for none",
                d.softcap
            ));
        }
        if d.alibi_batch_stride < 0 {
            return invalid(format_args!(
                "alibi_batch_stride is {}; expected 0 or more",
                d.alibi_batch_stride
            ));
        }
        let alibi_batch_stride = d.alibi_batch_stride as usize;
        let slopes = extent(&[(alibi_batch_stride, batch), (1, heads)]);
        self.array(arrays, "alibi_slopes", d.alibi_slopes, 4, slopes)?;
        self.array(arrays, "sinks", d.sinks, 4, Some(heads))?;
        Ok(Scores {
            softcap: d.softcap,
            alibi_slopes: d.alibi_slopes,
            alibi_batch_stride,
            mask: self.mask(shape, arrays)?,
            sinks: d.sinks,
        })
    }

    /// Validates the mask over `[batch, heads, q_len, kv_len]`.
    fn mask(&self, shape: [usize; 4], arrays: &mut Arrays) -> Result<Option<Mask>, E> {
        let [batch, heads, q_len, kv_len] = shape;
        let d = self.desc;
        let c = &d.mask;
        let kind = match c.kind {
            KFA_MASK_NONE => {
                for (name, set) in [
                    ("mask.data", !c.data.is_null()),
                    ("mask_offsets", !d.mask_offsets.is_null()),
                    ("mask_head_factor", !d.mask_head_factor.is_null()),
                    ("mask_columns", d.mask_columns != 0),
                    ("mask_newest", d.mask_newest != 0),
                ] {
                    if set {
                        return invalid(format_args!(
                            "{name} is set, but mask.kind is KFA_MASK_NONE (0); expected the kind of mask"
                        ));
                    }
                }
                return Ok(None);
            }
            KFA_MASK_ADDITIVE => match Dtype::from_c(c.dtype).filter(|dtype| dtype.is_float()) {
                Some(dtype) => MaskKind::Additive(dtype),
                None => {
                    return invalid(format_args!(
                        "mask.dtype is {}; expected fp32, fp16 or bf16",
                        c.dtype
                    ));
                }
            },
            KFA_MASK_BOOLEAN => MaskKind::Boolean,
            KFA_MASK_BITS => MaskKind::Bits,
            other => {
                return invalid(format_args!(
                    "mask.kind is {other}; expected KFA_MASK_NONE (0), _ADDITIVE (1), _BOOLEAN (2) or _BITS (3)"
                ));
            }
        };
        if self.all() && c.data.is_null() {
            return invalid(format_args!("mask.data is NULL; expected a mask, as mask.kind says"));
        }
        for (axis, stride) in
            [("batch", c.batch_stride), ("head", c.head_stride), ("row", c.row_stride)]
        {
            if stride < 0 {
                return invalid(format_args!("mask.{axis}_stride is {stride}; expected 0 or more"));
            }
        }
        if d.mask_columns < 0 || d.mask_columns as usize > kv_len {
            return invalid(format_args!(
                "mask_columns is {}; expected 0 to kv_len ({kv_len})",
                d.mask_columns
            ));
        }
        if !(0..=1).contains(&d.mask_newest) {
            return invalid(format_args!("mask_newest is {}; expected 0 or 1", d.mask_newest));
        }
        if !d.mask_head_factor.is_null() && !matches!(kind, MaskKind::Additive(_)) {
            return invalid(format_args!(
                "mask_head_factor is set; expected NULL, as the mask is not additive"
            ));
        }
        let columns = if d.mask_columns == 0 { kv_len } else { d.mask_columns as usize };
        let [batch_stride, head_stride, row_stride] =
            [c.batch_stride, c.head_stride, c.row_stride].map(|stride| stride as usize);
        // Where offsets say where sequences begin, the end of the last one is the caller's to know.
        let batches = if d.mask_offsets.is_null() { batch } else { 1 };
        let elements = extent(&[
            (batch_stride, batches),
            (head_stride, heads),
            (row_stride, q_len),
            (1, columns),
        ]);
        let (size, elements) = match kind {
            MaskKind::Additive(dtype) => (dtype.size(), elements),
            MaskKind::Boolean => (1, elements),
            MaskKind::Bits => (1, elements.map(|bits| bits.div_ceil(8))),
        };
        self.array(arrays, "mask.data", c.data.cast::<u8>(), size, elements)?;
        self.array(arrays, "mask_offsets", d.mask_offsets, 8, Some(batch))?;
        self.array(arrays, "mask_head_factor", d.mask_head_factor, 4, Some(heads))?;
        Ok(Some(Mask {
            data: c.data.cast(),
            kind,
            batch_stride,
            head_stride,
            row_stride,
            columns,
            newest: d.mask_newest == 1,
            offsets: d.mask_offsets,
            head_factor: d.mask_head_factor,
        }))
    }
}
