//! The sums of [`super`] with AVX-512's dot products of bytes (`vpdpbusd`): four products of each of sixteen rows at once.

use std::arch::x86_64::*;

use super::lanes::{Form, Lanes, PANEL, WIDTH};
use super::rounded::{Rounded, RowPointers};

/// Rows of `x` that share a block while it is in registers.
const TOGETHER: usize = 8;
/// Bytes ahead that are fetched: a block is met in less time than memory takes to answer.
const AHEAD: usize = 1536;

/// Whether this processor has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// All rows of `x` by one panel: `sums` `[rows, PANEL]`. Panics if [`is_available`] does not hold.
pub(super) fn panel_sums(matrix: &Lanes, panel: usize, x: &Rounded, sums: &mut [f32]) {
    assert!(is_available() && sums.len() == x.rows() * PANEL);
    let (form, blocks) = (matrix.form(), matrix.panel(panel));
    let mut first = 0;
    for count in [TOGETHER, 4, 2, 1] {
        while x.rows() - first >= count {
            let sums = &mut sums[first * PANEL..][..count * PANEL];
            // SAFETY: the instructions are there; `sums` has a place for every row taken.
            unsafe {
                match count {
                    TOGETHER => of_form::<TOGETHER>(form, blocks, x, first, sums),
                    4 => of_form::<4>(form, blocks, x, first, sums),
                    2 => of_form::<2>(form, blocks, x, first, sums),
                    _ => of_form::<1>(form, blocks, x, first, sums),
                }
            }
            first += count;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn of_form<const R: usize>(form: Form, blocks: &[u8], x: &Rounded, first: usize, sums: &mut [f32]) {
    // SAFETY: what is asked of the caller.
    unsafe {
        match (form.bytes, form.halves, form.minimum, form.half_precision) {
            (false, _, false, _) => rows::<R, false, false, false, true>(form, blocks, x, first, sums),
            (false, _, true, true) => rows::<R, false, false, true, true>(form, blocks, x, first, sums),
            (false, _, true, false) => rows::<R, false, false, true, false>(form, blocks, x, first, sums),
            (true, true, _, _) => rows::<R, true, true, false, false>(form, blocks, x, first, sums),
            (true, false, false, _) => rows::<R, true, false, false, true>(form, blocks, x, first, sums),
            (true, false, true, true) => rows::<R, true, false, true, true>(form, blocks, x, first, sums),
            (true, false, true, false) => rows::<R, true, false, true, false>(form, blocks, x, first, sums),
        }
    }
}

/// `R` rows of `x` from `first` on by one panel; the constants say what the blocks hold ([`Form`]).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn rows<const R: usize, const BYTES: bool, const HALVES: bool, const MINIMUM: bool, const HALF: bool>(
    form: Form,
    blocks: &[u8],
    x: &Rounded,
    first: usize,
    sums: &mut [f32],
) {
    debug_assert!(form.bytes == BYTES && form.halves == HALVES);
    debug_assert!(form.minimum == MINIMUM && form.half_precision == HALF && sums.len() == R * PANEL);
    // SAFETY: a block has `form.block_bytes()` bytes, of which the head holds one row of scales for each constant that is
    // set, and the quants four or eight registers; a block of `x` has `WIDTH` values; `sums` was checked.
    unsafe {
        let number = |block: *const u8, index: usize| {
            if HALF {
                _mm512_cvtph_ps(_mm256_loadu_si256(block.add(2 * PANEL * index).cast()))
            } else {
                _mm512_loadu_ps(block.add(4 * PANEL * index).cast())
            }
        };
        let nibble = _mm512_set1_epi8(15);
        let rows: [RowPointers; R] = std::array::from_fn(|r| x.row(first + r));
        // Two sums a row where scales differ between halves, or where fewer rows would wait for their own sums.
        let two = HALVES || R < TOGETHER;
        let mut chains = [_mm512_setzero_ps(); R];
        for (b, block) in blocks.chunks_exact(form.block_bytes()).enumerate() {
            let block = block.as_ptr();
            let quants = block.add(form.head_bytes());
            // Two to four blocks ahead: what comes next lies there, unless it is the end.
            for line in 0..form.block_bytes().div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(AHEAD + 64 * line).cast());
            }
            let mut whole = [[_mm512_setzero_si512(); 2]; R];
            if !MINIMUM {
                for (whole, row) in whole.iter_mut().zip(&rows) {
                    let [low, high] = *row.sums.add(b);
                    if two {
                        *whole = [low, high].map(|sum| _mm512_set1_epi32(-form.centre() * sum));
                    } else {
                        whole[0] = _mm512_set1_epi32(-form.centre() * (low + high));
                    }
                }
            }
            for step in 0..WIDTH / 8 {
                let (low, high) = if BYTES {
                    let at = quants.add(4 * PANEL * step);
                    (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(PANEL * WIDTH / 2).cast()))
                } else {
                    let both = _mm512_loadu_si512(quants.add(4 * PANEL * step).cast());
                    (_mm512_and_si512(both, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble))
                };
                for (whole, row) in whole.iter_mut().zip(&rows) {
                    let values = row.values.add(WIDTH * b + 4 * step);
                    let four = |at: usize| _mm512_set1_epi32(values.add(at).cast::<i32>().read_unaligned());
                    whole[0] = _mm512_dpbusd_epi32(whole[0], low, four(0));
                    let second = if two { 1 } else { 0 };
                    whole[second] = _mm512_dpbusd_epi32(whole[second], high, four(WIDTH / 2));
                }
            }
            let scale = number(block, 0);
            for (chain, (whole, row)) in chains.iter_mut().zip(whole.iter().zip(&rows)) {
                let own = _mm512_set1_ps(*row.scales.add(b));
                if HALVES {
                    *chain = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[0]), _mm512_mul_ps(scale, own), *chain);
                    let second = _mm512_mul_ps(number(block, 1), own);
                    *chain = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[1]), second, *chain);
                } else {
                    let sum = if two { _mm512_add_epi32(whole[0], whole[1]) } else { whole[0] };
                    *chain = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, own), *chain);
                }
                if MINIMUM {
                    *chain = _mm512_fmadd_ps(number(block, 1), _mm512_set1_ps(*row.totals.add(b)), *chain);
                }
            }
        }
        for (sums, chain) in sums.chunks_exact_mut(PANEL).zip(chains) {
            _mm512_storeu_ps(sums.as_mut_ptr(), chain);
        }
    }
}
