//! What a kernel needs of an instruction set: one register of float32 lanes.
//!
//! Algorithms are written once over [`Vector`] as `#[inline(always)]` functions without target
//! features; the files in `isa/` implement it and instantiate the algorithms under theirs.

/// One SIMD register of float32.
///
/// # Safety
/// Every method may compile to instructions of its instruction set, so callers must run on a CPU
/// that has it; pointers must be valid for the lanes they name, at any alignment.
pub trait Vector: Copy {
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Loads the first `count < LANES` lanes and zeroes the rest.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self;
    /// Stores the first `count < LANES` lanes.
    unsafe fn store_partial(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// The larger lane; `other`'s where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * factor + addend`.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lanes of `then` where `left < right`, of `otherwise` elsewhere and where either is NaN.
    unsafe fn select_less(left: Self, right: Self, then: Self, otherwise: Self) -> Self;
    /// Multiplies by 2 to the power of `exponent`, whose lanes are integers and keep the result
    /// a normal number.
    unsafe fn scale_by_power_of_two(self, exponent: Self) -> Self;
    unsafe fn reduce_add(self) -> f32;
    unsafe fn reduce_max(self) -> f32;
    /// Hints that the cache line at `address` is read soon; any address is allowed.
    unsafe fn prefetch(address: *const f32);
}

/// Below this, e^x counts as 0: it is under 2^-125, against row sums of at least 1.
const EXP_FLUSH: f32 = -87.0;

/// e^x for x <= 0, the only range softmax needs; -infinity gives 0 and NaN gives NaN.
///
/// x = n·ln2 + r with |r| <= ln2/2, ln2 in two parts so that r is exact; e^r by a polynomial
/// (minimax of (e^r - 1 - r)/r²); then a shift of the exponent by n.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn exp_nonpositive<V: Vector>(x: V) -> V {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    const LN2_HIGH: f32 = 0.693_359_4; // few bits, so that n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // SAFETY: the caller's.
    unsafe {
        let flush = V::splat(EXP_FLUSH);
        let clamped = flush.max(x);
        let round = V::splat(ROUND);
        let n = clamped.mul_add(V::splat(std::f32::consts::LOG2_E), round).sub(round);
        let r = n.mul_add(V::splat(-LN2_HIGH), clamped);
        let r = n.mul_add(V::splat(-LN2_LOW), r);
        let mut p = V::splat(EXP_POLYNOMIAL[0]);
        for coefficient in &EXP_POLYNOMIAL[1..] {
            p = p.mul_add(r, V::splat(*coefficient));
        }
        let e = p.mul_add(r.mul(r), r).add(V::splat(1.0));
        V::select_less(x, flush, V::splat(0.0), e.scale_by_power_of_two(n))
    }
}

/// (e^r - 1 - r)/r² on |r| <= ln2/2, highest power first: Chebyshev fit of degree 4 rounded to
/// float32, error 6.5e-8, so below an eighth of an ulp of e^r.
const EXP_POLYNOMIAL: [f32; 5] = [0.001_392_619_8, 0.008_363_19, 0.041_666_556, 0.166_665_76, 0.5];

/// Loads up to `count` lanes, the rest zero.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn load_up_to<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's.
    unsafe { if count >= V::LANES { V::load(from) } else { V::load_partial(from, count) } }
}

/// Stores up to `count` lanes.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn store_up_to<V: Vector>(value: V, to: *mut f32, count: usize) {
    // SAFETY: the caller's.
    unsafe { if count >= V::LANES { value.store(to) } else { value.store_partial(to, count) } }
}
