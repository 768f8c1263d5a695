//! Root-mean-square normalisation `x / sqrt(mean(x²) + eps) * (w + offset)` over the last axis (arXiv 1910.07467).
//! `offset` is 1 for Gemma, whose stored weights are around zero, and 0 elsewhere.
//!
//! In `bf16` the order of roundings is that of Hugging Face's models, so that scores come out as theirs: with offset 0
//! (llama) the normalised row is rounded before it is multiplied by `w`, with offset 1 (Gemma) only the product is.
//!
//! Backward, with `r = 1 / sqrt(mean(x²) + eps)` saved per row and `n` columns:
//! `dx = r · g w − x · r³/n · Σ g w x`, written over the incoming gradient, and `dw = Σ_rows g x r`.

use crate::dtype::{DType, Element};
use crate::parallel::{Rows, for_blocks, for_blocks_summing};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

/// `x` `[tokens, width]`, `w` `[width]` (`f32` or `x`'s type). Statistics in `f32`; result in `x`'s type.
pub fn rms_norm(tape: &Tape, x: &Var, w: &Var, eps: f32, offset: f32) -> Var {
    let _span = profile::span("rms norm", Pass::Forward);
    let (_, cols) = x.value.rows_cols();
    assert_eq!(w.value.elements(), cols, "norm weight {:?} for rows of {:?}", w.value.shape(), x.value.shape());
    head_rms_norm(tape, x, w, eps, offset)
}

/// The norm over each head of `x` `[tokens, heads * head_dim]` with one `w` `[head_dim]` (Qwen3, Gemma3 qk-norm).
pub fn head_rms_norm(tape: &Tape, x: &Var, w: &Var, eps: f32, offset: f32) -> Var {
    let _span = profile::span("rms norm", Pass::Forward);
    let norm = Norm::new(w, eps, offset);
    let mut y = Tensor::uninit(x.value.shape(), x.value.dtype());
    let inverse = norm.forward(&x.value, &mut y);
    if !tape.needs_grad(&[x, w]) {
        return Var::constant(y);
    }
    let (x, w) = (x.clone(), w.clone());
    tape.record(y, move |grad, into| {
        let _span = profile::span("rms norm", Pass::Backward);
        if let Some(dx) = norm.backward(grad, &x.value, &inverse, None, x.needs_grad(), &w, into) {
            into.add(&x, dx);
        }
    })
}

/// `s = x + residual`, and its norm: returns `(s, norm(s))` in one pass (the pair that opens every half block).
pub fn add_rms_norm(tape: &Tape, residual: &Var, x: &Var, w: &Var, eps: f32, offset: f32) -> (Var, Var) {
    let _span = profile::span("rms norm", Pass::Forward);
    let (_, cols) = x.value.rows_cols();
    assert_eq!(w.value.elements(), cols, "norm weight {:?} for rows of {:?}", w.value.shape(), x.value.shape());
    let norm = Norm::new(w, eps, offset);
    let (s, y, inverse) = norm.add_forward(&residual.value, &x.value);
    if !tape.needs_grad(&[residual, x, w]) {
        return (Var::constant(s), Var::constant(y));
    }
    let (residual, x, w, sum) = (residual.clone(), x.clone(), w.clone(), s.clone());
    let mut out = tape.record_many(vec![s, y], move |mut grads, into| {
        let _span = profile::span("rms norm", Pass::Backward);
        let needed = residual.needs_grad() || x.needs_grad();
        let (dy, ds) = (grads.pop().flatten(), grads.pop().flatten());
        let grad = match dy {
            Some(dy) => norm.backward(dy, &sum, &inverse, ds.as_ref(), needed, &w, into),
            None => ds,
        };
        if let Some(grad) = grad {
            into.add(&x, grad.clone());
            into.add(&residual, grad);
        }
    });
    let y = out.swap_remove(1);
    (out.swap_remove(0), y)
}

/// The weight as it multiplies, and what else a norm is.
struct Norm {
    /// `w + offset`.
    factors: Vec<f32>,
    eps: f32,
    /// Round the normalised row before multiplying (llama's order).
    round_first: bool,
}

impl Norm {
    fn new(w: &Var, eps: f32, offset: f32) -> Norm {
        let mut factors = w.value.to_vec_f32();
        assert!(!factors.is_empty(), "an empty norm weight");
        factors.iter_mut().for_each(|w| *w += offset);
        Norm { factors, eps, round_first: offset == 0.0 }
    }

    /// `1 / sqrt(mean(row²) + eps)`.
    #[inline(always)]
    fn inverse<T: Element>(&self, row: &[T]) -> f32 {
        1.0 / (simd::sum_of_squares(row) / row.len() as f32 + self.eps).sqrt()
    }

    #[inline(always)]
    fn write_row<T: Element>(&self, x: &[T], inverse: f32, y: &mut [T]) {
        let with_factors = y.iter_mut().zip(x).zip(&self.factors);
        if self.round_first {
            with_factors.for_each(|((y, x), w)| *y = T::rounded(T::rounded(x.widen() * inverse).widen() * w));
        } else {
            with_factors.for_each(|((y, x), w)| *y = T::rounded(x.widen() * inverse * w));
        }
    }

    /// Writes the normalised rows; returns the inverse root mean squares `[rows]`.
    fn forward(&self, x: &Tensor, y: &mut Tensor) -> Tensor {
        let cols = self.factors.len();
        let rows = x.elements() / cols;
        assert_eq!(rows * cols, x.elements(), "norm weight of {cols} for rows of {:?}", x.shape());
        let mut inverse = Tensor::uninit([rows], DType::F32);
        crate::dispatch_dtype!(x.dtype(), T => {
            let x = x.as_slice::<T>();
            for_blocks(
                rows,
                cols,
                (Rows::new(y.as_mut_slice::<T>(), cols), Rows::new(inverse.as_mut_slice::<f32>(), 1)),
                #[inline(always)]
                |range, (y, inverse): (Rows<T>, Rows<f32>)| {
                    let x = x[range.start * cols..range.end * cols].chunks_exact(cols);
                    for ((x, y), inverse) in x.zip(y.data.chunks_exact_mut(cols)).zip(inverse.data) {
                        *inverse = self.inverse(x);
                        self.write_row(x, *inverse, y);
                    }
                },
            )
        });
        inverse
    }

    /// The sum, its normalised rows and their inverse root mean squares.
    fn add_forward(&self, residual: &Tensor, x: &Tensor) -> (Tensor, Tensor, Tensor) {
        super::map::same(residual, x);
        let (rows, cols) = x.rows_cols();
        let mut s = Tensor::uninit(x.shape(), x.dtype());
        let mut y = Tensor::uninit(x.shape(), x.dtype());
        let mut inverse = Tensor::uninit([rows], DType::F32);
        crate::dispatch_dtype!(x.dtype(), T => {
            let (a, b) = (residual.as_slice::<T>(), x.as_slice::<T>());
            let out = (Rows::new(s.as_mut_slice::<T>(), cols), Rows::new(y.as_mut_slice::<T>(), cols));
            for_blocks(
                rows,
                cols,
                (out, Rows::new(inverse.as_mut_slice::<f32>(), 1)),
                #[inline(always)]
                |range, ((s, y), inverse): ((Rows<T>, Rows<T>), Rows<f32>)| {
                    let out = s.data.chunks_exact_mut(cols).zip(y.data.chunks_exact_mut(cols));
                    for ((row, (s, y)), inverse) in range.zip(out).zip(inverse.data) {
                        let at = row * cols..(row + 1) * cols;
                        for ((s, a), b) in s.iter_mut().zip(&a[at.clone()]).zip(&b[at]) {
                            *s = T::rounded(Element::widen(*a) + Element::widen(*b));
                        }
                        *inverse = self.inverse(s);
                        self.write_row(s, *inverse, y);
                    }
                },
            )
        });
        (s, y, inverse)
    }

    /// The gradient of `x`, plus `extra`, in `grad`'s memory, if `dx` says it is wanted; that of `w` goes `into`.
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        mut grad: Tensor,
        x: &Tensor,
        inverse: &Tensor,
        extra: Option<&Tensor>,
        dx: bool,
        w: &Var,
        into: &mut Gradients,
    ) -> Option<Tensor> {
        let cols = self.factors.len();
        let rows = x.elements() / cols;
        let inverse = inverse.as_slice::<f32>();
        if w.needs_grad() {
            let sums = crate::dispatch_dtype!(x.dtype(), T => {
                let (x, grad) = (x.as_slice::<T>(), grad.as_slice::<T>());
                for_blocks_summing(
                    rows,
                    cols,
                    (),
                    #[inline(always)]
                    |range, (), sums| {
                        for row in range {
                            let at = row * cols..(row + 1) * cols;
                            for ((s, g), x) in sums.iter_mut().zip(&grad[at.clone()]).zip(&x[at]) {
                                *s = (Element::widen(*x) * inverse[row]).mul_add(Element::widen(*g), *s);
                            }
                        }
                    },
                )
            });
            into.add(w, Tensor::from_slice(w.value.shape(), &sums));
        }
        if !dx {
            return None;
        }
        crate::dispatch_dtype!(x.dtype(), T => {
            let x = x.as_slice::<T>();
            let extra = extra.map(|e| e.as_slice::<T>());
            for_blocks(
                rows,
                cols,
                Rows::new(grad.as_mut_slice::<T>(), cols),
                #[inline(always)]
                |range, grad: Rows<T>| {
                    for (row, g) in range.zip(grad.data.chunks_exact_mut(cols)) {
                        let at = row * cols..(row + 1) * cols;
                        let (x, w) = (&x[at.clone()], &self.factors[..]);
                        let r = inverse[row];
                        let projection = simd::sum_of3(
                            g,
                            w,
                            x,
                            #[inline(always)]
                            |g, w, x| g * w * x,
                        );
                        let along = -projection * r * r * r / cols as f32;
                        let terms = g.iter_mut().zip(x).zip(w);
                        match extra {
                            None => terms.for_each(|((g, x), w)| {
                                let across = Element::widen(*g) * w * r;
                                *g = T::rounded(Element::widen(*x).mul_add(along, across));
                            }),
                            Some(extra) => terms.zip(&extra[at]).for_each(|(((g, x), w), extra)| {
                                let across = Element::widen(*g).mul_add(w * r, Element::widen(*extra));
                                *g = T::rounded(Element::widen(*x).mul_add(along, across));
                            }),
                        }
                    }
                },
            )
        });
        Some(grad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::norms;
    use crate::{ParamId, bf16};

    const EPS: f32 = 1e-5;

    #[test]
    fn rows_match_the_reference() {
        for (dtype, offset) in [(DType::F32, 0.0), (DType::F32, 1.0), (DType::BF16, 0.0), (DType::BF16, 1.0)] {
            let inputs = [random([5, 37], dtype, 1), random([37], dtype, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![rms_norm(tape, &v[0], &v[1], EPS, offset)];
            check(&inputs, tolerance(dtype), op, |v| vec![norms::rms_norm(&v[0], &v[1], EPS as f64, offset as f64)]);
        }
    }

    #[test]
    fn heads_match_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [random([3, 4 * 8], dtype, 1), random([8], DType::F32, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![head_rms_norm(tape, &v[0], &v[1], EPS, 1.0)];
            check(&inputs, tolerance(dtype), op, |v| vec![norms::rms_norm(&v[0], &v[1], EPS as f64, 1.0)]);
        }
    }

    #[test]
    fn sum_and_norm_match_the_reference() {
        // In bf16 the sum itself is rounded before it is normalised, as a residual stream in bf16 is.
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [random([5, 40], dtype, 1), random([5, 40], dtype, 2), random([40], dtype, 3)];
            let op = |tape: &Tape, v: &[Var]| {
                let (s, y) = add_rms_norm(tape, &v[0], &v[1], &v[2], EPS, 0.0);
                vec![s, y]
            };
            let oracle = |v: &[Vec<f64>]| {
                let s: Vec<f64> = v[0].iter().zip(&v[1]).map(|(a, b)| a + b).collect();
                let y = norms::rms_norm(&s, &v[2], EPS as f64, 0.0);
                vec![s, y]
            };
            check(&inputs, tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn either_output_may_go_unused() {
        let tape = Tape::recording();
        let inputs = [random([2, 8], DType::F32, 1), random([2, 8], DType::F32, 2)];
        let [x, r] = [0, 1].map(|i| Var::param(ParamId(i), inputs[i as usize].clone()));
        let w = Var::constant(Tensor::full([8], DType::F32, 1.0));
        let ones = || Tensor::full([2, 8], DType::F32, 1.0);

        let mut grads = Gradients::new();
        let (s, _) = add_rms_norm(&tape, &r, &x, &w, EPS, 0.0);
        tape.backward(&s, ones(), &mut grads);
        assert_eq!(grads.param(ParamId(0)).map(Tensor::to_vec_f32), Some(vec![1.0; 16]));

        let mut grads = Gradients::new();
        let (s, y) = add_rms_norm(&tape, &r, &x, &w, EPS, 0.0);
        tape.backward(&y, ones(), &mut grads);
        let mut alone = Gradients::new();
        let sum = Var::param(ParamId(0), s.value);
        tape.backward(&rms_norm(&tape, &sum, &w, EPS, 0.0), ones(), &mut alone);
        let [got, want] = [grads, alone].map(|g| g.param(ParamId(0)).map(Tensor::to_vec_f32));
        assert_eq!(got, want);
    }

    #[test]
    fn bf16_rounds_in_the_order_of_the_models() {
        // A row where the two orders differ: normalised to 1.0078125 * sqrt(...)-like values that do not fit bf16.
        let x = random([4, 64], DType::BF16, 5);
        let w = random([64], DType::BF16, 6);
        let mean = |row: &[bf16]| row.iter().map(|v| v.to_f32() * v.to_f32()).sum::<f32>() / 64.0;
        let round = |v: f32| bf16::from_f32(v).to_f32();
        for offset in [0.0, 1.0] {
            let y = rms_norm(&Tape::off(), &Var::constant(x.clone()), &Var::constant(w.clone()), EPS, offset);
            let mut orders_differ = false;
            for (x, y) in x.as_slice::<bf16>().chunks(64).zip(y.value.as_slice::<bf16>().chunks(64)) {
                let r = 1.0 / (mean(x) + EPS).sqrt();
                for ((x, y), w) in x.iter().zip(y).zip(w.as_slice::<bf16>()) {
                    let normal = x.to_f32() * r;
                    let (llama, gemma) =
                        (round(round(normal) * (w.to_f32() + offset)), round(normal * (w.to_f32() + offset)));
                    orders_differ |= llama != gemma;
                    let want = if offset == 0.0 { llama } else { gemma };
                    assert!((y.to_f32() - want).abs() <= want.abs() * 1e-6, "{y} {want}");
                }
            }
            assert!(orders_differ);
        }
    }
}
