//! NEON (Advanced SIMD), which every aarch64 CPU has: 4 lanes, 32 registers.

use crate::cpu::isa::instantiate;
use crate::cpu::vector::Vector;
use half::{bf16, f16};
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
struct F32x4(float32x4_t);

// The trait's contract gives every block below valid pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for F32x4 {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(vdupq_n_f32(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(vld1q_f32(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        unsafe {
            let mut lanes = vdupq_n_f32(0.0);
            if count > 0 {
                lanes = vld1q_lane_f32::<0>(from, lanes);
            }
            if count > 1 {
                lanes = vld1q_lane_f32::<1>(from.add(1), lanes);
            }
            if count > 2 {
                lanes = vld1q_lane_f32::<2>(from.add(2), lanes);
            }
            Self(lanes)
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        unsafe {
            if count > 0 {
                vst1q_lane_f32::<0>(to, self.0);
            }
            if count > 1 {
                vst1q_lane_f32::<1>(to.add(1), self.0);
            }
            if count > 2 {
                vst1q_lane_f32::<2>(to.add(2), self.0);
            }
        }
    }
    // FCVTL and FCVTN by hand: their intrinsics are younger than the compiler that we ask for.
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        unsafe {
            let lanes: float32x4_t;
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) lanes, in(vreg) vld1_u16(from.cast()),
                options(pure, nomem, nostack, preserves_flags));
            Self(lanes)
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe {
            let lanes = vmovl_u16(vld1_u16(from.cast()));
            Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(lanes)))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        unsafe {
            let lanes: uint16x4_t;
            asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) lanes, in(vreg) self.0,
                options(pure, nomem, nostack, preserves_flags));
            vst1_u16(to.cast(), lanes)
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        unsafe {
            // Half a unit of the last place, less one bit where the kept part is even.
            let bits = vreinterpretq_u32_f32(self.0);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
            let is_number = vceqq_f32(self.0, self.0);
            let words = vbslq_u32(is_number, vaddq_u32(bits, half), vdupq_n_u32(0x7fc0_0000));
            vst1_u16(to.cast(), vshrn_n_u32::<16>(words))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self(vdivq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // Not FMAX, which is NaN where either is, nor FMAXNM, which is the number.
        unsafe { Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(vfmaq_f32(addend.0, self.0, factor.0)) }
    }
    #[inline(always)]
    unsafe fn select_less(left: Self, right: Self, then: Self, otherwise: Self) -> Self {
        unsafe { Self(vbslq_f32(vcltq_f32(left.0, right.0), then.0, otherwise.0)) }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        unsafe { Self(vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(self.0)))) }
    }
    #[inline(always)]
    unsafe fn reduce_add(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        unsafe { vmaxvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        // By hand: the intrinsic is unstable.
        unsafe {
            asm!("prfm pldl2keep, [{}]", in(reg) address.addr(),
                options(nomem, nostack, preserves_flags));
        }
    }
}

// 24 registers of sums, four of columns and one factor at a time.
// Part of the architecture.
instantiate!("neon", strength = 1, detected = || true, F32x4, scores = 6 x 4, values = 6 x 4);
