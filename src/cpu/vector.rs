//! What a kernel needs of an instruction set: one register of float32 lanes.
//!
//! Algorithms are written once over [`Vector`] as `#[inline(always)]` functions without target
//! features; the files in `isa/` implement it and instantiate the algorithms under theirs.

use crate::dtype::Typed;
use half::{bf16, f16};
use std::f32::consts::LN_2;

/// The most lanes of any instruction set.
pub const MAX_LANES: usize = 16;

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
    /// Loads float16 and bfloat16 lanes, widened.
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Stores lanes rounded to nearest even; NaN stays NaN, and what is too large is infinite.
    unsafe fn store_f16(self, to: *mut f16);
    unsafe fn store_bf16(self, to: *mut bf16);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// The larger lane; `other`'s where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * factor + addend`.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lanes of `then` where `left < right`, of `otherwise` elsewhere and where either is NaN.
    unsafe fn select_less(left: Self, right: Self, then: Self, otherwise: Self) -> Self;
    /// Moves the lowest nine bits of each lane to its top: 2^(n - 127) for an integer n in 1..=254
    /// that the lowest bits hold, 0 for n = 0.
    unsafe fn power_of_two(self) -> Self;
    unsafe fn reduce_add(self) -> f32;
    unsafe fn reduce_max(self) -> f32;
    /// Hints that the cache line at `address` is wanted in the L2 cache; any address is allowed.
    unsafe fn prefetch(address: *const f32);
}

/// 1.5 * 2^23: adding it to a small number rounds that to an integer, held in the lowest bits.
pub const ROUND: f32 = 12_582_912.0;

/// Softmax works on scores times this, so that its weights are powers of two.
pub const LOG2_E: f64 = std::f64::consts::LOG2_E;

/// Where 2^x ends: exponents that round to this give 0, which keeps all other results normal.
const MIN_EXPONENT: f32 = -126.0;

/// 2^x for x <= 0, the only range softmax needs; 0 from x = -125.5 on, and NaN for NaN.
///
/// x = n + f with |f| <= 1/2, which is exact; twice 2^f by a polynomial, then times 2^(n - 1) by
/// arithmetic on the exponent's bits. At most 1 ulp off, 1.25 without fused multiply-adds.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn exp2_nonpositive<V: Vector>(x: V) -> V {
    /// Adding it leaves n + 126 in the lowest bits.
    const BIAS: f32 = ROUND - MIN_EXPONENT;
    // SAFETY: the caller's.
    unsafe {
        let clamped = V::splat(MIN_EXPONENT).max(x);
        let biased = clamped.add(V::splat(BIAS));
        let f = clamped.sub(biased.sub(V::splat(BIAS)));
        let mut p = V::splat(2.0 * EXP2_POLYNOMIAL[0]);
        for coefficient in &EXP2_POLYNOMIAL[1..] {
            p = p.mul_add(f, V::splat(2.0 * *coefficient));
        }
        // A product, so that a NaN of any payload stays one.
        p.mul(biased.power_of_two())
    }
}

/// 2^f on |f| <= 1/2, highest power first: minimax in the relative error (2e-9 before rounding),
/// its constant term held at 1.
const EXP2_POLYNOMIAL: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_4e-2, 0.240_226_48, LN_2, 1.0];

/// An element type of a tensor: read widened to float32, written rounded to nearest even.
pub trait Element: Typed + Copy {
    /// # Safety
    /// As [`Vector`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
    /// Loads the first `count` lanes, all of them if there are more, and zeroes the rest.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn load_up_to<V: Vector>(from: *const Self, count: usize) -> V;
    /// Stores the first `count` lanes, all of them if there are more.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn store_up_to<V: Vector>(value: V, to: *mut Self, count: usize);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    unsafe fn load_up_to<V: Vector>(from: *const Self, count: usize) -> V {
        // SAFETY: the caller's.
        unsafe { if count >= V::LANES { V::load(from) } else { V::load_partial(from, count) } }
    }
    #[inline(always)]
    unsafe fn store_up_to<V: Vector>(value: V, to: *mut Self, count: usize) {
        // SAFETY: the caller's.
        unsafe { if count >= V::LANES { value.store(to) } else { value.store_partial(to, count) } }
    }
}

/// A 16-bit float; its partial vectors go through a buffer of whole ones.
macro_rules! half_element {
    ($half:ty, $load:ident, $store:ident) => {
        impl Element for $half {
            #[inline(always)]
            unsafe fn load<V: Vector>(from: *const Self) -> V {
                // SAFETY: the caller's.
                unsafe { V::$load(from) }
            }
            #[inline(always)]
            unsafe fn load_up_to<V: Vector>(from: *const Self, count: usize) -> V {
                if count >= V::LANES {
                    // SAFETY: the caller's.
                    return unsafe { V::$load(from) };
                }
                let mut lanes = [Self::ZERO; MAX_LANES];
                // SAFETY: the caller vouches for `count` elements; the buffer has more.
                unsafe {
                    lanes.as_mut_ptr().copy_from_nonoverlapping(from, count);
                    V::$load(lanes.as_ptr())
                }
            }
            #[inline(always)]
            unsafe fn store_up_to<V: Vector>(value: V, to: *mut Self, count: usize) {
                if count >= V::LANES {
                    // SAFETY: the caller's.
                    return unsafe { value.$store(to) };
                }
                let mut lanes = [Self::ZERO; MAX_LANES];
                // SAFETY: as above.
                unsafe {
                    value.$store(lanes.as_mut_ptr());
                    to.copy_from_nonoverlapping(lanes.as_ptr(), count);
                }
            }
        }
    };
}
half_element!(f16, load_f16, store_f16);
half_element!(bf16, load_bf16, store_bf16);

/// Runs an expression with a name for the element type that a [`Dtype`] stands for.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::Dtype::Fp32 => {
                type $element = f32;
                $body
            }
            $crate::dtype::Dtype::Fp16 => {
                type $element = half::f16;
                $body
            }
            $crate::dtype::Dtype::Bf16 => {
                type $element = half::bf16;
                $body
            }
            other => unreachable!("the table refuses {other} elements"),
        }
    };
}
pub(crate) use with_element;
