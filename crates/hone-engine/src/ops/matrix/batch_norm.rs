//! Batch normalisation `x̂ w + b`, `x̂ = (x − mean) / √(variance + eps)`, with a mean and a variance for each column (Ioffe and
//! Szegedy 2015, arXiv 1502.03167): in training those of the batch, otherwise running ones that the caller keeps.
//!
//! With the output's gradient `g`, `r = 1 / √(variance + eps)` and means over the batch's rows: `dw = Σ g x̂`, `db = Σ g`, and
//! `dx = w r (g − mean(g) − x̂ mean(g x̂))` in training, `dx = w r g` otherwise. Statistics in `f32`.
//!
//! Running statistics are not updated here: how fast they follow is the caller's.

use crate::dtype::Element;
use crate::parallel::{Rows, column_sums, for_blocks, for_blocks_summing};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What a batch was normalised by, for the update of running statistics.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// `[c]`, `f32`.
    pub mean: Tensor,
    /// `[c]`, `f32`: the mean squared distance from the mean (divided by the number of rows).
    pub variance: Tensor,
    /// Rows of the batch.
    pub rows: usize,
}

impl BatchStatistics {
    /// The variance divided by one row less, `[c]`: what PyTorch's running variance is made of. That of a single row is
    /// not a number.
    pub fn unbiased_variance(&self) -> Tensor {
        let factor = self.rows as f32 / (self.rows as f32 - 1.0);
        super::super::elementwise::scaled(self.variance.clone(), factor)
    }
}

/// `x` `[tokens, c]`, `weight`, `bias`, `running_mean`, `running_var` `[c]` of either type; result like `x`. In `training` the batch's
/// own statistics are used and returned, and the running ones are not looked at. Panics on shapes that do not fit, and in
/// training on a batch without rows.
#[allow(clippy::too_many_arguments)]
pub fn batch_norm(
    tape: &Tape,
    x: &Var,
    weight: &Var,
    bias: &Var,
    running_mean: &Tensor,
    running_var: &Tensor,
    training: bool,
    eps: f32,
) -> (Var, Option<BatchStatistics>) {
    let _span = profile::span("batch norm", Pass::Forward);
    let (rows, cols) = x.value.rows_cols();
    let sides = [("weight", &weight.value), ("bias", &bias.value), ("mean", running_mean), ("variance", running_var)];
    for (what, side) in sides {
        assert_eq!(side.elements(), cols, "batch norm {what} {:?} for columns of {:?}", side.shape(), x.value.shape());
    }
    let statistics = training.then(|| batch_statistics(&x.value));
    let (mean, variance) = match &statistics {
        Some(own) => (own.mean.to_vec_f32(), own.variance.to_vec_f32()),
        None => (running_mean.to_vec_f32(), running_var.to_vec_f32()),
    };
    let inverse: Vec<f32> = variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
    let columns = Columns { mean, inverse, weight: weight.value.to_vec_f32() };
    let shifts = bias.value.to_vec_f32();
    let mut value = Tensor::uninit(x.value.shape(), x.value.dtype());
    crate::dispatch_dtype!(x.value.dtype(), T => {
        let x = x.value.as_slice::<T>();
        for_blocks(
            rows,
            cols,
            Rows::new(value.as_mut_slice::<T>(), cols),
            #[inline(always)]
            |range, out: Rows<T>| {
                for (row, out) in range.zip(out.data.chunks_exact_mut(cols)) {
                    for (j, (o, x)) in out.iter_mut().zip(&x[row * cols..(row + 1) * cols]).enumerate() {
                        *o = T::rounded(columns.normal(j, Element::widen(*x)).mul_add(columns.weight[j], shifts[j]));
                    }
                }
            },
        )
    });
    if !tape.needs_grad(&[x, weight, bias]) {
        return (Var::constant(value), statistics);
    }
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    let y = tape.record(value, move |mut grad, into| {
        let _span = profile::span("batch norm", Pass::Backward);
        let level = crate::dispatch_dtype!(grad.dtype(), T => column_sums(grad.as_slice::<T>(), cols));
        let along = columns.products(&grad, &x.value);
        into.add(&weight, Tensor::from_slice(weight.value.shape(), &along));
        into.add(&bias, Tensor::from_slice(bias.value.shape(), &level));
        if x.needs_grad() {
            // Given statistics do not move with `x`: nothing comes back through them.
            let share = if training { 1.0 / rows as f32 } else { 0.0 };
            columns.carry_back(&mut grad, &x.value, &level, &along, share);
            into.add(&x, grad);
        }
    });
    (y, statistics)
}

/// Mean and variance of each column; the variance in a second pass, not `mean(x²) − mean²`, which cancels.
fn batch_statistics(x: &Tensor) -> BatchStatistics {
    let (rows, cols) = x.rows_cols();
    assert!(rows > 0, "batch statistics of {:?}", x.shape());
    crate::dispatch_dtype!(x.dtype(), T => {
        let x = x.as_slice::<T>();
        let over_rows = |mut sums: Vec<f32>| {
            sums.iter_mut().for_each(|s| *s /= rows as f32);
            sums
        };
        let mean = over_rows(column_sums(x, cols));
        let variance = over_rows(for_blocks_summing(
            rows,
            cols,
            (),
            #[inline(always)]
            |range, (), sums| {
                for row in x[range.start * cols..range.end * cols].chunks_exact(cols) {
                    for ((s, x), mean) in sums.iter_mut().zip(row).zip(&mean) {
                        let distance = Element::widen(*x) - mean;
                        *s = distance.mul_add(distance, *s);
                    }
                }
            },
        ));
        let column = |values: &[f32]| Tensor::from_slice([cols], values);
        BatchStatistics { mean: column(&mean), variance: column(&variance), rows }
    })
}

/// What each column is normalised with.
struct Columns {
    mean: Vec<f32>,
    /// `1 / √(variance + eps)`.
    inverse: Vec<f32>,
    weight: Vec<f32>,
}

impl Columns {
    /// `x̂` of an element of column `j`.
    #[inline(always)]
    fn normal(&self, j: usize, x: f32) -> f32 {
        (x - self.mean[j]) * self.inverse[j]
    }

    /// `Σ_rows g x̂`.
    fn products(&self, grad: &Tensor, x: &Tensor) -> Vec<f32> {
        let (rows, cols) = x.rows_cols();
        crate::dispatch_dtype!(x.dtype(), T => {
            let (grad, x) = (grad.as_slice::<T>(), x.as_slice::<T>());
            for_blocks_summing(
                rows,
                cols,
                (),
                #[inline(always)]
                |range, (), sums| {
                    for row in range {
                        let at = row * cols..(row + 1) * cols;
                        for (j, (g, x)) in grad[at.clone()].iter().zip(&x[at]).enumerate() {
                            sums[j] = self.normal(j, Element::widen(*x)).mul_add(Element::widen(*g), sums[j]);
                        }
                    }
                },
            )
        })
    }

    /// Turns `g` into `w r (g − share (level + x̂ along))`.
    fn carry_back(&self, grad: &mut Tensor, x: &Tensor, level: &[f32], along: &[f32], share: f32) {
        let (rows, cols) = x.rows_cols();
        crate::dispatch_dtype!(x.dtype(), T => {
            let x = x.as_slice::<T>();
            for_blocks(
                rows,
                cols,
                Rows::new(grad.as_mut_slice::<T>(), cols),
                #[inline(always)]
                |range, grad: Rows<T>| {
                    for (row, g) in range.zip(grad.data.chunks_exact_mut(cols)) {
                        for (j, (g, x)) in g.iter_mut().zip(&x[row * cols..(row + 1) * cols]).enumerate() {
                            let normal = self.normal(j, Element::widen(*x));
                            let own = Element::widen(*g) - share * normal.mul_add(along[j], level[j]);
                            *g = T::rounded(self.weight[j] * self.inverse[j] * own);
                        }
                    }
                },
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::reference::gradient_check::{assert_close, check, random, tolerance, wide};
    use crate::reference::matrix;

    const ROWS: usize = 8;
    const COLS: usize = 5;
    const EPS: f32 = 1e-5;

    /// A running mean and variance.
    fn running() -> (Tensor, Tensor) {
        let variance: Vec<f32> = random([COLS], DType::F32, 5).to_vec_f32().iter().map(|v| v.abs() + 0.5).collect();
        (random([COLS], DType::F32, 4), Tensor::from_slice([COLS], &variance))
    }

    #[test]
    fn batches_match_the_reference_in_training_and_after() {
        let (mean, variance) = running();
        for (dtype, training) in [DType::F32, DType::BF16].into_iter().flat_map(|d| [(d, true), (d, false)]) {
            let inputs = [random([ROWS, COLS], dtype, 1), random([COLS], dtype, 2), random([COLS], dtype, 3)];
            let op =
                |tape: &Tape, v: &[Var]| vec![batch_norm(tape, &v[0], &v[1], &v[2], &mean, &variance, training, EPS).0];
            let (wide_mean, wide_variance) = (wide(&mean), wide(&variance));
            let oracle = |v: &[Vec<f64>]| {
                let given = (!training).then_some((&wide_mean[..], &wide_variance[..]));
                vec![matrix::batch_norm(&v[0], &v[1], &v[2], given, EPS as f64)]
            };
            check(&inputs, tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn training_returns_what_it_normalised_by() {
        let (mean, variance) = running();
        let x = Tensor::from_slice([4, 1], &[1f32, 2.0, 3.0, 6.0]);
        let one = |v: f32| Var::constant(Tensor::full([1], DType::F32, v));
        let (mean, variance) = (mean.narrow(0..1), variance.narrow(0..1));
        let run = |training| {
            let x = Var::constant(x.clone());
            batch_norm(&Tape::off(), &x, &one(1.0), &one(0.0), &mean, &variance, training, EPS).1
        };
        assert!(run(false).is_none());
        let own = run(true).expect("statistics of the batch");
        assert_eq!((own.mean.item(), own.variance.item(), own.rows), (3.0, 3.5, 4));
        assert_close("unbiased variance", &wide(&own.unbiased_variance()), &[14.0 / 3.0], 1e-6);
    }
}
