//! AVX-512 F, BW, VL, DQ: one register holds the sixteen lanes; bf16 is widened and multiplied as `f32`.

use std::arch::x86_64::*;

use super::{Lanes, strip_kernels};

pub(super) struct Avx512;

impl Lanes for Avx512 {
    type Vector = __m512;
    /// Even `k`, odd `k`.
    type Pairs = (__m512, __m512);
    type PairSplat = (__m512, __m512);

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: see the trait.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: see the trait.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: see the trait.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        // SAFETY: see the trait.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m512) {
        // SAFETY: see the trait.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
            // Rounding could carry a NaN's mantissa away; it keeps its upper half and a quiet bit instead.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
            let narrow = _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_storeu_si256(to.cast(), narrow);
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the trait.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(acc: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the trait.
        unsafe { _mm512_fmadd_ps(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> (__m512, __m512) {
        // SAFETY: see the trait.
        unsafe {
            let both = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)), _mm512_castsi512_ps(odd))
        }
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> (__m512, __m512) {
        // SAFETY: see the trait.
        unsafe { (_mm512_set1_ps(f32::from_bits(pair << 16)), _mm512_set1_ps(f32::from_bits(pair & 0xffff_0000))) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512, a: (__m512, __m512), b: (__m512, __m512)) -> __m512 {
        // SAFETY: see the trait.
        unsafe { _mm512_fmadd_ps(a.1, b.1, _mm512_fmadd_ps(a.0, b.0, acc)) }
    }
}

strip_kernels!(
    Avx512, true, f32: [12, 8, 4, 2, 1], bf16: [12, 8, 4, 2, 1],
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
);
