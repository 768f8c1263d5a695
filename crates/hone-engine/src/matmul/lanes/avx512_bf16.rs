//! AVX-512 with bf16 dot products (`vdpbf16ps`): sixteen lanes of two products each, denormals read and written as zero.

use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::{Lanes, strip_kernels};

pub(super) struct Avx512Bf16;

impl Lanes for Avx512Bf16 {
    type Vector = __m512;
    type Pairs = __m512bh;
    type PairSplat = __m512bh;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: see the trait.
        unsafe { Avx512::splat(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: see the trait.
        unsafe { Avx512::load(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: see the trait.
        unsafe { Avx512::store(to, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        // SAFETY: see the trait.
        unsafe { Avx512::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m512) {
        // SAFETY: see the trait; both types are 32 bytes of bf16.
        unsafe {
            let narrow: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(to.cast(), narrow);
        }
    }
    #[inline(always)]
    unsafe fn store_two_bf16(to: *mut u16, v: [__m512; 2]) {
        // SAFETY: see the trait; both types are 64 bytes of bf16.
        unsafe {
            let narrow: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(v[1], v[0]));
            _mm512_storeu_si512(to.cast(), narrow);
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the trait.
        unsafe { Avx512::mul(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(acc: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the trait.
        unsafe { Avx512::fma(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> __m512bh {
        // SAFETY: see the trait; both types are 64 bytes of bf16.
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> __m512bh {
        // SAFETY: see the trait; both types are 64 bytes of bf16.
        unsafe { std::mem::transmute(_mm512_set1_epi32(pair as i32)) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        // SAFETY: see the trait.
        unsafe { _mm512_dpbf16_ps(acc, a, b) }
    }
}

strip_kernels!(
    Avx512Bf16, true, f32: [12, 8, 4, 2, 1], bf16: [12, 8, 4, 2, 1],
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
);
