//! Plain arrays, for processors without a kernel of their own; the compiler vectorises what it can. Products and sums are
//! rounded separately, as a fused multiply-add without an instruction for it would be a slow call.

use super::{Lanes, strip_kernels};
use crate::dtype::Element;

pub(super) struct Portable;

type Array = [f32; 16];

#[inline(always)]
fn zip(a: Array, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Portable {
    type Vector = Array;
    /// Even `k`, odd `k`.
    type Pairs = (Array, Array);
    type PairSplat = (f32, f32);

    #[inline(always)]
    unsafe fn splat(value: f32) -> Array {
        [value; 16]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Array {
        // SAFETY: see the trait.
        unsafe { from.cast::<Array>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Array) {
        // SAFETY: see the trait.
        unsafe { to.cast::<Array>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Array {
        // SAFETY: see the trait.
        let bits = unsafe { from.cast::<[u16; 16]>().read_unaligned() };
        bits.map(|b| f32::from_bits((b as u32) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Array) {
        let bits = v.map(|v| <half::bf16 as Element>::rounded(v).to_bits());
        // SAFETY: see the trait.
        unsafe { to.cast::<[u16; 16]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn mul(a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn fma(acc: Array, a: Array, b: Array) -> Array {
        zip(acc, zip(a, b, |a, b| a * b), |acc, product| acc + product)
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> (Array, Array) {
        // SAFETY: see the trait.
        let both = unsafe { from.cast::<[u32; 16]>().read_unaligned() };
        (both.map(|b| f32::from_bits(b << 16)), both.map(|b| f32::from_bits(b & 0xffff_0000)))
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> (f32, f32) {
        (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
    }
    #[inline(always)]
    unsafe fn dot(acc: Array, a: (f32, f32), b: (Array, Array)) -> Array {
        // SAFETY: no instruction set is needed.
        unsafe { Self::fma(Self::fma(acc, [a.0; 16], b.0), [a.1; 16], b.1) }
    }
}

strip_kernels!(Portable, false, f32: [2, 1], bf16: [2, 1],);
