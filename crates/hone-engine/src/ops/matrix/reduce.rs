//! Sums, means, norms and maxima over a matrix or over parts of it, and the softmax of each row.
//!
//! Statistics of a whole matrix ([`sum()`], [`row_sums`], [`column_means`], [`row_norms`]) come out in `f32` whatever the
//! type of the matrix: rounded to bf16 they would be too coarse to divide by. What takes the place of rows
//! ([`softmax_rows`], [`segment_means`], [`segment_maxima`]) keeps the matrix's type.
//!
//! With the output's gradient `g`: the sums and means hand `g` (over the count) to each of their terms; a norm
//! `n_i = ‖x_i‖₂` gives `g_i x_ij / n_i`, and 0 for a row of zeros; a softmax `y` gives `y_ij (g_ij − Σ_k g_ik y_ik)`; a
//! maximum gives `g` to the first of the highest.

use std::ops::Range;

use super::broadcast::rows_scaled;
use crate::dtype::{DType, Element};
use crate::parallel::{Rows, column_sums, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// The sum of all elements, `[1]` in `f32`.
pub fn sum(tape: &Tape, x: &Var) -> Var {
    let _span = profile::span("sum", Pass::Forward);
    let value = Tensor::from_slice([1], &[total(&x.value)]);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("sum", Pass::Backward);
        into.add(&x, Tensor::full(x.value.shape(), super::gradient_type(&x), grad.item()));
    })
}

/// The sum of each row: `[m, n] -> [m]` in `f32`.
pub fn row_sums(tape: &Tape, x: &Var) -> Var {
    let _span = profile::span("row sums", Pass::Forward);
    let value = each_row(&x.value, Statistic::Sum);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("row sums", Pass::Backward);
        let ones = Tensor::full(x.value.shape(), super::gradient_type(&x), 1.0);
        into.add(&x, rows_scaled(ones, &grad));
    })
}

/// The mean of each column: `[m, n] -> [n]` in `f32`. Panics on a matrix without rows.
pub fn column_means(tape: &Tape, x: &Var) -> Var {
    let _span = profile::span("column means", Pass::Forward);
    let (rows, cols) = x.value.rows_cols();
    assert!(rows > 0, "column means of {:?}", x.value.shape());
    let mut means = crate::dispatch_dtype!(x.value.dtype(), T => column_sums(x.value.as_slice::<T>(), cols));
    means.iter_mut().for_each(|m| *m /= rows as f32);
    let value = Tensor::from_slice([cols], &means);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("column means", Pass::Backward);
        let share: Vec<f32> = grad.as_slice::<f32>().iter().map(|g| g / rows as f32).collect();
        into.add(&x, Tensor::from_slice(x.value.shape(), &share.repeat(rows)));
    })
}

/// The Euclidean norm of each row: `[m, n] -> [m]` in `f32`.
pub fn row_norms(tape: &Tape, x: &Var) -> Var {
    let _span = profile::span("row norms", Pass::Forward);
    let value = each_row(&x.value, Statistic::Norm);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let (x, norms) = (x.clone(), value.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("row norms", Pass::Backward);
        let over = |(g, n): (&f32, &f32)| if *n == 0.0 { 0.0 } else { g / n };
        let factors: Vec<f32> = grad.as_slice::<f32>().iter().zip(norms.as_slice::<f32>()).map(over).collect();
        into.add(
            &x,
            rows_scaled(x.value.to_dtype(super::gradient_type(&x)), &Tensor::from_slice([factors.len()], &factors)),
        );
    })
}

/// The softmax of each row, of `x`'s shape and type. Panics on rows without elements.
pub fn softmax_rows(tape: &Tape, x: &Var) -> Var {
    let _span = profile::span("softmax", Pass::Forward);
    let (rows, cols) = x.value.rows_cols();
    assert!(cols > 0, "softmax over rows of {:?}", x.value.shape());
    let mut value = Tensor::uninit(x.value.shape(), x.value.dtype());
    crate::dispatch_dtype!(x.value.dtype(), T => {
        let x = x.value.as_slice::<T>();
        for_blocks(
            rows,
            cols,
            Rows::new(value.as_mut_slice::<T>(), cols),
            #[inline(always)]
            |range, y: Rows<T>| {
                let mut row = vec![0f32; cols];
                for (i, y) in range.zip(y.data.chunks_exact_mut(cols)) {
                    simd::convert(&mut row, &x[i * cols..(i + 1) * cols]);
                    let highest = simd::max(&row);
                    let inverse = 1.0 / simd::exp_shifted(&mut row, highest);
                    y.iter_mut().zip(&row).for_each(|(y, e)| *y = T::rounded(e * inverse));
                }
            },
        )
    });
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let (x, y) = (x.clone(), value.clone());
    tape.record(value, move |mut grad, into| {
        let _span = profile::span("softmax", Pass::Backward);
        crate::dispatch_dtype!(y.dtype(), T => {
            let y = y.as_slice::<T>();
            for_blocks(
                rows,
                cols,
                Rows::new(grad.as_mut_slice::<T>(), cols),
                #[inline(always)]
                |range, grad: Rows<T>| {
                    for (i, g) in range.zip(grad.data.chunks_exact_mut(cols)) {
                        let y = &y[i * cols..(i + 1) * cols];
                        let level = simd::dot(g, y);
                        for (g, y) in g.iter_mut().zip(y) {
                            *g = T::rounded(Element::widen(*y) * (Element::widen(*g) - level));
                        }
                    }
                },
            )
        });
        into.add(&x, grad);
    })
}

/// The mean of each range of rows: `[tokens, n] -> [ranges, n]`. Ranges may overlap and leave rows out. Panics on an empty
/// range and on one outside `x`.
pub fn segment_means(tape: &Tape, x: &Var, ranges: &[Range<usize>]) -> Var {
    let _span = profile::span("segment means", Pass::Forward);
    let cols = check_ranges(&x.value, ranges);
    let mut value = Tensor::uninit([ranges.len(), cols], x.value.dtype());
    crate::dispatch_dtype!(x.value.dtype(), T => {
        let x = x.value.as_slice::<T>();
        for_blocks(
            ranges.len(),
            cols * longest(ranges),
            Rows::new(value.as_mut_slice::<T>(), cols),
            #[inline(always)]
            |at, out: Rows<T>| {
                let mut mean = vec![0f32; cols];
                for (range, out) in ranges[at].iter().zip(out.data.chunks_exact_mut(cols)) {
                    mean.fill(0.0);
                    for row in x[range.start * cols..range.end * cols].chunks_exact(cols) {
                        simd::add_scaled(&mut mean, 1.0, row);
                    }
                    let count = range.len() as f32;
                    out.iter_mut().zip(&mean).for_each(|(o, m)| *o = T::rounded(m / count));
                }
            },
        )
    });
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let (x, ranges) = (x.clone(), ranges.to_vec());
    tape.record(value, move |grad, into| {
        let _span = profile::span("segment means", Pass::Backward);
        into.add_in_place(&x, |sum| {
            let sum = sum.as_mut_slice::<f32>();
            crate::dispatch_dtype!(grad.dtype(), T => simd::dispatch(
                #[inline(always)]
                || for (range, g) in ranges.iter().zip(grad.as_slice::<T>().chunks_exact(cols)) {
                    for row in sum[range.start * cols..range.end * cols].chunks_exact_mut(cols) {
                        simd::add_scaled(row, 1.0 / range.len() as f32, g);
                    }
                },
            ))
        });
    })
}

/// The highest of each column in each range of rows: `[tokens, n] -> [ranges, n]`; of equal ones the first gets the
/// gradient, and NaN is the highest of all. Panics on an empty range and on one outside `x`.
pub fn segment_maxima(tape: &Tape, x: &Var, ranges: &[Range<usize>]) -> Var {
    let _span = profile::span("segment maxima", Pass::Forward);
    let cols = check_ranges(&x.value, ranges);
    let mut value = Tensor::uninit([ranges.len(), cols], x.value.dtype());
    // The row of each maximum.
    let mut places = vec![0u32; ranges.len() * cols];
    crate::dispatch_dtype!(x.value.dtype(), T => {
        let x = x.value.as_slice::<T>();
        for_blocks(
            ranges.len(),
            cols * longest(ranges),
            (Rows::new(value.as_mut_slice::<T>(), cols), Rows::new(&mut places, cols)),
            #[inline(always)]
            |at, (out, places): (Rows<T>, Rows<u32>)| {
                let to = out.data.chunks_exact_mut(cols).zip(places.data.chunks_exact_mut(cols));
                for (range, (out, places)) in ranges[at].iter().zip(to) {
                    out.copy_from_slice(&x[range.start * cols..(range.start + 1) * cols]);
                    places.fill(range.start as u32);
                    for row in range.clone().skip(1) {
                        for (j, value) in x[row * cols..(row + 1) * cols].iter().enumerate() {
                            let (new, old) = (Element::widen(*value), Element::widen(out[j]));
                            if new > old || (new.is_nan() && !old.is_nan()) {
                                (out[j], places[j]) = (*value, row as u32);
                            }
                        }
                    }
                }
            },
        )
    });
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("segment maxima", Pass::Backward);
        into.add_in_place(&x, |sum| {
            let sum = sum.as_mut_slice::<f32>();
            crate::dispatch_dtype!(grad.dtype(), T => {
                for (at, (row, g)) in places.iter().zip(grad.as_slice::<T>()).enumerate() {
                    sum[*row as usize * cols + at % cols] += Element::widen(*g);
                }
            })
        });
    })
}

/// What [`each_row`] computes.
#[derive(Clone, Copy)]
enum Statistic {
    Sum,
    Norm,
}

/// A number for each row, `[m]` in `f32`.
fn each_row(x: &Tensor, what: Statistic) -> Tensor {
    let (rows, cols) = x.rows_cols();
    let mut out = Tensor::uninit([rows], DType::F32);
    crate::dispatch_dtype!(x.dtype(), T => {
        let x = x.as_slice::<T>();
        for_blocks(
            rows,
            cols,
            Rows::new(out.as_mut_slice::<f32>(), 1),
            #[inline(always)]
            |range, out: Rows<f32>| {
                for (i, out) in range.zip(out.data) {
                    let row = &x[i * cols..(i + 1) * cols];
                    *out = match what {
                        Statistic::Sum => simd::sum(row),
                        Statistic::Norm => simd::sum_of_squares(row).sqrt(),
                    };
                }
            },
        )
    });
    out
}

/// The sum of all elements: of pieces of a fixed size, then of the pieces in order.
fn total(x: &Tensor) -> f32 {
    const PIECE: usize = 4096;
    let mut partial = vec![0f32; x.elements().div_ceil(PIECE)];
    crate::dispatch_dtype!(x.dtype(), T => {
        let x = x.as_slice::<T>();
        for_blocks(
            partial.len(),
            PIECE,
            Rows::new(&mut partial, 1),
            #[inline(always)]
            |range, out: Rows<f32>| {
                for (i, out) in range.zip(out.data) {
                    *out = simd::sum(&x[i * PIECE..((i + 1) * PIECE).min(x.len())]);
                }
            },
        )
    });
    partial.iter().map(|p| f64::from(*p)).sum::<f64>() as f32
}

/// Columns of `x`; panics unless every range is a non-empty one of its rows.
fn check_ranges(x: &Tensor, ranges: &[Range<usize>]) -> usize {
    let (rows, cols) = x.rows_cols();
    if let Some(range) = ranges.iter().find(|r| r.is_empty() || r.end > rows) {
        panic!("rows {range:?} of {:?} taken together", x.shape());
    }
    cols
}

/// Rows in the longest range.
fn longest(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(Range::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::tape::{Gradients, ParamId};

    const M: usize = 6;
    const N: usize = 9;
    const TYPES: [DType; 2] = [DType::F32, DType::BF16];

    fn ranges() -> Vec<Range<usize>> {
        vec![1..3, 0..6, 5..6]
    }

    /// The columns of `rows` of `x`, each as a list.
    fn columns_of(x: &[f64], rows: &Range<usize>) -> Vec<Vec<f64>> {
        (0..N).map(|j| rows.clone().map(|i| x[i * N + j]).collect()).collect()
    }

    #[test]
    fn sums_means_and_norms_match_the_reference() {
        for dtype in TYPES {
            let (x, t) = ([random([M, N], dtype, 1)], tolerance(dtype));
            check(&x, t, |tape, v| vec![sum(tape, &v[0])], |v| vec![vec![v[0].iter().sum()]]);
            check(
                &x,
                t,
                |tape, v| vec![row_sums(tape, &v[0])],
                |v| vec![v[0].chunks(N).map(|r| r.iter().sum()).collect()],
            );
            let means =
                |v: &[Vec<f64>]| columns_of(&v[0], &(0..M)).iter().map(|c| c.iter().sum::<f64>() / M as f64).collect();
            check(&x, t, |tape, v| vec![column_means(tape, &v[0])], |v| vec![means(v)]);
            let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
            check(&x, t, |tape, v| vec![row_norms(tape, &v[0])], |v| vec![v[0].chunks(N).map(norm).collect()]);
        }
    }

    #[test]
    fn a_softmax_matches_the_reference() {
        for dtype in TYPES {
            let x = [random([M, N], dtype, 1)];
            let softmax = |row: &[f64]| {
                let total: f64 = row.iter().map(|v| v.exp()).sum();
                row.iter().map(|v| v.exp() / total).collect::<Vec<_>>()
            };
            let oracle = |v: &[Vec<f64>]| vec![v[0].chunks(N).flat_map(softmax).collect()];
            check(&x, tolerance(dtype), |tape, v| vec![softmax_rows(tape, &v[0])], oracle);
        }
    }

    #[test]
    fn segments_match_the_reference() {
        for dtype in TYPES {
            let (x, t) = ([random([M, N], dtype, 1)], tolerance(dtype));
            let mean = |c: &Vec<f64>| c.iter().sum::<f64>() / c.len() as f64;
            let means = |v: &[Vec<f64>]| {
                ranges().iter().flat_map(|r| columns_of(&v[0], r).iter().map(mean).collect::<Vec<_>>()).collect()
            };
            check(&x, t, |tape, v| vec![segment_means(tape, &v[0], &ranges())], |v| vec![means(v)]);
            let max = |c: &Vec<f64>| c.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let maxima = |v: &[Vec<f64>]| {
                ranges().iter().flat_map(|r| columns_of(&v[0], r).iter().map(max).collect::<Vec<_>>()).collect()
            };
            check(&x, t, |tape, v| vec![segment_maxima(tape, &v[0], &ranges())], |v| vec![maxima(v)]);
        }
    }

    #[test]
    fn a_row_of_zeros_has_no_direction_and_gets_no_gradient() {
        let tape = Tape::recording();
        let x = Var::param(ParamId(0), Tensor::from_slice([2, 2], &[0f32, 0.0, 3.0, 4.0]));
        let y = row_norms(&tape, &x);
        assert_eq!(y.value.as_slice::<f32>(), [0.0, 5.0]);
        let mut grads = Gradients::new();
        tape.backward(&y, Tensor::full([2], DType::F32, 1.0), &mut grads);
        assert_eq!(grads.param(ParamId(0)).map(Tensor::to_vec_f32), Some(vec![0.0, 0.0, 0.6, 0.8]));
    }

    #[test]
    fn of_equal_maxima_the_first_gets_the_gradient_and_not_a_number_stays_visible() {
        let tape = Tape::recording();
        let x = Var::param(ParamId(0), Tensor::from_slice([3, 2], &[1f32, f32::NAN, 2.0, 5.0, 2.0, 6.0]));
        let y = segment_maxima(&tape, &x, std::slice::from_ref(&(0..3)));
        assert!(y.value.as_slice::<f32>()[0] == 2.0 && y.value.as_slice::<f32>()[1].is_nan());
        let mut grads = Gradients::new();
        tape.backward(&y, Tensor::full([1, 2], DType::F32, 1.0), &mut grads);
        assert_eq!(grads.param(ParamId(0)).map(Tensor::to_vec_f32), Some(vec![0.0, 1.0, 1.0, 0.0, 0.0, 0.0]));
    }

    #[test]
    fn a_long_sum_does_not_depend_on_threads() {
        let x = Var::constant(random([700, 300], DType::F32, 1));
        let want: f64 = x.value.to_vec_f32().iter().map(|v| f64::from(*v)).sum();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let got = pool.install(|| total(&x.value));
            assert_eq!(got, total(&x.value));
            assert!((f64::from(got) - want).abs() < 1e-3, "{got} {want}");
        }
    }
}
