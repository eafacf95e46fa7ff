//! What happens to scores between product and softmax: one pass over a panel in the L1 cache, for
//! problems that ask for it.

use crate::cpu::softmax::QueryScale;
use crate::cpu::vector::{LOG2_E, MAX_LANES, Vector, exp2_nonpositive};
use crate::problem::Problem;

/// Softcap, then ALiBi, of scores that come with their plain scale; leaves exponents of two.
#[derive(Clone, Copy)]
pub struct ScorePass {
    /// 0 is off.
    softcap: f32,
    slopes: *const f32,
    slopes_batch_stride: usize,
}

/// How far from the first key of a vector each one lies.
static STEPS: [f32; MAX_LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// What the queries of a problem are scaled by, and what then happens to its scores, if anything.
pub fn pass_of(p: &Problem) -> (QueryScale, Option<ScorePass>) {
    let scores = &p.scores;
    if scores.softcap == 0.0 && scores.alibi_slopes.is_null() {
        return (QueryScale::log2(p.scale), None);
    }
    let pass = ScorePass {
        softcap: scores.softcap,
        slopes: scores.alibi_slopes,
        slopes_batch_stride: scores.alibi_batch_stride,
    };
    (QueryScale::plain(p.scale), Some(pass))
}

impl ScorePass {
    /// The ALiBi slope of a head; 0 where there is none.
    ///
    /// # Safety
    /// The problem's arrays may be read.
    pub unsafe fn slope(&self, batch: usize, head: usize) -> f32 {
        if self.slopes.is_null() {
            return 0.0;
        }
        // SAFETY: the caller's.
        unsafe { *self.slopes.add(batch * self.slopes_batch_stride + head) }
    }

    /// The pass over the scores of one row with `count` keys, of which the first lies `distance` keys
    /// before the row's own.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub unsafe fn row<V: Vector>(&self, scores: *mut f32, count: usize, slope: f32, distance: i64) {
        // SAFETY: the caller's.
        unsafe {
            let slope = V::splat(slope);
            let steps = V::load(STEPS.as_ptr());
            for i in (0..count).step_by(V::LANES) {
                let away = V::splat((distance - i as i64) as f32).sub(steps);
                let at = scores.add(i);
                if count - i >= V::LANES {
                    self.apply(V::load(at), slope, away).store(at);
                } else {
                    let tail = V::load_partial(at, count - i);
                    self.apply(tail, slope, away).store_partial(at, count - i);
                }
            }
        }
    }

    /// The pass over one vector of scores, `away` keys from their rows' own, either way.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub unsafe fn apply<V: Vector>(&self, scores: V, slope: V, away: V) -> V {
        // SAFETY: the caller's.
        unsafe {
            let mut scores = scores;
            if self.softcap != 0.0 {
                let inverse = V::splat(1.0 / self.softcap);
                scores = tanh(scores.mul(inverse)).mul(V::splat(self.softcap));
            }
            let zero = V::splat(0.0);
            if !self.slopes.is_null() {
                let distance = away.max(zero.sub(away));
                scores = slope.mul_add(zero.sub(distance), scores);
            }
            scores.mul(V::splat(LOG2_E as f32))
        }
    }
}

/// The hyperbolic tangent, about an ulp or two off.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn tanh<V: Vector>(x: V) -> V {
    /// Of x to the power of 3, 5 .. 17: the Taylor series, of which |x| <= 1/2 needs no more.
    const SERIES: [f32; 8] = [
        -1.0 / 3.0,
        2.0 / 15.0,
        -17.0 / 315.0,
        62.0 / 2835.0,
        -1382.0 / 155_925.0,
        21_844.0 / 6_081_075.0,
        -929_569.0 / 638_512_875.0,
        6_404_582.0 / 10_854_718_875.0,
    ];
    // SAFETY: the caller's.
    unsafe {
        let zero = V::splat(0.0);
        let size = x.max(zero.sub(x));
        let square = x.mul(x);
        let mut series = V::splat(SERIES[7]);
        for coefficient in SERIES[..7].iter().rev() {
            series = series.mul_add(square, V::splat(*coefficient));
        }
        let small = series.mul(square).mul_add(x, x);
        // (1 - e) / (1 + e) with e = exp(-2 |x|).
        let e = exp2_nonpositive(size.mul(V::splat(-2.0 * LOG2_E as f32)));
        let one = V::splat(1.0);
        let large = one.sub(e).div(one.add(e));
        let signed = V::select_less(x, zero, zero.sub(large), large);
        V::select_less(size, V::splat(0.5), small, signed)
    }
}

/// The hyperbolic tangent, held against that of float64.
///
/// # Safety
/// As [`Vector`].
#[cfg(test)]
pub unsafe fn tanh_contract<V: Vector>() {
    for step in -4000..=4000 {
        let x = step as f32 * 0.0025 + step as f32 * step as f32 * 1e-9;
        let want = f64::from(x).tanh();
        // SAFETY: the caller's.
        let got = f64::from(unsafe { tanh(V::splat(x)).reduce_max() });
        assert!((got - want).abs() <= 2.5e-7 * want.abs(), "tanh({x}) is {got}, want {want}");
    }
    for (x, want) in [(f32::INFINITY, 1.0), (f32::NEG_INFINITY, -1.0), (1e-40, 1e-40)] {
        // SAFETY: the caller's.
        assert_eq!(unsafe { tanh(V::splat(x)).reduce_max() }, want);
    }
}
