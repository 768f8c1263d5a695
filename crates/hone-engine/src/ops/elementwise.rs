//! Element-wise sums and products.

use super::map::{map, same, zip_map};
use crate::dtype::Element;
use crate::parallel::{Rows, for_blocks, for_blocks_summing};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x + y`, same shape.
pub fn add(tape: &Tape, x: &Var, y: &Var) -> Var {
    add_scaled(tape, x, y, 1.0)
}

/// `x + factor * y`, same shape.
pub fn add_scaled(tape: &Tape, x: &Var, y: &Var, factor: f32) -> Var {
    let _span = profile::span("add", Pass::Forward);
    let value = zip_map(
        x.value.clone(),
        &y.value,
        #[inline(always)]
        |x, y| y.mul_add(factor, x),
    );
    if !tape.needs_grad(&[x, y]) {
        return Var::constant(value);
    }
    let (x, y) = (x.clone(), y.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("add", Pass::Backward);
        if y.needs_grad() {
            let dy = if factor == 1.0 { grad.clone() } else { scaled(grad.clone(), factor) };
            into.add(&y, dy);
        }
        into.add(&x, grad);
    })
}

/// `x * y`; `y` has the shape of `x` or is a row `[width]` that is repeated.
pub fn multiply(tape: &Tape, x: &Var, y: &Var) -> Var {
    let _span = profile::span("multiply", Pass::Forward);
    let repeated = y.value.elements() != x.value.elements();
    let product = move |a: Tensor, b: &Tensor| {
        if repeated {
            return multiply_rows(a, b);
        }
        zip_map(
            a,
            b,
            #[inline(always)]
            |a, b| a * b,
        )
    };
    let value = product(x.value.clone(), &y.value);
    if !tape.needs_grad(&[x, y]) {
        return Var::constant(value);
    }
    let (x, y) = (x.clone(), y.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("multiply", Pass::Backward);
        if y.needs_grad() {
            let dy = if repeated { row_gradient(&grad, &x.value, &y.value) } else { product(grad.clone(), &x.value) };
            into.add(&y, dy);
        }
        if x.needs_grad() {
            into.add(&x, product(grad, &y.value));
        }
    })
}

/// `factor * x`.
pub fn scale(tape: &Tape, x: &Var, factor: f32) -> Var {
    let _span = profile::span("scale", Pass::Forward);
    let value = scaled(x.value.clone(), factor);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("scale", Pass::Backward);
        into.add(&x, scaled(grad, factor))
    })
}

/// `factor * x`, in place where the memory is free.
pub(super) fn scaled(x: Tensor, factor: f32) -> Tensor {
    map(
        x,
        #[inline(always)]
        |v| v * factor,
    )
}

/// Every row of `x` times the row `y`.
pub(super) fn multiply_rows(mut x: Tensor, y: &Tensor) -> Tensor {
    let (rows, cols) = x.rows_cols();
    assert_eq!(y.elements(), cols, "a row of shape {:?} for rows of {:?}", y.shape(), x.shape());
    let y = y.to_vec_f32();
    crate::dispatch_dtype!(x.dtype(), T => for_blocks(
        rows,
        cols,
        Rows::new(x.as_mut_slice::<T>(), cols),
        #[inline(always)]
        |_, out: Rows<T>| {
            for row in out.data.chunks_exact_mut(cols) {
                for (o, y) in row.iter_mut().zip(&y) {
                    *o = T::rounded(Element::widen(*o) * y);
                }
            }
        },
    ));
    x
}

/// `Σ_rows grad * x`, in `f32`.
pub(super) fn row_gradient(grad: &Tensor, x: &Tensor, row: &Tensor) -> Tensor {
    same(grad, x);
    let (rows, cols) = x.rows_cols();
    let sums = crate::dispatch_dtype!(x.dtype(), T => {
        let (grad, x) = (grad.as_slice::<T>(), x.as_slice::<T>());
        for_blocks_summing(
            rows,
            cols,
            (),
            #[inline(always)]
            |rows, (), sums| {
                let range = rows.start * cols..rows.end * cols;
                for (g, x) in grad[range.clone()].chunks_exact(cols).zip(x[range].chunks_exact(cols)) {
                    for ((s, g), x) in sums.iter_mut().zip(g).zip(x) {
                        *s = Element::widen(*g).mul_add(Element::widen(*x), *s);
                    }
                }
            },
        )
    });
    Tensor::from_slice(row.shape(), &sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::reference::gradient_check::{check, random, tolerance};

    fn zip(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<Vec<f64>> {
        vec![a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()]
    }

    #[test]
    fn sums_and_products_match_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let two = [random([3, 5], dtype, 1), random([3, 5], dtype, 2)];
            let t = tolerance(dtype);
            check(&two, t, |tape, v| vec![add(tape, &v[0], &v[1])], |v| zip(&v[0], &v[1], |a, b| a + b));
            let op = |tape: &Tape, v: &[Var]| vec![add_scaled(tape, &v[0], &v[1], -0.75)];
            check(&two, t, op, |v| zip(&v[0], &v[1], |a, b| a - 0.75 * b));
            check(&two, t, |tape, v| vec![multiply(tape, &v[0], &v[1])], |v| zip(&v[0], &v[1], |a, b| a * b));
            check(&two[..1], t, |tape, v| vec![scale(tape, &v[0], 3.0)], |v| zip(&v[0], &v[0], |a, _| 3.0 * a));
        }
    }

    #[test]
    fn a_value_added_to_itself_or_squared_gets_both_gradients() {
        let x = [random([4, 3], DType::F32, 3)];
        let t = tolerance(DType::F32);
        check(&x, t, |tape, v| vec![add(tape, &v[0], &v[0])], |v| zip(&v[0], &v[0], |a, b| a + b));
        check(&x, t, |tape, v| vec![multiply(tape, &v[0], &v[0])], |v| zip(&v[0], &v[0], |a, b| a * b));
    }

    #[test]
    fn a_repeated_row_gets_the_sum_over_rows() {
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [random([7, 5], dtype, 4), random([5], dtype, 5)];
            let op = |tape: &Tape, v: &[Var]| vec![multiply(tape, &v[0], &v[1])];
            let oracle = |v: &[Vec<f64>]| vec![v[0].iter().enumerate().map(|(i, x)| x * v[1][i % 5]).collect()];
            check(&inputs, tolerance(dtype), op, oracle);
        }
    }
}
