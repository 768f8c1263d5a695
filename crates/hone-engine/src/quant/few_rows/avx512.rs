//! The dot products of [`super`] in AVX-512: blocks are expanded into two registers of sixteen values, which meet `R` rows of
//! `x` before the next are made. The same chains, so the same bits, as the plain loops.

use std::arch::x86_64::*;

use super::{LANES, tree};
use crate::quant::BlockType;
use crate::quant::k_blocks::scale_and_minimum;
use crate::quant::small_blocks::f16_at;

/// `R` rows of `x` by one row of blocks; `None` for types without a kernel.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ, and `x` holds `R` rows of `columns` values, which the blocks hold too.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn dots<const R: usize>(
    kind: BlockType,
    x: &[f32],
    columns: usize,
    blocks: &[u8],
) -> Option<[f32; R]> {
    debug_assert!(x.len() >= R * columns && blocks.len() == kind.row_bytes(columns).unwrap_or(0));
    // SAFETY: what is asked of the caller.
    Some(unsafe {
        match kind {
            BlockType::Q8_0 => q8_0(x, columns, blocks),
            BlockType::Q4_0 => q4_0(x, columns, blocks),
            BlockType::Q4_1 => q4_1(x, columns, blocks),
            BlockType::Q5_0 => q5_0(x, columns, blocks),
            BlockType::Q5_1 => q5_1(x, columns, blocks),
            BlockType::Q4K => q4_k(x, columns, blocks),
            BlockType::Q6K => q6_k(x, columns, blocks),
            _ => return None,
        }
    })
}

/// The two halves of the chains of `R` rows.
type Chains<const R: usize> = [(__m512, __m512); R];

/// Adds 32 values, met by `R` rows at `at`.
#[inline(always)]
unsafe fn meet<const R: usize>(chains: &mut Chains<R>, at: *const f32, columns: usize, low: __m512, high: __m512) {
    for (r, (a, b)) in chains.iter_mut().enumerate() {
        // SAFETY: the caller's rows reach 32 values beyond `at`.
        unsafe {
            let x = at.add(r * columns);
            *a = _mm512_fmadd_ps(_mm512_loadu_ps(x), low, *a);
            *b = _mm512_fmadd_ps(_mm512_loadu_ps(x.add(LANES / 2)), high, *b);
        }
    }
}

#[inline(always)]
unsafe fn sums<const R: usize>(chains: &Chains<R>) -> [f32; R] {
    let mut out = [0f32; R];
    for (sum, (a, b)) in out.iter_mut().zip(chains) {
        let mut chain = [0f32; LANES];
        // SAFETY: the array holds both registers.
        unsafe {
            _mm512_storeu_ps(chain.as_mut_ptr(), *a);
            _mm512_storeu_ps(chain.as_mut_ptr().add(LANES / 2), *b);
        }
        *sum = tree(&chain);
    }
    out
}

/// Sixteen bytes as whole numbers.
#[inline(always)]
unsafe fn widen(bytes: __m128i) -> __m512i {
    // SAFETY: called where AVX-512 is on.
    unsafe { _mm512_cvtepu8_epi32(bytes) }
}

/// A row kernel: for each block of `$values`, `$body` calls `meet` with every 32 of them.
macro_rules! kernel {
    ($name:ident, $values:literal, $bytes:literal, |$block:ident, $meet:ident| $body:block) => {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn $name<const R: usize>(x: &[f32], columns: usize, blocks: &[u8]) -> [f32; R] {
            // SAFETY: the caller's promises; every block is `$bytes` long, and pointers stay inside it and inside `x`.
            unsafe {
                let mut chains: Chains<R> = [(_mm512_setzero_ps(), _mm512_setzero_ps()); R];
                for (i, $block) in blocks.chunks_exact($bytes).enumerate() {
                    let from = x.as_ptr().add(i * $values);
                    #[allow(unused_mut)]
                    let mut $meet = |group: usize, low: __m512, high: __m512| {
                        meet(&mut chains, from.add(LANES * group), columns, low, high);
                    };
                    $body
                }
                sums(&chains)
            }
        }
    };
}

/// The nibbles of 16 bytes: low halves, high halves.
#[inline(always)]
unsafe fn nibbles(at: *const u8) -> (__m512i, __m512i) {
    // SAFETY: the caller has 16 bytes there, and AVX-512 is on.
    unsafe {
        let bytes = _mm_loadu_si128(at.cast());
        let mask = _mm_set1_epi8(15);
        (widen(_mm_and_si128(bytes, mask)), widen(_mm_and_si128(_mm_srli_epi16::<4>(bytes), mask)))
    }
}

kernel!(q8_0, 32, 34, |block, meet| {
    let d = _mm512_set1_ps(f16_at(block, 0));
    let quants = block.as_ptr().add(2);
    let value = |at: *const u8| _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))));
    meet(0, value(quants), value(quants.add(16)));
});

kernel!(q4_0, 32, 18, |block, meet| {
    let d = _mm512_set1_ps(f16_at(block, 0));
    let (low, high) = nibbles(block.as_ptr().add(2));
    let value = |q| _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_sub_epi32(q, _mm512_set1_epi32(8))));
    meet(0, value(low), value(high));
});

kernel!(q4_1, 32, 20, |block, meet| {
    let (d, m) = (_mm512_set1_ps(f16_at(block, 0)), _mm512_set1_ps(f16_at(block, 2)));
    let (low, high) = nibbles(block.as_ptr().add(4));
    let value = |q| _mm512_add_ps(_mm512_mul_ps(d, _mm512_cvtepi32_ps(q)), m);
    meet(0, value(low), value(high));
});

kernel!(q5_0, 32, 22, |block, meet| {
    let d = _mm512_set1_ps(f16_at(block, 0));
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let (low, high) = nibbles(block.as_ptr().add(6));
    let value = |q, bits: u32| {
        let q = _mm512_mask_add_epi32(q, bits as __mmask16, q, _mm512_set1_epi32(16));
        _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_sub_epi32(q, _mm512_set1_epi32(16))))
    };
    meet(0, value(low, fifth), value(high, fifth >> 16));
});

kernel!(q5_1, 32, 24, |block, meet| {
    let (d, m) = (_mm512_set1_ps(f16_at(block, 0)), _mm512_set1_ps(f16_at(block, 2)));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    let (low, high) = nibbles(block.as_ptr().add(8));
    let value = |q, bits: u32| {
        let q = _mm512_mask_add_epi32(q, bits as __mmask16, q, _mm512_set1_epi32(16));
        _mm512_add_ps(_mm512_mul_ps(d, _mm512_cvtepi32_ps(q)), m)
    };
    meet(0, value(low, fifth), value(high, fifth >> 16));
});

kernel!(q4_k, 256, 144, |block, meet| {
    let (d, d_min, scales) = (f16_at(block, 0), f16_at(block, 2), &block[4..16]);
    for pair in 0..4 {
        // 32 bytes: the low nibbles are one group of 32, the high ones the next.
        let bytes = block.as_ptr().add(16 + 32 * pair);
        let (first, second) = (nibbles(bytes), nibbles(bytes.add(16)));
        for (half, (a, b)) in [(first.0, second.0), (first.1, second.1)].into_iter().enumerate() {
            let (scale, minimum) = scale_and_minimum(scales, 2 * pair + half);
            let (scale, minimum) = (_mm512_set1_ps(d * scale), _mm512_set1_ps(d_min * minimum));
            let value = |q| _mm512_sub_ps(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(q)), minimum);
            meet(2 * pair + half, value(a), value(b));
        }
    }
});

kernel!(q6_k, 256, 210, |block, meet| {
    let (d, scales) = (f16_at(block, 208), &block[192..208]);
    for half in 0..2 {
        let low = block.as_ptr().add(64 * half);
        let high = block.as_ptr().add(128 + 32 * half);
        for quarter in 0..4 {
            let group = 4 * half + quarter;
            let value = |at: usize, scale: u8| {
                let low = widen(_mm_loadu_si128(low.add(32 * (quarter % 2) + at).cast()));
                let high = widen(_mm_loadu_si128(high.add(at).cast()));
                let low = _mm512_srlv_epi32(low, _mm512_set1_epi32(4 * (quarter as i32 / 2)));
                let high = _mm512_srlv_epi32(high, _mm512_set1_epi32(2 * quarter as i32));
                let low = _mm512_and_si512(low, _mm512_set1_epi32(15));
                let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(3)));
                let q = _mm512_sub_epi32(_mm512_or_si512(low, high), _mm512_set1_epi32(32));
                _mm512_mul_ps(_mm512_set1_ps(d * f32::from(scale as i8)), _mm512_cvtepi32_ps(q))
            };
            meet(group, value(0, scales[2 * group]), value(16, scales[2 * group + 1]));
        }
    }
});
