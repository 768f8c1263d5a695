//! AVX2 with fused multiply-add: two registers hold the sixteen lanes; bf16 is widened and multiplied as `f32`.

use std::arch::x86_64::*;

use super::{Lanes, strip_kernels};

pub(super) struct Avx2;

type Two = [__m256; 2];

impl Lanes for Avx2 {
    type Vector = Two;
    /// Even `k`, odd `k`.
    type Pairs = (Two, Two);
    type PairSplat = (__m256, __m256);

    #[inline(always)]
    unsafe fn splat(value: f32) -> Two {
        // SAFETY: see the trait.
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Two {
        // SAFETY: see the trait.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Two) {
        // SAFETY: see the trait.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Two {
        // SAFETY: see the trait.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Two) {
        // SAFETY: see the trait.
        unsafe {
            for (i, v) in v.into_iter().enumerate() {
                let bits = _mm256_castps_si256(v);
                let upper = _mm256_srli_epi32::<16>(bits);
                let bias = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
                let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
                // Rounding could carry a NaN's mantissa away; it keeps its upper half and a quiet bit instead.
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
                let wide = _mm256_blendv_epi8(rounded, quiet, nan);
                let low = _mm256_castsi256_si128(wide);
                let high = _mm256_extracti128_si256::<1>(wide);
                _mm_storeu_si128(to.add(8 * i).cast(), _mm_packus_epi32(low, high));
            }
        }
    }
    #[inline(always)]
    unsafe fn mul(a: Two, b: Two) -> Two {
        // SAFETY: see the trait.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(acc: Two, a: Two, b: Two) -> Two {
        // SAFETY: see the trait.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], acc[0]), _mm256_fmadd_ps(a[1], b[1], acc[1])] }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> (Two, Two) {
        // SAFETY: see the trait.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast()));
            let even = [_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high)];
            let odd = [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)];
            (
                [_mm256_castsi256_ps(even[0]), _mm256_castsi256_ps(even[1])],
                [_mm256_castsi256_ps(odd[0]), _mm256_castsi256_ps(odd[1])],
            )
        }
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> (__m256, __m256) {
        // SAFETY: see the trait.
        unsafe { (_mm256_set1_ps(f32::from_bits(pair << 16)), _mm256_set1_ps(f32::from_bits(pair & 0xffff_0000))) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Two, a: (__m256, __m256), b: (Two, Two)) -> Two {
        // SAFETY: see the trait.
        unsafe { Self::fma(Self::fma(acc, [a.0; 2], b.0), [a.1; 2], b.1) }
    }
}

// Sixteen registers: six rows of two and what they are multiplied with; pairs take twice the latter, so four rows.
strip_kernels!(
    Avx2, false, f32: [6, 4, 2, 1], bf16: [4, 2, 1],
    #[target_feature(enable = "avx2,fma")]
);
