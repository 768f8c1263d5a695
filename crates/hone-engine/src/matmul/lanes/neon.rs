//! Arm NEON: four registers hold the sixteen lanes; bf16 is widened and multiplied as `f32`.

use std::arch::aarch64::*;

use super::{Lanes, strip_kernels};
use crate::dtype::Element;

pub(super) struct Neon;

type Four = [float32x4_t; 4];

impl Lanes for Neon {
    type Vector = Four;
    /// Even `k`, odd `k`.
    type Pairs = (Four, Four);
    type PairSplat = (float32x4_t, float32x4_t);

    #[inline(always)]
    unsafe fn splat(value: f32) -> Four {
        // SAFETY: see the trait.
        unsafe { [vdupq_n_f32(value); 4] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Four {
        // SAFETY: see the trait.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Four) {
        // SAFETY: see the trait.
        unsafe {
            for (i, v) in v.into_iter().enumerate() {
                vst1q_f32(to.add(4 * i), v);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Four {
        // SAFETY: see the trait.
        unsafe {
            let mut out = [vdupq_n_f32(0.0); 4];
            for (i, v) in out.iter_mut().enumerate() {
                *v = vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(from.add(4 * i)))));
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Four) {
        let mut values = [0f32; 16];
        // SAFETY: see the trait; sixteen values fit the buffer.
        unsafe {
            Self::store(values.as_mut_ptr(), v);
            for (i, value) in values.into_iter().enumerate() {
                *to.add(i) = <half::bf16 as Element>::rounded(value).to_bits();
            }
        }
    }
    #[inline(always)]
    unsafe fn mul(a: Four, b: Four) -> Four {
        // SAFETY: see the trait.
        unsafe { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])] }
    }
    #[inline(always)]
    unsafe fn fma(acc: Four, a: Four, b: Four) -> Four {
        // SAFETY: see the trait.
        unsafe {
            [
                vfmaq_f32(acc[0], a[0], b[0]),
                vfmaq_f32(acc[1], a[1], b[1]),
                vfmaq_f32(acc[2], a[2], b[2]),
                vfmaq_f32(acc[3], a[3], b[3]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> (Four, Four) {
        // SAFETY: see the trait.
        unsafe {
            let mask = vdupq_n_u32(0xffff_0000);
            let (mut even, mut odd) = ([vdupq_n_f32(0.0); 4], [vdupq_n_f32(0.0); 4]);
            for i in 0..4 {
                let both = vld1q_u32(from.add(4 * i));
                even[i] = vreinterpretq_f32_u32(vshlq_n_u32::<16>(both));
                odd[i] = vreinterpretq_f32_u32(vandq_u32(both, mask));
            }
            (even, odd)
        }
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> (float32x4_t, float32x4_t) {
        // SAFETY: see the trait.
        unsafe { (vdupq_n_f32(f32::from_bits(pair << 16)), vdupq_n_f32(f32::from_bits(pair & 0xffff_0000))) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Four, a: (float32x4_t, float32x4_t), b: (Four, Four)) -> Four {
        // SAFETY: see the trait.
        unsafe { Self::fma(Self::fma(acc, [a.0; 4], b.0), [a.1; 4], b.1) }
    }
}

strip_kernels!(Neon, false, f32: [6, 4, 2, 1], bf16: [4, 2, 1], #[target_feature(enable = "neon")]);
