//! Batches of small squares `[n, k, k]`, the blocks of a block-diagonal matrix: products, transposes, rotations by the Cayley
//! transform, and a block-diagonal matrix applied to activations (OFT, arXiv 2306.07280; BOFT, arXiv 2311.06243).
//!
//! **Cayley transform.** `R = (I − Q)(I + Q)⁻¹`. With `A = (I + Q)⁻¹`, `I − Q = 2I − (I + Q)` makes it `R = 2A − I`, and with
//! the gradient `G` of `R`, `dA = −A dQ A` makes the gradient of `Q` `−2 Aᵀ G Aᵀ`. For `Q = −Qᵀ`, `R` is a rotation and
//! `I + Q` is never singular. The inverse is exact up to rounding (elimination with pivots, in `f64`), not a Neumann series.
//!
//! Values of either type are widened to `f32`: squares are small beside what they are applied to. Nothing here knows how
//! many blocks a weight has, nor how butterfly factors are permuted.

use crate::dtype::{DType, Element};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `a_i b_i` for each block: `[n, k, k] x [n, k, k] -> [n, k, k]`, of the type of both. Panics on shapes that differ.
pub fn block_products(tape: &Tape, a: &Var, b: &Var) -> Var {
    let _span = profile::span("block products", Pass::Forward);
    squares(&a.value);
    assert_eq!(a.value.shape(), b.value.shape(), "products of blocks");
    assert_eq!(a.value.dtype(), b.value.dtype(), "products of blocks of two types");
    let value = multiplied(&a.value, &b.value).to_dtype(a.value.dtype());
    if !tape.needs_grad(&[a, b]) {
        return Var::constant(value);
    }
    let (a, b) = (a.clone(), b.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("block products", Pass::Backward);
        if a.needs_grad() {
            into.add(&a, multiplied(&grad, &turned(&b.value)));
        }
        if b.needs_grad() {
            into.add(&b, multiplied(&turned(&a.value), &grad));
        }
    })
}

/// `a_iᵀ` for each block of `[n, k, k]`.
pub fn block_transpose(tape: &Tape, a: &Var) -> Var {
    let _span = profile::span("block transpose", Pass::Forward);
    let value = turned(&a.value);
    if !tape.needs_grad(&[a]) {
        return Var::constant(value);
    }
    let a = a.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("block transpose", Pass::Backward);
        into.add(&a, turned(&grad));
    })
}

/// Skew-symmetric blocks `Q = U − Uᵀ` `[n, k, k]` from the part above the diagonal of `U`, `w` `[n, k (k − 1) / 2]` row by row.
/// Panics on another width.
pub fn skew_from_upper(tape: &Tape, w: &Var, k: usize) -> Var {
    let _span = profile::span("skew", Pass::Forward);
    let (n, width) = w.value.rows_cols();
    assert_eq!(width, k * k.saturating_sub(1) / 2, "{:?} above the diagonal of blocks of {k}", w.value.shape());
    let mut value = Tensor::zeros([n, k, k], w.value.dtype());
    crate::dispatch_dtype!(w.value.dtype(), T => {
        let blocks = value.as_mut_slice::<T>().chunks_exact_mut((k * k).max(1));
        for (q, w) in blocks.zip(w.value.as_slice::<T>().chunks_exact(width.max(1))) {
            for ((i, j), w) in above_diagonal(k).zip(w) {
                q[i * k + j] = *w;
                q[j * k + i] = T::rounded(-Element::widen(*w));
            }
        }
    });
    if !tape.needs_grad(&[w]) {
        return Var::constant(value);
    }
    let w = w.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("skew", Pass::Backward);
        let grad = in_f32(&grad);
        let each = |g: &[f32]| above_diagonal(k).map(|(i, j)| g[i * k + j] - g[j * k + i]).collect::<Vec<_>>();
        let dw: Vec<f32> = grad.as_slice::<f32>().chunks_exact((k * k).max(1)).flat_map(each).collect();
        into.add(&w, Tensor::from_slice(w.value.shape(), &dw));
    })
}

/// `(I − q)(I + q)⁻¹` of each block of `[n, k, k]`. A block for which `I + q` is singular, which no skew-symmetric one is,
/// comes out as infinities or NaN.
pub fn cayley(tape: &Tape, q: &Var) -> Var {
    let _span = profile::span("cayley", Pass::Forward);
    let (n, k) = squares(&q.value);
    let source = in_f32(&q.value);
    let mut inverses = Tensor::uninit([n, k, k], DType::F32);
    let mut value = Tensor::uninit([n, k, k], DType::F32);
    let from = source.as_slice::<f32>();
    for_blocks(
        n,
        k * k * k,
        (Rows::new(inverses.as_mut_slice::<f32>(), k * k), Rows::new(value.as_mut_slice::<f32>(), k * k)),
        #[inline(always)]
        |range, (inverses, values): (Rows<f32>, Rows<f32>)| {
            let to = inverses.data.chunks_exact_mut(k * k).zip(values.data.chunks_exact_mut(k * k));
            for (at, (inverse, value)) in range.zip(to) {
                let exact = inverse_of_shifted(&from[at * k * k..(at + 1) * k * k], k);
                for (e, a) in exact.iter().enumerate() {
                    let diagonal = if e / k == e % k { 1.0 } else { 0.0 };
                    inverse[e] = *a as f32;
                    value[e] = (2.0 * a - diagonal) as f32;
                }
            }
        },
    );
    let value = value.to_dtype(q.value.dtype());
    if !tape.needs_grad(&[q]) {
        return Var::constant(value);
    }
    let q = q.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("cayley", Pass::Backward);
        let turned = turned(&inverses);
        let dq = multiplied(&multiplied(&turned, &grad), &turned);
        into.add(&q, super::super::elementwise::scaled(dq, -2.0));
    })
}

/// `x · blockdiag(r_1, …, r_n)`: `x` `[tokens, n k]`, `r` `[n, k, k]` of either type; result like `x`. Panics on a width that is
/// not `n k`.
pub fn rotate_blocks(tape: &Tape, x: &Var, r: &Var) -> Var {
    let _span = profile::span("rotate blocks", Pass::Forward);
    let value = rotated(&x.value, &in_f32(&r.value));
    if !tape.needs_grad(&[x, r]) {
        return Var::constant(value);
    }
    let (x, r) = (x.clone(), r.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("rotate blocks", Pass::Backward);
        if r.needs_grad() {
            into.add(&r, gradient_of_blocks(&x.value, &grad, &r.value));
        }
        if x.needs_grad() {
            into.add(&x, rotated(&grad, &turned(&in_f32(&r.value))));
        }
    })
}

/// Number and side of the blocks; panics unless they are squares.
fn squares(a: &Tensor) -> (usize, usize) {
    match a.dims() {
        [n, k, same] if k == same && *k > 0 => (*n, *k),
        other => panic!("square blocks [n, k, k], got {other:?}"),
    }
}

fn in_f32(a: &Tensor) -> Tensor {
    a.to_dtype(DType::F32)
}

/// Places above the diagonal of a square of side `k`, row by row.
fn above_diagonal(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k).flat_map(move |i| (i + 1..k).map(move |j| (i, j)))
}

/// `a_i b_i`, in `f32`.
fn multiplied(a: &Tensor, b: &Tensor) -> Tensor {
    let (n, k) = squares(a);
    let (a, b) = (in_f32(a), in_f32(b));
    let mut out = Tensor::zeros([n, k, k], DType::F32);
    let (a, b) = (a.as_slice::<f32>(), b.as_slice::<f32>());
    for_blocks(
        n,
        k * k * k,
        Rows::new(out.as_mut_slice::<f32>(), k * k),
        #[inline(always)]
        |range, out: Rows<f32>| {
            let block = range.start * k * k..range.end * k * k;
            let sides = a[block.clone()].chunks_exact(k * k).zip(b[block].chunks_exact(k * k));
            for ((a, b), out) in sides.zip(out.data.chunks_exact_mut(k * k)) {
                for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(k)) {
                    a.iter().zip(b.chunks_exact(k)).for_each(|(a, b)| simd::add_scaled(out, *a, b));
                }
            }
        },
    );
    out
}

/// `a_iᵀ`, in the type of `a`.
fn turned(a: &Tensor) -> Tensor {
    let (_, k) = squares(a);
    let mut out = Tensor::uninit(a.shape(), a.dtype());
    crate::dispatch_dtype!(a.dtype(), T => {
        let from = a.as_slice::<T>().chunks_exact(k * k);
        for (from, to) in from.zip(out.as_mut_slice::<T>().chunks_exact_mut(k * k)) {
            for (at, to) in to.iter_mut().enumerate() {
                *to = from[at % k * k + at / k];
            }
        }
    });
    out
}

/// `(I + q)⁻¹` of one block of side `k`, by Gauss-Jordan elimination with the largest pivot of each column.
#[inline(always)]
fn inverse_of_shifted(q: &[f32], k: usize) -> Vec<f64> {
    let identity = |at: usize| if at / k == at % k { 1.0 } else { 0.0 };
    let mut left: Vec<f64> = q.iter().enumerate().map(|(at, q)| f64::from(*q) + identity(at)).collect();
    let mut right: Vec<f64> = (0..k * k).map(identity).collect();
    for column in 0..k {
        let size = |row: &usize| left[row * k + column].abs();
        let pivot = (column..k).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        for side in [&mut left, &mut right] {
            if pivot != column {
                let (above, below) = side.split_at_mut(pivot * k);
                above[column * k..(column + 1) * k].swap_with_slice(&mut below[..k]);
            }
        }
        let inverse = 1.0 / left[column * k + column];
        for side in [&mut left, &mut right] {
            side[column * k..(column + 1) * k].iter_mut().for_each(|v| *v *= inverse);
        }
        for row in (0..k).filter(|row| *row != column) {
            let factor = left[row * k + column];
            for side in [&mut left, &mut right] {
                subtract_row(side, k, row, column, factor);
            }
        }
    }
    right
}

/// `row -= factor * other`, rows of `k` elements.
#[inline(always)]
fn subtract_row(matrix: &mut [f64], k: usize, row: usize, other: usize, factor: f64) {
    let (low, high) = (row.min(other), row.max(other));
    let (first, second) = matrix.split_at_mut(high * k);
    let (low, high) = (&mut first[low * k..(low + 1) * k], &mut second[..k]);
    let (to, from) = if row < other { (low, high) } else { (high, low) };
    to.iter_mut().zip(from).for_each(|(t, f)| *t -= factor * *f);
}

/// Each row of `x` times the blocks `r` (`f32`), in the type of `x`.
fn rotated(x: &Tensor, r: &Tensor) -> Tensor {
    let ((tokens, width), (n, k)) = (x.rows_cols(), squares(r));
    assert_eq!(width, n * k, "{:?} rotated by blocks of {:?}", x.shape(), r.shape());
    let mut out = Tensor::uninit(x.shape(), x.dtype());
    let r = r.as_slice::<f32>();
    crate::dispatch_dtype!(x.dtype(), T => {
        let x = x.as_slice::<T>();
        for_blocks(
            tokens,
            width * k,
            Rows::new(out.as_mut_slice::<T>(), width),
            #[inline(always)]
            |range, out: Rows<T>| {
                let mut sum = vec![0f32; k];
                for (token, out) in range.zip(out.data.chunks_exact_mut(width)) {
                    let x = x[token * width..(token + 1) * width].chunks_exact(k);
                    for ((x, r), out) in x.zip(r.chunks_exact(k * k)).zip(out.chunks_exact_mut(k)) {
                        sum.fill(0.0);
                        for (x, r) in x.iter().zip(r.chunks_exact(k)) {
                            simd::add_scaled(&mut sum, Element::widen(*x), r);
                        }
                        simd::convert(out, &sum);
                    }
                }
            },
        )
    });
    out
}

/// `Σ_tokens x_bᵀ g_b` for each block `b`, in `f32`, of the shape of `r`.
fn gradient_of_blocks(x: &Tensor, grad: &Tensor, r: &Tensor) -> Tensor {
    let ((tokens, width), (n, k)) = (x.rows_cols(), squares(r));
    let mut out = Tensor::zeros(r.shape(), DType::F32);
    crate::dispatch_dtype!(x.dtype(), T => {
        let (x, grad) = (x.as_slice::<T>(), grad.as_slice::<T>());
        for_blocks(
            n,
            tokens * k * k,
            Rows::new(out.as_mut_slice::<f32>(), k * k),
            #[inline(always)]
            |range, out: Rows<f32>| {
                for (block, out) in range.zip(out.data.chunks_exact_mut(k * k)) {
                    for token in 0..tokens {
                        let at = token * width + block * k;
                        let (x, g) = (&x[at..at + k], &grad[at..at + k]);
                        for (x, out) in x.iter().zip(out.chunks_exact_mut(k)) {
                            simd::add_scaled(out, Element::widen(*x), g);
                        }
                    }
                }
            },
        )
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{assert_close, check, random, tolerance, wide};
    use crate::reference::linear::matmul_nt;
    use crate::reference::matrix::{cayley as cayley_reference, transpose};

    const BLOCKS: usize = 3;
    const SIDE: usize = 4;
    const TYPES: [DType; 2] = [DType::F32, DType::BF16];

    /// `f` of every block.
    fn each(v: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<Vec<f64>> {
        vec![v.chunks(SIDE * SIDE).flat_map(f).collect()]
    }

    /// `a b` of one block.
    fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
        matmul_nt(a, &transpose(b, SIDE), SIDE)
    }

    #[test]
    fn products_and_transposes_match_the_reference() {
        for dtype in TYPES {
            let inputs = [random([BLOCKS, SIDE, SIDE], dtype, 1), random([BLOCKS, SIDE, SIDE], dtype, 2)];
            let oracle = |v: &[Vec<f64>]| {
                let sides = v[0].chunks(SIDE * SIDE).zip(v[1].chunks(SIDE * SIDE));
                vec![sides.flat_map(|(a, b)| product(a, b)).collect()]
            };
            check(&inputs, tolerance(dtype), |tape, v| vec![block_products(tape, &v[0], &v[1])], oracle);
            let turned = |v: &[Vec<f64>]| each(&v[0], |a| transpose(a, SIDE));
            check(&inputs[..1], tolerance(dtype), |tape, v| vec![block_transpose(tape, &v[0])], turned);
        }
    }

    #[test]
    fn skew_blocks_match_the_reference() {
        for dtype in TYPES {
            let w = [random([BLOCKS, SIDE * (SIDE - 1) / 2], dtype, 1)];
            let one = |w: &[f64]| {
                let mut q = vec![0.0; SIDE * SIDE];
                let mut at = 0;
                for i in 0..SIDE {
                    for j in i + 1..SIDE {
                        (q[i * SIDE + j], q[j * SIDE + i]) = (w[at], -w[at]);
                        at += 1;
                    }
                }
                q
            };
            let oracle = |v: &[Vec<f64>]| vec![v[0].chunks(SIDE * (SIDE - 1) / 2).flat_map(one).collect()];
            check(&w, tolerance(dtype), |tape, v| vec![skew_from_upper(tape, &v[0], SIDE)], oracle);
        }
    }

    #[test]
    fn a_cayley_transform_matches_the_reference_for_any_block() {
        // Not skew-symmetric, so that the formula is tested and not what skew symmetry hides; scaled to keep away from
        // a singular `I + Q`, near which a relative tolerance means nothing.
        let q: Vec<f32> = random([BLOCKS, SIDE, SIDE], DType::F32, 7).to_vec_f32().iter().map(|v| v / 4.0).collect();
        for dtype in TYPES {
            let q = [Tensor::from_slice([BLOCKS, SIDE, SIDE], &q).to_dtype(dtype)];
            let oracle = |v: &[Vec<f64>]| each(&v[0], |q| cayley_reference(q, SIDE));
            check(&q, tolerance(dtype), |tape, v| vec![cayley(tape, &v[0])], oracle);
        }
    }

    #[test]
    fn a_skew_block_becomes_a_rotation_and_a_pivot_of_zero_is_passed_by() {
        let k = 24;
        let w = Var::constant(random([2, k * (k - 1) / 2], DType::F32, 3));
        let r = cayley(&Tape::off(), &skew_from_upper(&Tape::off(), &w, k));
        let product = multiplied(&r.value, &turned(&r.value));
        let identity: Vec<f64> = (0..2 * k * k).map(|at| if at % (k * k) / k == at % k { 1.0 } else { 0.0 }).collect();
        assert_close("R Rᵀ", &wide(&product), &identity, 1e-5);
        // I + Q = [[0, 1], [1, 0]]: its own inverse, with nothing to divide by in the first place.
        let q = Var::constant(Tensor::from_slice([1, 2, 2], &[-1f32, 1.0, 1.0, -1.0]));
        assert_eq!(cayley(&Tape::off(), &q).value.as_slice::<f32>(), [-1.0, 2.0, 2.0, -1.0]);
    }

    #[test]
    fn rotated_activations_match_the_reference() {
        let oracle = |v: &[Vec<f64>]| {
            let row = |x: &[f64]| {
                let blocks = x.chunks(SIDE).zip(v[1].chunks(SIDE * SIDE));
                blocks.flat_map(|(x, r)| product(x, r)).collect::<Vec<_>>()
            };
            vec![v[0].chunks(BLOCKS * SIDE).flat_map(row).collect()]
        };
        for (activations, blocks) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)] {
            let inputs = [random([5, BLOCKS * SIDE], activations, 1), random([BLOCKS, SIDE, SIDE], blocks, 2)];
            check(&inputs, tolerance(activations), |tape, v| vec![rotate_blocks(tape, &v[0], &v[1])], oracle);
        }
    }
}
