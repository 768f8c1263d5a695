//! Sparse changes of a weight, a list of values and of where they stand (SHiRA, arXiv 2406.13175; Fish masks, arXiv 2111.09839):
//! as a dense matrix, or applied to activations without ever making one.
//!
//! With the output's gradient `G` of `y = x ΔWᵀ`: `dx[t, columns_i] += G[t, rows_i] values_i`, and
//! `dvalues_i = Σ_t G[t, rows_i] x[t, columns_i]`: work and memory go with the number of values, not with the size of `ΔW`.

use std::sync::Arc;

use super::shape::transposed;
use crate::dtype::{DType, Element};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::{Shape, Tensor};

/// Zeros of shape `dims` with `values` `[n]` at the flat row-major `indices` `[n]`, of the type of `values`; values at one
/// index are added. Panics if the numbers differ and on an index outside.
pub fn scatter(tape: &Tape, values: &Var, indices: &Arc<[u32]>, dims: &[usize]) -> Var {
    let _span = profile::span("scatter", Pass::Forward);
    let shape = Shape::new(dims);
    assert_eq!(values.value.elements(), indices.len(), "values and indices to scatter");
    check_places(indices, shape.elements(), "index");
    let mut dense = Tensor::zeros(shape, values.value.dtype());
    crate::dispatch_dtype!(dense.dtype(), T => {
        let to = dense.as_mut_slice::<T>();
        for (at, value) in indices.iter().zip(values.value.as_slice::<T>()) {
            let to = &mut to[*at as usize];
            *to = T::rounded(Element::widen(*to) + Element::widen(*value));
        }
    });
    if !tape.needs_grad(&[values]) {
        return Var::constant(dense);
    }
    let (values, indices) = (values.clone(), Arc::clone(indices));
    tape.record(dense, move |grad, into| {
        let _span = profile::span("scatter", Pass::Backward);
        let gathered = crate::dispatch_dtype!(grad.dtype(), T => {
            let grad = grad.as_slice::<T>();
            let picked: Vec<T> = indices.iter().map(|at| grad[*at as usize]).collect();
            Tensor::from_slice(values.value.shape(), &picked)
        });
        into.add(&values, gathered);
    })
}

/// `x ΔWᵀ` for `ΔW` `[out, in]` that is zero but for `values` `[n]` at `(rows[i], columns[i])`: `x` `[tokens, in]`, result
/// `[tokens, out]` in `x`'s type. Values may be `f32` while `x` is bf16; those at one place are added. Panics if the numbers
/// differ and on a place outside `ΔW`.
pub fn sparse_product(tape: &Tape, x: &Var, values: &Var, rows: &Arc<[u32]>, columns: &Arc<[u32]>, out: usize) -> Var {
    let _span = profile::span("sparse product", Pass::Forward);
    let (_, width) = x.value.rows_cols();
    let n = values.value.elements();
    assert!(n == rows.len() && n == columns.len(), "{n} values at {} rows and {} columns", rows.len(), columns.len());
    check_places(rows, out, "row");
    check_places(columns, width, "column");
    let value = moved(&x.value, &values.value, columns, rows, out);
    if !tape.needs_grad(&[x, values]) {
        return Var::constant(value);
    }
    let (x, values) = (x.clone(), values.clone());
    let (rows, columns) = (Arc::clone(rows), Arc::clone(columns));
    tape.record(value, move |grad, into| {
        let _span = profile::span("sparse product", Pass::Backward);
        if values.needs_grad() {
            into.add(&values, pair_sums(&grad, &x.value, &rows, &columns).reshape(values.value.shape()));
        }
        if x.needs_grad() {
            into.add(&x, moved(&grad, &values.value, &rows, &columns, width).reshape(x.value.shape()));
        }
    })
}

fn check_places(places: &[u32], end: usize, what: &str) {
    if let Some(place) = places.iter().find(|p| **p as usize >= end) {
        panic!("{what} {place} of {end}");
    }
}

/// `y[t, to_i] += x[t, from_i] values_i` for every `i` in order, `[tokens, width]` in `x`'s type.
fn moved(x: &Tensor, values: &Tensor, from: &[u32], to: &[u32], width: usize) -> Tensor {
    let (tokens, cols) = x.rows_cols();
    let mut out = Tensor::uninit([tokens, width], x.dtype());
    if width == 0 {
        return out;
    }
    let values = values.to_vec_f32();
    crate::dispatch_dtype!(x.dtype(), T => {
        let x = x.as_slice::<T>();
        for_blocks(
            tokens,
            width + values.len(),
            Rows::new(out.as_mut_slice::<T>(), width),
            #[inline(always)]
            |range, out: Rows<T>| {
                let mut sums = vec![0f32; width];
                for (token, out) in range.zip(out.data.chunks_exact_mut(width)) {
                    let x = &x[token * cols..(token + 1) * cols];
                    sums.fill(0.0);
                    for ((from, to), value) in from.iter().zip(to).zip(&values) {
                        sums[*to as usize] += Element::widen(x[*from as usize]) * value;
                    }
                    simd::convert(out, &sums);
                }
            },
        )
    });
    out
}

/// `Σ_t grad[t, rows_i] x[t, columns_i]`, `[n]` in `f32`. Both are turned first, so that each sum runs over memory in order.
fn pair_sums(grad: &Tensor, x: &Tensor, rows: &[u32], columns: &[u32]) -> Tensor {
    let flat = |t: &Tensor| {
        let (rows, cols) = t.rows_cols();
        transposed(&t.reshape([rows, cols]))
    };
    let (tokens, _) = x.rows_cols();
    let (grad, x) = (flat(grad), flat(x));
    let mut out = Tensor::uninit([rows.len()], DType::F32);
    crate::dispatch_dtype!(x.dtype(), T => {
        let (grad, x) = (grad.as_slice::<T>(), x.as_slice::<T>());
        for_blocks(
            rows.len(),
            tokens,
            Rows::new(out.as_mut_slice::<f32>(), 1),
            #[inline(always)]
            |range, out: Rows<f32>| {
                for (i, out) in range.zip(out.data) {
                    let (row, column) = (rows[i] as usize * tokens, columns[i] as usize * tokens);
                    *out = simd::dot(&grad[row..row + tokens], &x[column..column + tokens]);
                }
            },
        )
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::matrix;

    fn places<const N: usize>(places: [u32; N]) -> Arc<[u32]> {
        Arc::from(places.to_vec())
    }

    #[test]
    fn scattered_values_match_the_reference_and_repeated_places_add_up() {
        let indices = places([7, 0, 11, 7]);
        for dtype in [DType::F32, DType::BF16] {
            let oracle = |v: &[Vec<f64>]| {
                let mut dense = vec![0.0; 12];
                v[0].iter().zip(indices.iter()).for_each(|(v, at)| dense[*at as usize] += v);
                vec![dense]
            };
            let op = |tape: &Tape, v: &[Var]| vec![scatter(tape, &v[0], &indices, &[3, 4])];
            check(&[random([4], dtype, 1)], tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn sparse_products_match_the_reference() {
        let (width, out) = (6, 5);
        let (rows, columns) = (places([0, 4, 4, 2, 0, 4]), places([5, 0, 3, 3, 1, 3]));
        for (activations, values) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)] {
            let inputs = [random([7, width], activations, 1), random([6], values, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![sparse_product(tape, &v[0], &v[1], &rows, &columns, out)];
            let oracle = |v: &[Vec<f64>]| vec![matrix::sparse_product(&v[0], width, &v[1], &rows, &columns, out)];
            check(&inputs, tolerance(activations), op, oracle);
        }
    }

    #[test]
    fn a_sparse_product_is_the_product_with_the_scattered_matrix() {
        let (rows, columns) = (places([0, 4, 2]), places([5, 0, 3]));
        let indices: Arc<[u32]> = rows.iter().zip(columns.iter()).map(|(r, c)| r * 6 + c).collect();
        let (x, values) = (random([7, 6], DType::F32, 1), random([3], DType::F32, 2));
        let (x, values, tape) = (Var::constant(x), Var::constant(values), Tape::off());
        let dense = super::super::product_nt(&tape, &x, &scatter(&tape, &values, &indices, &[5, 6]));
        assert_eq!(sparse_product(&tape, &x, &values, &rows, &columns, 5).value.to_vec_f32(), dense.value.to_vec_f32());
    }

    #[test]
    #[should_panic(expected = "row 5 of 5")]
    fn a_place_outside_is_named() {
        let (x, values) = (random([7, 6], DType::F32, 1), random([1], DType::F32, 2));
        sparse_product(&Tape::off(), &Var::constant(x), &Var::constant(values), &places([5]), &places([0]), 5);
    }
}
