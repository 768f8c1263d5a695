//! A matrix of few cosines: the real part of a two-dimensional inverse Fourier transform of a sparse spectrum with real
//! coefficients (FourierFT, arXiv 2405.03003).
//!
//! `y[a, b] = f Σ_k c_k cos(2π (a r_k / m + b q_k / n))`. With `R` distinct rows among the `r_k`, the sum over the `k` of a row
//! first, `Z[r, b] = Σ_k c_k e^{2πi b q_k / n}`, and then the product `y = f (C Re Z − S Im Z)` with cosines and sines
//! `C`, `S` `[m, R]`: `2 m n R` multiplications instead of a transform, and the same numbers but for rounding. Backward with the
//! output's gradient `g`: `H = f (C + i S)ᵀ g` and `dc_k = Σ_b cos(…) Re H[r_k, b] − sin(…) Im H[r_k, b]`.
//!
//! Angles are reduced as whole numbers before the cosine is taken, so no accuracy is lost at large frequencies. Tables are
//! made anew in every pass: they are larger than everything else here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dtype::DType;
use crate::matmul::{matmul_nn, matmul_tn};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Where the coefficients of a sparse spectrum stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frequencies {
    dims: [usize; 2],
    /// `(row, column)` of each coefficient.
    places: Vec<(usize, usize)>,
    /// The rows that hold any, in order, each with its coefficients' numbers.
    rows: Vec<(usize, Vec<usize>)>,
}

impl Frequencies {
    /// Coefficients at `places` `(row, column)` of a spectrum of `dims`. Panics on a place outside.
    pub fn new(dims: [usize; 2], places: Vec<(usize, usize)>) -> Frequencies {
        let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, (row, column)) in places.iter().enumerate() {
            assert!(*row < dims[0] && *column < dims[1], "a frequency at {row}, {column} of {dims:?}");
            rows.entry(*row).or_default().push(number);
        }
        Frequencies { dims, places, rows: rows.into_iter().collect() }
    }

    /// Number of coefficients.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// `f cos` and `f sin` of `2π a r / m`, `[m, R]` each.
    fn turns(&self, factor: f32) -> (Tensor, Tensor) {
        let (m, count) = (self.dims[0], self.rows.len());
        let circle = Circle::new(m);
        let (mut cosines, mut sines) = (Tensor::uninit([m, count], DType::F32), Tensor::uninit([m, count], DType::F32));
        let out = (Rows::new(cosines.as_mut_slice::<f32>(), count), Rows::new(sines.as_mut_slice::<f32>(), count));
        for_blocks(
            m,
            count,
            out,
            #[inline(always)]
            |range, (cosines, sines): (Rows<f32>, Rows<f32>)| {
                let rows = cosines.data.chunks_exact_mut(count).zip(sines.data.chunks_exact_mut(count));
                for (a, (cosines, sines)) in range.zip(rows) {
                    for ((cos, sin), (row, _)) in cosines.iter_mut().zip(sines).zip(&self.rows) {
                        let at = a * row % m;
                        (*cos, *sin) = (factor * circle.cos[at], factor * circle.sin[at]);
                    }
                }
            },
        );
        (cosines, sines)
    }
}

/// Cosines and sines of the `n` parts of a turn.
struct Circle {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Circle {
    fn new(n: usize) -> Circle {
        let angle = |at: usize| std::f64::consts::TAU * at as f64 / n as f64;
        Circle {
            cos: (0..n).map(|at| angle(at).cos() as f32).collect(),
            sin: (0..n).map(|at| angle(at).sin() as f32).collect(),
        }
    }
}

/// `y[a, b] = factor Σ_k c_k cos(2π (a r_k / m + b q_k / n))`, `[m, n]` in `f32`, of the coefficients `[k]` in `f32`. Panics
/// if there are not as many as places.
pub fn cosine_sum(tape: &Tape, coefficients: &Var, frequencies: &Arc<Frequencies>, factor: f32) -> Var {
    let _span = profile::span("cosine sum", Pass::Forward);
    assert_eq!(coefficients.value.elements(), frequencies.len(), "coefficients of a sparse spectrum");
    let value = forward(&coefficients.value, frequencies, factor);
    if !tape.needs_grad(&[coefficients]) {
        return Var::constant(value);
    }
    let (coefficients, frequencies) = (coefficients.clone(), Arc::clone(frequencies));
    tape.record(value, move |grad, into| {
        let _span = profile::span("cosine sum", Pass::Backward);
        let grad = grad.to_dtype(DType::F32);
        let dc = backward(&grad, &frequencies, factor);
        into.add(&coefficients, dc.reshape(coefficients.value.shape()));
    })
}

fn forward(coefficients: &Tensor, frequencies: &Frequencies, factor: f32) -> Tensor {
    let (n, count) = (frequencies.dims[1], frequencies.rows.len());
    let c = coefficients.to_dtype(DType::F32);
    let c = c.as_slice::<f32>();
    let circle = Circle::new(n);
    let (mut real, mut imaginary) = (Tensor::zeros([count, n], DType::F32), Tensor::zeros([count, n], DType::F32));
    let out = (Rows::new(real.as_mut_slice::<f32>(), n), Rows::new(imaginary.as_mut_slice::<f32>(), n));
    for_blocks(
        count,
        n,
        out,
        #[inline(always)]
        |range, (real, imaginary): (Rows<f32>, Rows<f32>)| {
            let rows = real.data.chunks_exact_mut(n).zip(imaginary.data.chunks_exact_mut(n));
            for (row, (real, imaginary)) in range.zip(rows) {
                for number in &frequencies.rows[row].1 {
                    let (c, column) = (c[*number], frequencies.places[*number].1);
                    for (b, (real, imaginary)) in real.iter_mut().zip(imaginary.iter_mut()).enumerate() {
                        let at = b * column % n;
                        *real += c * circle.cos[at];
                        // Turned round, so that two products are added.
                        *imaginary -= c * circle.sin[at];
                    }
                }
            }
        },
    );
    let (cosines, sines) = frequencies.turns(factor);
    let mut out = matmul_nn(&cosines, &real, DType::F32);
    let other = matmul_nn(&sines, &imaginary, DType::F32);
    out.as_mut_slice::<f32>().iter_mut().zip(other.as_slice::<f32>()).for_each(|(o, v)| *o += v);
    out
}

fn backward(grad: &Tensor, frequencies: &Frequencies, factor: f32) -> Tensor {
    let n = frequencies.dims[1];
    let (cosines, sines) = frequencies.turns(factor);
    let (real, imaginary) = (matmul_tn(&cosines, grad, DType::F32), matmul_tn(&sines, grad, DType::F32));
    let (real, imaginary) = (real.as_slice::<f32>(), imaginary.as_slice::<f32>());
    let circle = Circle::new(n);
    let mut row_of = vec![0; frequencies.len()];
    for (at, (_, numbers)) in frequencies.rows.iter().enumerate() {
        numbers.iter().for_each(|number| row_of[*number] = at * n);
    }
    let mut out = Tensor::uninit([frequencies.len()], DType::F32);
    for_blocks(
        frequencies.len(),
        n,
        Rows::new(out.as_mut_slice::<f32>(), 1),
        #[inline(always)]
        |range, out: Rows<f32>| {
            for (number, out) in range.zip(out.data) {
                let (column, from) = (frequencies.places[number].1, row_of[number]);
                let sum = (0..n).map(|b| {
                    let at = b * column % n;
                    f64::from(circle.cos[at] * real[from + b] - circle.sin[at] * imaginary[from + b])
                });
                *out = sum.sum::<f64>() as f32;
            }
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};

    #[test]
    fn sums_of_cosines_match_the_reference() {
        let (m, n) = (6, 10);
        let places = vec![(0, 0), (5, 9), (2, 3), (2, 7), (4, 1)];
        let frequencies = Arc::new(Frequencies::new([m, n], places.clone()));
        let oracle = |v: &[Vec<f64>]| {
            let term = |at: usize| {
                let (a, b) = ((at / n) as f64, (at % n) as f64);
                let each = places.iter().zip(&v[0]).map(|((r, q), c)| {
                    let turns = a * *r as f64 / m as f64 + b * *q as f64 / n as f64;
                    c * (std::f64::consts::TAU * turns).cos()
                });
                0.5 * each.sum::<f64>()
            };
            vec![(0..m * n).map(term).collect()]
        };
        let op = |tape: &Tape, v: &[Var]| vec![cosine_sum(tape, &v[0], &frequencies, 0.5)];
        check(&[random([5], DType::F32, 1)], tolerance(DType::F32), op, oracle);
    }

    #[test]
    #[should_panic(expected = "a frequency at 6, 0 of [6, 10]")]
    fn a_place_outside_is_named() {
        Frequencies::new([6, 10], vec![(6, 0)]);
    }
}
