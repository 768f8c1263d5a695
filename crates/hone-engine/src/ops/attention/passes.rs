//! The passes over a tile of scores between its products: mask, online softmax, its gradient. Scores are held
//! transposed, `[keys, queries]` with queries in the lanes, in units of `log2`: probabilities are powers of two
//! (`e^x = 2^(x log2 e)`), and the scale of the scores is applied in the exponent.
//!
//! Every column is worked on alone and downwards, so what a query gets does not depend on its neighbours; a key that is
//! masked changes nothing, to the bit (its probability is exactly 0).

// Loops over registers are written by index: rows, columns and sums side by side.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::Simd;

use super::engine::Engine;

/// `1.5 * 2^23`: adding it rounds an `f32` to the nearest integer and leaves that integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// `2^f = 1 + f P(f)` for `|f| <= 0.5`, relative error 9e-8 (`tools/golden/polynomials.py`).
#[allow(clippy::approx_constant)]
const EXP2: [f32; 5] = [6.931_47e-1, 2.402_224_2e-1, 5.550_734e-2, 9.671_513e-3, 1.326_472_4e-3];

/// `2^x` for `x` up to 126; exactly 0 from -127 downwards, exactly 1 for 0, NaN for NaN.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let lowest = simd.splat_f32s(-127.0);
    let x = match S::IS_SCALAR {
        true => simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x),
        // The operand that may be NaN stands second: that is the one x86 returns (Arm returns NaN in any case).
        false => simd.max_f32s(lowest, x),
    };
    let shifted = simd.add_f32s(x, simd.splat_f32s(ROUND));
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, simd.splat_f32s(ROUND)));
    let mut p = simd.splat_f32s(EXP2[4]);
    for c in [EXP2[3], EXP2[2], EXP2[1], EXP2[0], 1.0] {
        p = simd.mul_add_f32s(p, f, simd.splat_f32s(c));
    }
    let n = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), n))
}

/// Two values as a unit of `bf16`, rounded to nearest (ties away from zero), `low` in the lower half.
#[inline(always)]
fn pair<S: Simd>(simd: S, low: S::f32s, high: S::f32s) -> S::u32s {
    let half = simd.splat_u32s(0x8000);
    let low = simd.add_u32s(simd.transmute_u32s_f32s(low), half);
    let high = simd.add_u32s(simd.transmute_u32s_f32s(high), half);
    let low = simd.wrapping_dyn_shr_u32s(low, simd.splat_u32s(16));
    simd.or_u32s(low, simd.and_u32s(high, simd.splat_u32s(0xffff_0000)))
}

/// As [`pair`], ties to even: for results. NaN stays NaN.
#[inline(always)]
fn pair_to_even<S: Simd>(simd: S, values: [S::f32s; 2]) -> S::u32s {
    let mut halves = [simd.splat_u32s(0); 2];
    for (half, value) in halves.iter_mut().zip(values) {
        let bits = simd.transmute_u32s_f32s(value);
        let odd = simd.and_u32s(simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(16)), simd.splat_u32s(1));
        let rounded = simd.add_u32s(bits, simd.add_u32s(odd, simd.splat_u32s(0x7fff)));
        let is_number = simd.equal_f32s(value, value);
        *half = simd.select_u32s(is_number, rounded, simd.splat_u32s(0x7fc0_0000));
    }
    let low = simd.wrapping_dyn_shr_u32s(halves[0], simd.splat_u32s(16));
    simd.or_u32s(low, simd.and_u32s(halves[1], simd.splat_u32s(0xffff_0000)))
}

/// A tile `[keys, queries]` of `f32` scores, of which rows `rows` are in use.
pub(super) struct Scores<'a> {
    /// Row-major, `queries` wide.
    pub values: &'a mut [f32],
    /// Queries, a multiple of 16 (of 32 for the gradient).
    pub queries: usize,
    /// Keys in use, multiples of 16.
    pub rows: Range<usize>,
}

impl Scores<'_> {
    /// Vectors of the row `key`, from the `vector`-th on.
    ///
    /// # Safety
    /// `key` and `vector` must be inside the tile.
    #[inline(always)]
    unsafe fn at<S: Simd>(&mut self, key: usize, vector: usize) -> *mut S::f32s {
        debug_assert!((key + 1) * self.queries <= self.values.len() && (vector + 1) * S::F32_LANES <= self.queries);
        // SAFETY: the caller's promise.
        unsafe { self.values.as_mut_ptr().add(key * self.queries + vector * S::F32_LANES).cast() }
    }
}

/// Sets scores of keys a query does not see to negative infinity: query `i` sees positions `first[i] ..= last[i]`, and
/// row 0 of the tile is position `position`.
#[inline(always)]
pub(super) fn mask<S: Simd>(simd: S, s: &mut Scores, position: usize, first: &[f32], last: &[f32]) {
    let hidden = simd.splat_f32s(f32::NEG_INFINITY);
    for vector in 0..s.queries / S::F32_LANES {
        let lanes = vector * S::F32_LANES..(vector + 1) * S::F32_LANES;
        let (first, last) = (simd.partial_load_f32s(&first[lanes.clone()]), simd.partial_load_f32s(&last[lanes]));
        for key in s.rows.clone() {
            let at = simd.splat_f32s((position + key) as f32);
            let seen =
                simd.and_m32s(simd.greater_than_or_equal_f32s(at, first), simd.greater_than_or_equal_f32s(last, at));
            // SAFETY: row and vector are inside the tile.
            unsafe {
                let score = s.at::<S>(key, vector);
                score.write_unaligned(simd.select_f32s(seen, score.read_unaligned(), hidden));
            }
        }
    }
}

/// State of the online softmax of a tile's queries.
pub(super) struct Softmax<'a> {
    /// Highest score so far, in `log2` units.
    pub max: &'a mut [f32],
    /// Sum of probabilities so far, relative to `max`.
    pub sum: &'a mut [f32],
    /// What the last block multiplied earlier sums by.
    pub correction: &'a mut [f32],
}

/// Takes a block of scores into the online softmax: `max`, `sum` and `correction` move on, and the scores become
/// probabilities relative to the new `max`, packed in place as a `b` operand that is summed over keys. `factor` turns a
/// score into `log2` units. Returns whether any correction differs from 1.
#[inline(always)]
pub(super) fn softmax<E: Engine>(engine: E, s: &mut Scores, state: &mut Softmax, factor: f32) -> bool {
    let lanes = <E::Simd as Simd>::F32_LANES;
    let vectors = s.queries / lanes;
    let (mut vector, mut corrected) = (0, false);
    while vector < vectors {
        // Two columns of vectors at a time hide the latency of each other's sums.
        if vectors - vector >= 2 {
            corrected |= softmax_columns::<E, 2>(engine, s, state, factor, vector);
            vector += 2;
        } else {
            corrected |= softmax_columns::<E, 1>(engine, s, state, factor, vector);
            vector += 1;
        }
    }
    corrected
}

#[inline(always)]
fn softmax_columns<E: Engine, const N: usize>(
    engine: E,
    s: &mut Scores,
    state: &mut Softmax,
    factor: f32,
    vector: usize,
) -> bool {
    let simd = engine.simd();
    let lanes = <E::Simd as Simd>::F32_LANES;
    let zero = simd.splat_f32s(0.0);
    let factor = simd.splat_f32s(factor);
    let mut highest = [simd.splat_f32s(f32::NEG_INFINITY); N];
    for key in s.rows.clone() {
        for j in 0..N {
            // SAFETY: row and vector are inside the tile.
            let score = unsafe { s.at::<E::Simd>(key, vector + j).read_unaligned() };
            highest[j] = simd.max_f32s(score, highest[j]);
        }
    }
    let mut corrected = false;
    let mut shift = [zero; N];
    for j in 0..N {
        let at = (vector + j) * lanes..(vector + j + 1) * lanes;
        let before = simd.partial_load_f32s(&state.max[at.clone()]);
        let max = simd.max_f32s(before, simd.mul_f32s(highest[j], factor));
        // A query that has seen nothing yet: any finite shift does, all its probabilities are 0.
        let seen = simd.greater_than_f32s(max, simd.splat_f32s(f32::NEG_INFINITY));
        shift[j] = simd.neg_f32s(simd.select_f32s(seen, max, zero));
        simd.partial_store_f32s(&mut state.max[at.clone()], max);
        let correction = exp2(simd, simd.add_f32s(before, shift[j]));
        simd.partial_store_f32s(&mut state.correction[at.clone()], correction);
        corrected |= state.correction[at].iter().any(|c| *c != 1.0);
    }
    let mut sums = [zero; N];
    for key in s.rows.clone().step_by(E::PAIR) {
        for j in 0..N {
            // SAFETY: rows and vector are inside the tile; the packed row stands no lower than the rows read, and
            // other columns are not touched.
            unsafe {
                let mut p = [zero; 2];
                for i in 0..E::PAIR {
                    let score = s.at::<E::Simd>(key + i, vector + j).read_unaligned();
                    p[i] = exp2(simd, simd.mul_add_f32s(score, factor, shift[j]));
                    sums[j] = simd.add_f32s(sums[j], p[i]);
                }
                let packed = match E::PAIR {
                    1 => p[0],
                    _ => simd.transmute_f32s_u32s(pair(simd, p[0], p[1])),
                };
                s.at::<E::Simd>(key / E::PAIR, vector + j).write_unaligned(packed);
            }
        }
    }
    for j in 0..N {
        let at = (vector + j) * lanes..(vector + j + 1) * lanes;
        let before = simd.partial_load_f32s(&state.sum[at.clone()]);
        let correction = simd.partial_load_f32s(&state.correction[at.clone()]);
        simd.partial_store_f32s(&mut state.sum[at], simd.mul_add_f32s(before, correction, sums[j]));
    }
    corrected
}

/// `values[row, i] *= factors[i]` for `rows` rows as wide as `factors`.
#[inline(always)]
pub(super) fn scale_columns<S: Simd>(simd: S, values: &mut [f32], rows: usize, factors: &[f32]) {
    let (factors, rest) = S::as_simd_f32s(factors);
    debug_assert!(rest.is_empty());
    let (values, _) = S::as_mut_simd_f32s(values);
    for row in values.chunks_exact_mut(factors.len()).take(rows) {
        for (value, factor) in row.iter_mut().zip(factors) {
            *value = simd.mul_f32s(*value, *factor);
        }
    }
}

/// As [`scale_columns`]; then rows `2 i` and `2 i + 1` become row `i` of `bf16` pairs, in place.
#[inline(always)]
pub(super) fn scale_and_pair<S: Simd>(simd: S, values: &mut [f32], rows: usize, factors: &[f32]) {
    let (factors, rest) = S::as_simd_f32s(factors);
    debug_assert!(rest.is_empty());
    let (values, _) = S::as_mut_simd_f32s(values);
    let vectors = factors.len();
    assert!(values.len() >= rows * vectors);
    for row in (0..rows).step_by(2) {
        for (v, factor) in factors.iter().enumerate() {
            let pair = [values[row * vectors + v], values[(row + 1) * vectors + v]];
            let pair = [simd.mul_f32s(pair[0], *factor), simd.mul_f32s(pair[1], *factor)];
            values[row / 2 * vectors + v] = simd.transmute_f32s_u32s(pair_to_even(simd, pair));
        }
    }
}

/// `out[row] = Σ a[row] b[row]` of natural tiles `units` wide.
#[inline(always)]
pub(super) fn row_dots<E: Engine>(engine: E, out: &mut [f32], a: &[u32], b: &[u32], units: usize) {
    let simd = engine.simd();
    let vectors = units / <E::Simd as Simd>::F32_LANES;
    let (a, _) = E::Simd::as_simd_u32s(a);
    let (b, _) = E::Simd::as_simd_u32s(b);
    let high = simd.splat_u32s(0xffff_0000);
    for (row, out) in out.iter_mut().enumerate() {
        let mut sums = [simd.splat_f32s(0.0); 2];
        for v in row * vectors..(row + 1) * vectors {
            let (a, b) = (a[v], b[v]);
            if E::PAIR == 1 {
                sums[0] = simd.mul_add_f32s(simd.transmute_f32s_u32s(a), simd.transmute_f32s_u32s(b), sums[0]);
                continue;
            }
            let upper = [simd.and_u32s(a, high), simd.and_u32s(b, high)].map(|v| simd.transmute_f32s_u32s(v));
            sums[1] = simd.mul_add_f32s(upper[0], upper[1], sums[1]);
            let shift = simd.splat_u32s(16);
            let (a, b) = (simd.wrapping_dyn_shl_u32s(a, shift), simd.wrapping_dyn_shl_u32s(b, shift));
            sums[0] = simd.mul_add_f32s(simd.transmute_f32s_u32s(a), simd.transmute_f32s_u32s(b), sums[0]);
        }
        *out = simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1]));
    }
}

/// What the gradient pass needs to know of a tile's queries.
pub(super) struct RowStatistics<'a> {
    /// `log2 Σ 2^score`, infinite for a query that sees nothing.
    pub log_sum: &'a [f32],
    /// `Σ_d dout[d] out[d]`, which is `Σ_key p dp`.
    pub delta: &'a [f32],
}

/// Turns scores `s` and gradients `dp` of probabilities into operands of the gradients' products:
/// `p = 2^(s factor - log_sum)` and `ds = p (dp - delta)`.
///
/// `s` becomes `p` and `dp` becomes `ds`, each packed in place as an `a` operand that is summed over queries; `ds` is
/// packed once more, into `ds_keys`, as a `b` operand that is summed over keys (with one value a unit, `dp` is that too).
/// `slope`, if given, holds a further factor of each `ds` and gets `ds` before that factor: the gradient of the bias.
#[inline(always)]
pub(super) fn softmax_gradient<E: Engine>(
    engine: E,
    s: &mut Scores,
    dp: &mut Scores,
    ds_keys: &mut [u32],
    rows: &RowStatistics,
    factor: f32,
    slope: Option<&mut [f32]>,
) {
    match slope {
        None => gradient_columns::<E, false>(engine, s, dp, ds_keys, rows, factor, &mut []),
        Some(slope) => gradient_columns::<E, true>(engine, s, dp, ds_keys, rows, factor, slope),
    }
}

#[inline(always)]
fn gradient_columns<E: Engine, const SLOPE: bool>(
    engine: E,
    s: &mut Scores,
    dp: &mut Scores,
    ds_keys: &mut [u32],
    rows: &RowStatistics,
    factor: f32,
    slope: &mut [f32],
) {
    let simd = engine.simd();
    let lanes = <E::Simd as Simd>::F32_LANES;
    let factor = simd.splat_f32s(factor);
    let queries = s.queries;
    assert!(queries.is_multiple_of(2 * lanes) && (E::PAIR == 1 || ds_keys.len() >= s.rows.end / 2 * queries));
    assert!(!SLOPE || slope.len() >= s.rows.end * queries);
    for vector in (0..queries / lanes).step_by(2) {
        let mut shift = [simd.splat_f32s(0.0); 2];
        let mut delta = shift;
        for j in 0..2 {
            let at = (vector + j) * lanes..(vector + j + 1) * lanes;
            shift[j] = simd.neg_f32s(simd.partial_load_f32s(&rows.log_sum[at.clone()]));
            delta[j] = simd.partial_load_f32s(&rows.delta[at]);
        }
        for key in s.rows.clone().step_by(2) {
            // SAFETY: rows and vectors are inside the tiles; packed vectors stand no further right than those read.
            unsafe {
                let mut p = [[simd.splat_f32s(0.0); 2]; 2];
                let mut ds = p;
                for i in 0..2 {
                    for j in 0..2 {
                        let score = s.at::<E::Simd>(key + i, vector + j).read_unaligned();
                        let gradient = dp.at::<E::Simd>(key + i, vector + j).read_unaligned();
                        p[i][j] = exp2(simd, simd.mul_add_f32s(score, factor, shift[j]));
                        ds[i][j] = simd.mul_f32s(p[i][j], simd.sub_f32s(gradient, delta[j]));
                        if SLOPE {
                            let at = slope.as_mut_ptr().add((key + i) * queries + (vector + j) * lanes);
                            let slope = at.cast::<<E::Simd as Simd>::f32s>();
                            let inner = simd.mul_f32s(ds[i][j], slope.read_unaligned());
                            slope.write_unaligned(ds[i][j]);
                            ds[i][j] = inner;
                        }
                    }
                }
                for i in 0..2 {
                    if E::PAIR == 1 {
                        for j in 0..2 {
                            s.at::<E::Simd>(key + i, vector + j).write_unaligned(p[i][j]);
                            dp.at::<E::Simd>(key + i, vector + j).write_unaligned(ds[i][j]);
                        }
                    } else {
                        let p = simd.transmute_f32s_u32s(pair(simd, p[i][0], p[i][1]));
                        let ds = simd.transmute_f32s_u32s(pair(simd, ds[i][0], ds[i][1]));
                        s.at::<E::Simd>(key + i, vector / 2).write_unaligned(p);
                        dp.at::<E::Simd>(key + i, vector / 2).write_unaligned(ds);
                    }
                }
                if E::PAIR == 2 {
                    for j in 0..2 {
                        let packed = pair(simd, ds[0][j], ds[1][j]);
                        let to = ds_keys.as_mut_ptr().add(key / 2 * queries + (vector + j) * lanes);
                        to.cast::<<E::Simd as Simd>::u32s>().write_unaligned(packed);
                    }
                }
            }
        }
    }
}
