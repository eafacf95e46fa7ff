//! The scalars of softmax: what a query is scaled by, and what a row's statistics come to.

use crate::cpu::vector::{LOG2_E, Vector};
use crate::features::Features;
use crate::problem::Problem;

/// The maximum of no scores: finite, so that a row whose scores are all -infinity has weights of 0
/// and not of NaN.
pub const NO_MAX: f32 = f32::MIN;

/// The factors of a query.
#[derive(Clone, Copy)]
pub struct QueryScale([f32; 2]);

impl QueryScale {
    /// Makes scores exponents of two: scale times log2(e), in two factors where one float cannot hold
    /// the product, or not all its digits.
    pub fn log2(scale: f32) -> Self {
        let product = (f64::from(scale) * LOG2_E) as f32;
        Self(if product.is_normal() || scale == 0.0 {
            [product, 1.0]
        } else {
            [LOG2_E as f32, scale]
        })
    }

    /// Leaves scores as they are defined.
    pub fn plain(scale: f32) -> Self {
        Self([scale, 1.0])
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finish {
    /// Makes an output of the weighted sum of values.
    pub factor: f32,
    pub lse: f32,
}

/// How the rows of a problem end.
#[derive(Clone, Copy)]
pub struct Finisher {
    sinks: *const f32,
    /// Whether the LSE is a logarithm to base 2.
    base2: bool,
}

impl Finisher {
    pub fn of(p: &Problem) -> Self {
        let base2 = Features::LSE_BASE2.without(p.features).is_empty();
        Self { sinks: p.scores.sinks, base2 }
    }

    /// # Safety
    /// The problem's arrays may be read.
    pub unsafe fn finish(&self, head: usize, max: f32, sum: f32) -> Finish {
        let (mut max, mut sum, mut weight) = (f64::from(max), f64::from(sum), 1.0);
        if !self.sinks.is_null() {
            // SAFETY: the caller's.
            let sink = f64::from(unsafe { *self.sinks.add(head) }) * LOG2_E;
            let larger = max.max(sink);
            weight = (max - larger).exp2();
            sum = sum * weight + (sink - larger).exp2();
            max = larger;
        }
        // A row that sees no key, or keys whose scores are all -infinity.
        if sum == 0.0 {
            return Finish { factor: 0.0, lse: f32::NEG_INFINITY };
        }
        let lse = if self.base2 { max + sum.log2() } else { max / LOG2_E + sum.ln() };
        Finish { factor: weight as f32 / sum as f32, lse: lse as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(sink: Option<f32>, base2: bool, max: f32, sum: f32) -> Finish {
        let sinks = sink.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: head 0 has a sink where there are any.
        unsafe { Finisher { sinks, base2 }.finish(0, max, sum) }
    }

    #[test]
    fn a_row_without_keys_is_empty_or_its_sink() {
        let empty = Finish { factor: 0.0, lse: f32::NEG_INFINITY };
        assert_eq!(finish(None, false, NO_MAX, 0.0), empty);
        assert_eq!(finish(Some(f32::NEG_INFINITY), false, NO_MAX, 0.0), empty);
        assert_eq!(finish(Some(3.5), false, NO_MAX, 0.0), Finish { factor: 0.0, lse: 3.5 });
    }

    #[test]
    fn a_sink_is_one_more_logit() {
        // Weights 1 and 1/2 at maximum 2 (base 2), and a sink of ln 8 in either order of size.
        for (sink, total) in [(8f32, 4.0 + 2.0 + 8.0), (0.25, 4.0 + 2.0 + 0.25)] {
            let got = finish(Some(sink.ln()), true, 2.0, 1.5);
            assert!((got.factor - 4.0 / total as f32).abs() < 1e-6);
            assert!((f64::from(got.lse) - f64::log2(total)).abs() < 1e-6);
            let natural = finish(Some(sink.ln()), false, 2.0, 1.5).lse;
            assert!((f64::from(natural) - f64::ln(total)).abs() < 1e-6);
        }
        assert!(finish(Some(f32::NAN), false, 2.0, 1.5).lse.is_nan());
        assert!(finish(Some(1.0), false, 2.0, f32::NAN).factor.is_nan());
    }
}
