//! A vector against every row or column of a matrix: factors on rows (DoRA's magnitudes, arXiv 2402.09353), factors on
//! columns (IA³, arXiv 2205.05638), a row added to every row.
//!
//! `x` is `[m, n]`; the vector may have any shape of the right length (`[m]`, `[m, 1]`, `[1, n]`) and be `f32` while `x` is
//! bf16. With the output's gradient `g`, the gradient of `x` is broadcast the same way, that of the vector is
//! `Σ_j g_ij x_ij` (rows), `Σ_i g_ij x_ij` (columns) or `Σ_i g_ij` (added row), summed in `f32`.

use super::super::elementwise::{multiply_rows, row_gradient};
use crate::dtype::{DType, Element};
use crate::parallel::{Rows, column_sums, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x_ij v_i`: `x` `[m, n]`, `v` of `m` elements. Panics on another length.
pub fn scale_rows(tape: &Tape, x: &Var, v: &Var) -> Var {
    let _span = profile::span("scale rows", Pass::Forward);
    let value = rows_scaled(x.value.clone(), &v.value);
    if !tape.needs_grad(&[x, v]) {
        return Var::constant(value);
    }
    let (x, v) = (x.clone(), v.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("scale rows", Pass::Backward);
        if v.needs_grad() {
            into.add(&v, row_dots(&grad, &x.value).reshape(v.value.shape()));
        }
        if x.needs_grad() {
            into.add(&x, rows_scaled(grad, &v.value));
        }
    })
}

/// `x_ij v_j`: `x` `[m, n]`, `v` of `n` elements. Panics on another length.
pub fn scale_columns(tape: &Tape, x: &Var, v: &Var) -> Var {
    let _span = profile::span("scale columns", Pass::Forward);
    let value = multiply_rows(x.value.clone(), &v.value);
    if !tape.needs_grad(&[x, v]) {
        return Var::constant(value);
    }
    let (x, v) = (x.clone(), v.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("scale columns", Pass::Backward);
        if v.needs_grad() {
            into.add(&v, row_gradient(&grad, &x.value, &v.value));
        }
        if x.needs_grad() {
            into.add(&x, multiply_rows(grad, &v.value));
        }
    })
}

/// `x_ij + v_j`: `x` `[m, n]`, `v` of `n` elements. Panics on another length.
pub fn add_row(tape: &Tape, x: &Var, v: &Var) -> Var {
    let _span = profile::span("add row", Pass::Forward);
    let value = with_row(x.value.clone(), &v.value);
    if !tape.needs_grad(&[x, v]) {
        return Var::constant(value);
    }
    let (x, v) = (x.clone(), v.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("add row", Pass::Backward);
        if v.needs_grad() {
            let (_, cols) = grad.rows_cols();
            let sums = crate::dispatch_dtype!(grad.dtype(), T => column_sums(grad.as_slice::<T>(), cols));
            into.add(&v, Tensor::from_slice(v.value.shape(), &sums));
        }
        into.add(&x, grad);
    })
}

/// Row `i` of `x` times `v_i`, in place where the memory is free.
pub(super) fn rows_scaled(mut x: Tensor, v: &Tensor) -> Tensor {
    let (rows, cols) = x.rows_cols();
    assert_eq!(v.elements(), rows, "factors of shape {:?} for the rows of {:?}", v.shape(), x.shape());
    let factors = v.to_vec_f32();
    crate::dispatch_dtype!(x.dtype(), T => for_blocks(
        rows,
        cols,
        Rows::new(x.as_mut_slice::<T>(), cols),
        #[inline(always)]
        |range, x: Rows<T>| {
            for (row, factor) in x.data.chunks_exact_mut(cols.max(1)).zip(&factors[range]) {
                row.iter_mut().for_each(|v| *v = T::rounded(Element::widen(*v) * factor));
            }
        },
    ));
    x
}

/// `Σ_j a_ij b_ij`, `[rows]` in `f32`; `a` and `b` of the same shape and type.
fn row_dots(a: &Tensor, b: &Tensor) -> Tensor {
    let (rows, cols) = b.rows_cols();
    let mut out = Tensor::uninit([rows], DType::F32);
    crate::dispatch_dtype!(b.dtype(), T => {
        let (a, b) = (a.as_slice::<T>(), b.as_slice::<T>());
        for_blocks(
            rows,
            cols,
            Rows::new(out.as_mut_slice::<f32>(), 1),
            #[inline(always)]
            |range, out: Rows<f32>| {
                for (row, out) in range.zip(out.data) {
                    let at = row * cols..(row + 1) * cols;
                    *out = simd::dot(&a[at.clone()], &b[at]);
                }
            },
        )
    });
    out
}

/// Every row of `x` plus `v`, in place where the memory is free.
fn with_row(mut x: Tensor, v: &Tensor) -> Tensor {
    let (rows, cols) = x.rows_cols();
    assert_eq!(v.elements(), cols, "a row of shape {:?} added to the rows of {:?}", v.shape(), x.shape());
    let v = v.to_vec_f32();
    crate::dispatch_dtype!(x.dtype(), T => for_blocks(
        rows,
        cols,
        Rows::new(x.as_mut_slice::<T>(), cols),
        #[inline(always)]
        |_, x: Rows<T>| {
            for row in x.data.chunks_exact_mut(cols.max(1)) {
                row.iter_mut().zip(&v).for_each(|(x, v)| *x = T::rounded(Element::widen(*x) + v));
            }
        },
    ));
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};

    const M: usize = 5;
    const N: usize = 7;

    /// Types of the matrix and of the vector.
    const TYPES: [(DType, DType); 3] =
        [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)];

    fn each(v: &[Vec<f64>], f: impl Fn(f64, usize, usize) -> f64) -> Vec<Vec<f64>> {
        vec![v[0].iter().enumerate().map(|(at, x)| f(*x, at / N, at % N)).collect()]
    }

    #[test]
    fn factors_on_rows_match_the_reference() {
        for (matrix, vector) in TYPES {
            let inputs = [random([M, N], matrix, 1), random([M, 1], vector, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![scale_rows(tape, &v[0], &v[1])];
            check(&inputs, tolerance(matrix), op, |v| each(v, |x, i, _| x * v[1][i]));
        }
    }

    #[test]
    fn factors_on_columns_match_the_reference() {
        for (matrix, vector) in TYPES {
            let inputs = [random([M, N], matrix, 1), random([1, N], vector, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![scale_columns(tape, &v[0], &v[1])];
            check(&inputs, tolerance(matrix), op, |v| each(v, |x, _, j| x * v[1][j]));
        }
    }

    #[test]
    fn an_added_row_matches_the_reference() {
        for (matrix, vector) in TYPES {
            let inputs = [random([M, N], matrix, 1), random([N], vector, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![add_row(tape, &v[0], &v[1])];
            check(&inputs, tolerance(matrix), op, |v| each(v, |x, _, j| x + v[1][j]));
        }
    }

    #[test]
    fn a_matrix_of_one_row_is_scaled_by_columns() {
        let inputs = [random([1, N], DType::BF16, 1), random([N], DType::F32, 2)];
        let op = |tape: &Tape, v: &[Var]| vec![scale_columns(tape, &v[0], &v[1])];
        check(&inputs, tolerance(DType::BF16), op, |v| each(v, |x, _, j| x * v[1][j]));
    }
}
