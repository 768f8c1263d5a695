//! Layer normalisation `(x - mean) / sqrt(var + eps) * w + b` over the last axis (Ba et al. 2016, arXiv 1607.06450).
//!
//! Backward, with `x̂` the normalised row, `r` its inverse standard deviation and `n` columns:
//! `dx = r (g w − mean(g w) − x̂ mean(g w x̂))`, written over the incoming gradient; `dw = Σ_rows g x̂`, `db = Σ_rows g`.

use crate::dtype::{DType, Element};
use crate::parallel::{Rows, column_sums, for_blocks, for_blocks_summing};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x` `[tokens, width]`, `w`, `b` `[width]` (`f32` or `x`'s type). Statistics in `f32`.
pub fn layer_norm(tape: &Tape, x: &Var, w: &Var, b: Option<&Var>, eps: f32) -> Var {
    let _span = profile::span("layer norm", Pass::Forward);
    let (rows, cols) = x.value.rows_cols();
    assert!(cols > 0, "layer norm over rows of {:?}", x.value.shape());
    for (what, v) in [("weight", Some(w)), ("bias", b)] {
        let elements = v.map_or(cols, |v| v.value.elements());
        assert_eq!(elements, cols, "layer norm {what} of {elements} for rows of {:?}", x.value.shape());
    }
    let factors = w.value.to_vec_f32();
    let shifts = b.map_or_else(|| vec![0.0; cols], |b| b.value.to_vec_f32());
    let mut y = Tensor::uninit(x.value.shape(), x.value.dtype());
    // `[rows, 2]`: mean and inverse standard deviation.
    let mut statistics = Tensor::uninit([rows, 2], DType::F32);
    crate::dispatch_dtype!(x.value.dtype(), T => {
        let x = x.value.as_slice::<T>();
        for_blocks(
            rows,
            cols,
            (Rows::new(y.as_mut_slice::<T>(), cols), Rows::new(statistics.as_mut_slice::<f32>(), 2)),
            #[inline(always)]
            |range, (y, statistics): (Rows<T>, Rows<f32>)| {
                let out = y.data.chunks_exact_mut(cols).zip(statistics.data.chunks_exact_mut(2));
                for (x, (y, statistics)) in x[range.start * cols..range.end * cols].chunks_exact(cols).zip(out) {
                    let mean = simd::sum(x) / cols as f32;
                    // A second pass over the row, not `mean(x²) - mean²`, which cancels.
                    let variance = simd::sum_of(x, #[inline(always)] |v| (v - mean) * (v - mean)) / cols as f32;
                    let r = 1.0 / (variance + eps).sqrt();
                    for (((y, x), w), b) in y.iter_mut().zip(x).zip(&factors).zip(&shifts) {
                        *y = T::rounded(((Element::widen(*x) - mean) * r).mul_add(*w, *b));
                    }
                    statistics.copy_from_slice(&[mean, r]);
                }
            },
        )
    });
    let inputs: Vec<&Var> = [x, w].into_iter().chain(b).collect();
    if !tape.needs_grad(&inputs) {
        return Var::constant(y);
    }
    let (x, w, b) = (x.clone(), w.clone(), b.cloned());
    tape.record(y, move |mut grad, into| {
        let _span = profile::span("layer norm", Pass::Backward);
        crate::dispatch_dtype!(x.value.dtype(), T => {
            let values = x.value.as_slice::<T>();
            let statistics = statistics.as_slice::<f32>();
            if w.needs_grad() {
                let grad = grad.as_slice::<T>();
                let sums = for_blocks_summing(
                    rows,
                    cols,
                    (),
                    #[inline(always)]
                    |range, (), sums| {
                        for row in range {
                            let at = row * cols..(row + 1) * cols;
                            let (mean, r) = (statistics[2 * row], statistics[2 * row + 1]);
                            for ((s, g), x) in sums.iter_mut().zip(&grad[at.clone()]).zip(&values[at]) {
                                *s = ((Element::widen(*x) - mean) * r).mul_add(Element::widen(*g), *s);
                            }
                        }
                    },
                );
                into.add(&w, Tensor::from_slice(w.value.shape(), &sums));
            }
            if let Some(b) = b.as_ref().filter(|b| b.needs_grad()) {
                into.add(b, Tensor::from_slice(b.value.shape(), &column_sums(grad.as_slice::<T>(), cols)));
            }
            if !x.needs_grad() {
                return;
            }
            for_blocks(
                rows,
                cols,
                Rows::new(grad.as_mut_slice::<T>(), cols),
                #[inline(always)]
                |range, grad: Rows<T>| {
                    for (row, g) in range.zip(grad.data.chunks_exact_mut(cols)) {
                        let x = &values[row * cols..(row + 1) * cols];
                        let (mean, r) = (statistics[2 * row], statistics[2 * row + 1]);
                        let level = simd::dot(g, &factors) / cols as f32;
                        let projection = simd::sum_of3(
                            g,
                            &factors,
                            x,
                            #[inline(always)]
                            |g, w, x| g * w * (x - mean),
                        );
                        let along = projection * r / cols as f32;
                        for ((g, x), w) in g.iter_mut().zip(x).zip(&factors) {
                            let normal = (Element::widen(*x) - mean) * r;
                            *g = T::rounded(r * (Element::widen(*g).mul_add(*w, -level) - normal * along));
                        }
                    }
                },
            );
        });
        into.add(&x, grad);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{assert_close, check, random, tolerance, wide};
    use crate::reference::norms;

    #[test]
    fn rows_match_the_reference_with_and_without_bias() {
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [random([5, 37], dtype, 1), random([37], dtype, 2), random([37], dtype, 3)];
            let op = |tape: &Tape, v: &[Var]| vec![layer_norm(tape, &v[0], &v[1], v.get(2), 1e-5)];
            let oracle =
                |v: &[Vec<f64>]| vec![norms::layer_norm(&v[0], &v[1], v.get(2).map(Vec::as_slice), 1e-5f32 as f64)];
            check(&inputs, tolerance(dtype), op, oracle);
            check(&inputs[..2], tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn a_row_far_from_zero_keeps_its_variance() {
        let values: Vec<f32> = (0..64).map(|i| 1000.0 + (i % 8) as f32 / 8.0).collect();
        let x = Tensor::from_slice([1, 64], &values);
        let w = Tensor::full([64], DType::F32, 1.0);
        let y = layer_norm(&Tape::off(), &Var::constant(x.clone()), &Var::constant(w.clone()), None, 1e-5);
        let want = norms::layer_norm(&wide(&x), &wide(&w), None, 1e-5);
        assert_close("far from zero", &wide(&y.value), &want, 1e-4);
    }
}
