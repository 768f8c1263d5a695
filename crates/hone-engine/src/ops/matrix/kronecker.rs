//! Kronecker product `a ⊗ b` (LoKr, arXiv 2309.14859; KronA, arXiv 2212.10650): every element of `a` times the whole of `b`,
//! `[p, q] x [r, s] -> [p r, q s]` with `y[i r + k, j s + l] = a[i, j] b[k, l]`.
//!
//! With the output's gradient `g`: `da[i, j] = Σ_kl g[i r + k, j s + l] b[k, l]` and
//! `db[k, l] = Σ_ij g[i r + k, j s + l] a[i, j]`, both summed in `f32`.

use crate::dtype::{DType, Element};
use crate::parallel::{Rows, for_blocks, for_blocks_summing};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `a ⊗ b`: `[p, q] x [r, s] -> [p r, q s]`, of the type of both. Panics if the types differ and on a side without elements.
pub fn kronecker(tape: &Tape, a: &Var, b: &Var) -> Var {
    let _span = profile::span("kronecker", Pass::Forward);
    let value = forward(&a.value, &b.value);
    if !tape.needs_grad(&[a, b]) {
        return Var::constant(value);
    }
    let (a, b) = (a.clone(), b.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("kronecker", Pass::Backward);
        if a.needs_grad() {
            into.add(&a, gradient_of_a(&grad, &a.value, &b.value));
        }
        if b.needs_grad() {
            into.add(&b, gradient_of_b(&grad, &a.value, &b.value));
        }
    })
}

fn forward(a: &Tensor, b: &Tensor) -> Tensor {
    let ((p, q), (r, s)) = (a.rows_cols(), b.rows_cols());
    assert_eq!(a.dtype(), b.dtype(), "a Kronecker product of {:?} and {:?} of two types", a.shape(), b.shape());
    assert!(a.elements() > 0 && b.elements() > 0, "a Kronecker product of {:?} and {:?}", a.shape(), b.shape());
    let mut out = Tensor::uninit([p * r, q * s], a.dtype());
    crate::dispatch_dtype!(a.dtype(), T => {
        let (a, b) = (a.as_slice::<T>(), b.as_slice::<T>());
        for_blocks(
            p * r,
            q * s,
            Rows::new(out.as_mut_slice::<T>(), q * s),
            #[inline(always)]
            |range, out: Rows<T>| {
                for (row, out) in range.zip(out.data.chunks_exact_mut(q * s)) {
                    let (i, k) = (row / r, row % r);
                    let b = &b[k * s..(k + 1) * s];
                    for (a, out) in a[i * q..(i + 1) * q].iter().zip(out.chunks_exact_mut(s)) {
                        let factor = Element::widen(*a);
                        out.iter_mut().zip(b).for_each(|(o, b)| *o = T::rounded(factor * Element::widen(*b)));
                    }
                }
            },
        )
    });
    out
}

/// `[p, q]` in `f32`.
fn gradient_of_a(grad: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let ((_, q), (r, s)) = (a.rows_cols(), b.rows_cols());
    let mut out = Tensor::zeros(a.shape(), DType::F32);
    crate::dispatch_dtype!(b.dtype(), T => {
        let (grad, b) = (grad.as_slice::<T>(), b.as_slice::<T>());
        for_blocks(
            out.elements() / q,
            q * r * s,
            Rows::new(out.as_mut_slice::<f32>(), q),
            #[inline(always)]
            |range, out: Rows<f32>| {
                for (i, out) in range.zip(out.data.chunks_exact_mut(q)) {
                    for (k, b) in b.chunks_exact(s).enumerate() {
                        let grad = &grad[(i * r + k) * q * s..][..q * s];
                        out.iter_mut().zip(grad.chunks_exact(s)).for_each(|(o, g)| *o += simd::dot(g, b));
                    }
                }
            },
        )
    });
    out
}

/// `[r, s]` in `f32`.
fn gradient_of_b(grad: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let ((p, q), (r, s)) = (a.rows_cols(), b.rows_cols());
    let sums = crate::dispatch_dtype!(a.dtype(), T => {
        let (grad, a) = (grad.as_slice::<T>(), a.as_slice::<T>());
        for_blocks_summing(
            p,
            r * s,
            (),
            #[inline(always)]
            |range, (), sums| {
                for i in range {
                    for (k, sums) in sums.chunks_exact_mut(s).enumerate() {
                        let grad = &grad[(i * r + k) * q * s..][..q * s];
                        for (a, g) in a[i * q..(i + 1) * q].iter().zip(grad.chunks_exact(s)) {
                            simd::add_scaled(sums, Element::widen(*a), g);
                        }
                    }
                }
            },
        )
    });
    Tensor::from_slice(b.shape(), &sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::matrix;

    #[test]
    fn kronecker_products_match_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [random([3, 4], dtype, 1), random([5, 2], dtype, 2)];
            let oracle = |v: &[Vec<f64>]| vec![matrix::kronecker(&v[0], 4, &v[1], 2)];
            check(&inputs, tolerance(dtype), |tape, v| vec![kronecker(tape, &v[0], &v[1])], oracle);
        }
    }

    #[test]
    fn the_identity_on_the_left_repeats_the_right_along_the_diagonal() {
        let identity = Tensor::from_slice([2, 2], &[1f32, 0.0, 0.0, 1.0]);
        let b = Tensor::from_slice([1, 2], &[3f32, 4.0]);
        let y = kronecker(&Tape::off(), &Var::constant(identity), &Var::constant(b));
        assert_eq!(y.value.dims(), [2, 4]);
        assert_eq!(y.value.as_slice::<f32>(), [3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
    }
}
