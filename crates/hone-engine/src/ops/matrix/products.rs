//! Products of two matrices, both of which may be trained: `a b`, `a bᵀ`, `aᵀ b`.
//!
//! With the output's gradient `g`:
//!
//! | product | gradient of `a` | gradient of `b` |
//! |---|---|---|
//! | `a b`   | `g bᵀ` | `aᵀ g` |
//! | `a bᵀ`  | `g b`  | `gᵀ a` |
//! | `aᵀ b`  | `b gᵀ` | `a g`  |
//!
//! A frozen weight is better multiplied by [`linear`](crate::ops::linear()), which has it packed.

use super::gradient_type;
use crate::matmul::{matmul_nn, matmul_nt, matmul_tn};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};

/// `a b`: `[m, k] x [k, n] -> [m, n]`. Panics on inner sizes or types that differ.
pub fn product(tape: &Tape, a: &Var, b: &Var) -> Var {
    let _span = profile::span("product", Pass::Forward);
    let value = matmul_nn(&a.value, &b.value, same_type(a, b));
    if !tape.needs_grad(&[a, b]) {
        return Var::constant(value);
    }
    let (a, b) = (a.clone(), b.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("product", Pass::Backward);
        if a.needs_grad() {
            into.add(&a, matmul_nt(&grad, &b.value, gradient_type(&a)).reshape(a.value.shape()));
        }
        into.add_product_tn(&b, &a.value, &grad);
    })
}

/// `a bᵀ`: `[m, k] x [n, k] -> [m, n]`. Panics on inner sizes or types that differ.
pub fn product_nt(tape: &Tape, a: &Var, b: &Var) -> Var {
    let _span = profile::span("product", Pass::Forward);
    let value = matmul_nt(&a.value, &b.value, same_type(a, b));
    if !tape.needs_grad(&[a, b]) {
        return Var::constant(value);
    }
    let (a, b) = (a.clone(), b.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("product", Pass::Backward);
        if a.needs_grad() {
            into.add(&a, matmul_nn(&grad, &b.value, gradient_type(&a)).reshape(a.value.shape()));
        }
        into.add_product_tn(&b, &grad, &a.value);
    })
}

/// `aᵀ b`: `[k, m] x [k, n] -> [m, n]`. Panics on inner sizes or types that differ.
pub fn product_tn(tape: &Tape, a: &Var, b: &Var) -> Var {
    let _span = profile::span("product", Pass::Forward);
    let value = matmul_tn(&a.value, &b.value, same_type(a, b));
    if !tape.needs_grad(&[a, b]) {
        return Var::constant(value);
    }
    let (a, b) = (a.clone(), b.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("product", Pass::Backward);
        if a.needs_grad() {
            into.add(&a, matmul_nt(&b.value, &grad, gradient_type(&a)).reshape(a.value.shape()));
        }
        if b.needs_grad() {
            into.add(&b, matmul_nn(&a.value, &grad, gradient_type(&b)).reshape(b.value.shape()));
        }
    })
}

fn same_type(a: &Var, b: &Var) -> crate::DType {
    let (a, b) = (&a.value, &b.value);
    assert_eq!(a.dtype(), b.dtype(), "a product of {:?} and {:?} of two types", a.shape(), b.shape());
    a.dtype()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::linear::matmul_nt as reference;
    use crate::reference::matrix::transpose;
    use crate::tape::Gradients;
    use crate::{DType, ParamId, Tensor};

    const M: usize = 5;
    const K: usize = 7;
    const N: usize = 9;

    #[test]
    fn products_match_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let t = tolerance(dtype);
            let inputs = [random([M, K], dtype, 1), random([K, N], dtype, 2)];
            let oracle = |v: &[Vec<f64>]| vec![reference(&v[0], &transpose(&v[1], N), K)];
            check(&inputs, t, |tape, v| vec![product(tape, &v[0], &v[1])], oracle);

            let inputs = [random([M, K], dtype, 1), random([N, K], dtype, 2)];
            let oracle = |v: &[Vec<f64>]| vec![reference(&v[0], &v[1], K)];
            check(&inputs, t, |tape, v| vec![product_nt(tape, &v[0], &v[1])], oracle);

            let inputs = [random([K, M], dtype, 1), random([K, N], dtype, 2)];
            let oracle = |v: &[Vec<f64>]| vec![reference(&transpose(&v[0], M), &transpose(&v[1], N), K)];
            check(&inputs, t, |tape, v| vec![product_tn(tape, &v[0], &v[1])], oracle);
        }
    }

    #[test]
    fn a_chain_of_products_passes_gradients_through_values_of_the_tape() {
        let inputs = [random([M, K], DType::F32, 1), random([N, K], DType::F32, 2), random([M, N], DType::F32, 3)];
        // (a bᵀ)ᵀ c a: every form, on a value that is used twice.
        let op = |tape: &Tape, v: &[Var]| {
            let left = product_tn(tape, &product_nt(tape, &v[0], &v[1]), &v[2]);
            vec![product(tape, &product_nt(tape, &left, &v[2]), &v[0])]
        };
        let oracle = |v: &[Vec<f64>]| {
            let ab = reference(&v[0], &v[1], K);
            let left = reference(&transpose(&ab, N), &transpose(&v[2], N), M);
            let middle = reference(&left, &v[2], N);
            vec![reference(&middle, &transpose(&v[0], K), M)]
        };
        check(&inputs, 4e-6, op, oracle);
    }

    #[test]
    fn a_frozen_side_gets_no_gradient_and_two_frozen_ones_record_nothing() {
        let (a, b) = (random([M, K], DType::F32, 1), random([K, N], DType::F32, 2));
        let tape = Tape::recording();
        let frozen = product(&tape, &Var::constant(a.clone()), &Var::constant(b.clone()));
        assert!(!frozen.needs_grad());
        let y = product(&tape, &Var::constant(a), &Var::param(ParamId(1), b));
        let mut grads = Gradients::new();
        tape.backward(&y, Tensor::full([M, N], DType::F32, 1.0), &mut grads);
        assert!(grads.param(ParamId(0)).is_none() && grads.param(ParamId(1)).is_some());
    }
}
