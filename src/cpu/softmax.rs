//! The scalars of softmax: the scale in powers of two, and what a row's statistics come to.

use crate::cpu::vector::{LOG2_E, Vector};

/// The maximum of no scores: finite, so that a row whose scores are all -infinity has weights of 0
/// and not of NaN.
pub const NO_MAX: f32 = f32::MIN;

/// What makes a query's scores exponents of two: scale times log2(e), in two factors where one float
/// cannot hold the product, or not all its digits.
#[derive(Clone, Copy)]
pub struct Log2Scale([f32; 2]);

impl Log2Scale {
    pub fn new(scale: f32) -> Self {
        let product = (f64::from(scale) * LOG2_E) as f32;
        Self(if product.is_normal() || scale == 0.0 {
            [product, 1.0]
        } else {
            [LOG2_E as f32, scale]
        })
    }

    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub unsafe fn apply<V: Vector>(self, query: V) -> V {
        // SAFETY: the caller's. A factor of 1 changes nothing.
        unsafe { query.mul(V::splat(self.0[0])).mul(V::splat(self.0[1])) }
    }
}

/// What a row's maximum (of scores in powers of two) and its sum of weights come to.
#[derive(Clone, Copy)]
pub struct Finish {
    /// Makes an output of the weighted sum of values.
    pub factor: f32,
    /// The natural log-sum-exp.
    pub lse: f32,
}

/// A sum of 0 is that of a row that sees no key, or keys whose scores are all -infinity.
pub fn finish(max: f32, sum: f32) -> Finish {
    if sum == 0.0 {
        return Finish { factor: 0.0, lse: f32::NEG_INFINITY };
    }
    Finish { factor: 1.0 / sum, lse: (f64::from(max) / LOG2_E + f64::from(sum).ln()) as f32 }
}
