//! Explicit masks: what they add to the scores of a row, and which keys they hide.
//!
//! Scores are exponents of two by then, and so is what is added. A key that a mask hides has the score
//! -infinity and does not exist: neither it nor its value is read.

use crate::cpu::softmax::NO_MAX;
use crate::cpu::vector::{LOG2_E, Vector};
use crate::dtype::Dtype;
use crate::problem::{Mask, MaskKind, Problem, Sequence};
use half::{bf16, f16};
use std::ops::Range;

/// The score of a key that does not exist.
pub const HIDDEN: f32 = f32::NEG_INFINITY;

/// What the mask says to one query row of one head.
#[derive(Clone, Copy)]
pub struct RowMask {
    data: *const u8,
    kind: MaskKind,
    /// The element that speaks of key 0, or would.
    first: i64,
    /// The keys that it speaks of.
    from: i64,
    to: i64,
    /// Makes exponents of two of what is added.
    factor: f32,
}

impl RowMask {
    /// `None` where the problem has no mask.
    ///
    /// # Safety
    /// The problem's arrays may be read; `s` is its sequence `batch`, with such a row.
    #[inline(always)]
    pub unsafe fn of(
        p: &Problem,
        s: &Sequence,
        batch: usize,
        head: usize,
        row: usize,
    ) -> Option<Self> {
        // SAFETY: the caller's.
        p.scores.mask.as_ref().map(|mask| unsafe { Self::new(mask, s, batch, head, row) })
    }

    #[inline(always)]
    unsafe fn new(mask: &Mask, s: &Sequence, batch: usize, head: usize, row: usize) -> Self {
        // SAFETY: the arrays have an entry for every sequence and head.
        let (of_batch, factor) = unsafe {
            let of_batch = match mask.offsets {
                none if none.is_null() => (batch * mask.batch_stride) as i64,
                offsets => *offsets.add(batch),
            };
            (of_batch, if mask.head_factor.is_null() { 1.0 } else { *mask.head_factor.add(head) })
        };
        let from = if mask.newest { s.kv_end as i64 - mask.columns as i64 } else { 0 };
        let of_row = of_batch + (head * mask.head_stride + row * mask.row_stride) as i64;
        Self {
            data: mask.data,
            kind: mask.kind,
            first: of_row - from,
            from,
            to: from + mask.columns as i64,
            factor: (f64::from(factor) * LOG2_E) as f32,
        }
    }

    /// Writes what is added to the score of each key: 0 where the mask does not speak of it,
    /// [`HIDDEN`] where it hides it.
    ///
    /// # Safety
    /// The row sees the keys but for the mask, and there is room for as many floats.
    #[inline(always)]
    pub unsafe fn fill(&self, keys: Range<usize>, to: *mut f32) {
        let (start, end) = (keys.start as i64, keys.end as i64);
        let (from, until) = (self.from.clamp(start, end), self.to.clamp(start, end));
        let until = until.max(from);
        let (before, inside) = ((from - start) as usize, (until - from) as usize);
        let first = (self.first + from) as usize;
        // SAFETY: the mask has an element for each key that it speaks of.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, keys.len());
            to[..before].fill(0.0);
            to[before + inside..].fill(0.0);
            let to = &mut to[before..before + inside];
            match self.kind {
                MaskKind::Additive(Dtype::Fp16) => {
                    self.add(to, self.data.cast::<f16>().add(first), f16::to_f32);
                }
                MaskKind::Additive(Dtype::Bf16) => {
                    self.add(to, self.data.cast::<bf16>().add(first), bf16::to_f32);
                }
                MaskKind::Additive(_) => self.add(to, self.data.cast::<f32>().add(first), |x| x),
                MaskKind::Boolean => {
                    for (i, to) in to.iter_mut().enumerate() {
                        *to = if *self.data.add(first + i) != 0 { 0.0 } else { HIDDEN };
                    }
                }
                MaskKind::Bits => {
                    for (i, to) in to.iter_mut().enumerate() {
                        let bit = first + i;
                        let shown = *self.data.add(bit / 8) >> (bit % 8) & 1 != 0;
                        *to = if shown { 0.0 } else { HIDDEN };
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add<T: Copy>(&self, to: &mut [f32], from: *const T, number: impl Fn(T) -> f32) {
        for (i, to) in to.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let value = number(unsafe { *from.add(i) });
            let scaled = value * self.factor;
            // The lowest numbers stand for "hardly": their product with the factor must not hide.
            let finite = if scaled < NO_MAX { NO_MAX } else { scaled };
            *to = if value == f32::NEG_INFINITY { HIDDEN } else { finite };
        }
    }

    /// Whether the row sees some of the keys, or the mask hides them all.
    ///
    /// # Safety
    /// As [`Self::fill`].
    pub unsafe fn shows(&self, keys: Range<usize>) -> bool {
        let mut bias = 0.0;
        keys.into_iter().any(|key| {
            // SAFETY: the caller's.
            unsafe { self.fill(key..key + 1, &mut bias) };
            bias != HIDDEN
        })
    }
}

/// Adds what [`RowMask::fill`] wrote to as many scores. A hidden key's is [`HIDDEN`], whatever it was.
///
/// # Safety
/// As [`Vector`]; both arrays hold `count` floats.
#[inline(always)]
pub unsafe fn add<V: Vector>(scores: *mut f32, biases: *const f32, count: usize) {
    // SAFETY: the caller's.
    unsafe {
        let sum = |scores: V, biases: V| {
            V::select_less(V::splat(HIDDEN), biases, scores.add(biases), biases)
        };
        let whole = count / V::LANES * V::LANES;
        for i in (0..whole).step_by(V::LANES) {
            sum(V::load(scores.add(i)), V::load(biases.add(i))).store(scores.add(i));
        }
        if whole < count {
            let (scores, left) = (scores.add(whole), count - whole);
            let biases = V::load_partial(biases.add(whole), left);
            sum(V::load_partial(scores, left), biases).store_partial(scores, left);
        }
    }
}

/// The runs of `count` keys, counted from the first, of which `shown` says that they exist: all of
/// them in one where nothing is masked. An iterator, as a closure's body would not be compiled for the
/// kernel's instruction set.
#[inline(always)]
pub fn runs(
    count: usize,
    masked: bool,
    shown: impl Fn(usize) -> bool,
) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut end = count;
        if masked {
            start = (start..count).find(|key| shown(*key)).unwrap_or(count);
            end = (start..count).find(|key| !shown(*key)).unwrap_or(count);
        }
        let run = start..end;
        start = end;
        (!run.is_empty()).then_some(run)
    })
}
