//! A matrix of few cosines: the real part of a two-dimensional inverse Fourier transform of a sparse spectrum with real
//! coefficients (FourierFT, arXiv 2405.03003).
//!
//! `y[a, b] = f Σ_k c_k cos(2π (a r_k / m + b q_k / n))`, by fast transforms of the two axes, one after the other. A cosine is
//! the same at `(m − r, n − q)`, so every coefficient is counted at a column `q ≤ n / 2`, and only columns that hold any are
//! transformed: `U[q, a] = Σ c_k e^{2πi a r_k / m}`. Then each row, of which the real part is wanted: it is the transform of
//! `(U[q, a] + conj U[−q, a]) / 2`, so two rows go through one complex transform, one as its real part and one as its
//! imaginary part. Backward is the adjoint: rows of the output's gradient forward, two by two, then the columns that hold
//! coefficients, and `dc_k = f Re G[r_k, q_k]`.
//!
//! Which rows go together depends on the row length alone, so the bits do not depend on the number of threads. Transforms are
//! those of `rustfft` in `f32`, of any length.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftDirection, FftPlanner};

use crate::dtype::DType;
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Where the coefficients of a sparse spectrum stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frequencies {
    dims: [usize; 2],
    /// Number of coefficients.
    count: usize,
    /// The columns up to the middle that hold any, in order.
    columns: Vec<Column>,
}

/// A column of a spectrum, with what was mirrored into it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    /// Its number.
    at: usize,
    /// Its coefficients: `(row, number of the coefficient)`.
    held: Vec<(usize, usize)>,
}

impl Frequencies {
    /// Coefficients at `places` `(row, column)` of a spectrum of `dims`. Panics on a place outside.
    pub fn new(dims: [usize; 2], places: Vec<(usize, usize)>) -> Frequencies {
        let [m, n] = dims;
        let mut columns: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (number, (row, column)) in places.iter().enumerate() {
            assert!(*row < m && *column < n, "a frequency at {row}, {column} of {dims:?}");
            let (row, column) = if *column > n / 2 { ((m - row) % m, n - column) } else { (*row, *column) };
            columns.entry(column).or_default().push((row, number));
        }
        let columns = columns.into_iter().map(|(at, held)| Column { at, held }).collect();
        Frequencies { dims, count: places.len(), columns }
    }

    /// Number of coefficients.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A transform of `length` numbers; made once.
fn transform(length: usize, direction: FftDirection) -> Arc<dyn Fft<f32>> {
    static PLANNER: LazyLock<Mutex<FftPlanner<f32>>> = LazyLock::new(|| Mutex::new(FftPlanner::new()));
    PLANNER.lock().unwrap_or_else(PoisonError::into_inner).plan_fft(length, direction)
}

/// Room for `count` sequences of complex numbers and for what their transform notes down.
fn room(transform: &dyn Fft<f32>, count: usize) -> (Vec<Complex32>, Vec<Complex32>) {
    let zeros = |length| vec![Complex32::ZERO; length];
    (zeros(transform.len() * count), zeros(transform.get_inplace_scratch_len()))
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
    let ([m, n], columns) = (frequencies.dims, &frequencies.columns);
    let c = coefficients.to_dtype(DType::F32);
    let c = c.as_slice::<f32>();
    // `[columns, m]` complex numbers.
    let mut turned = Tensor::uninit([columns.len(), 2 * m], DType::F32);
    let along_columns = transform(m, FftDirection::Inverse);
    for_blocks(
        columns.len(),
        2 * m,
        Rows::new(turned.as_mut_slice::<f32>(), 2 * m),
        #[inline(always)]
        |range, out: Rows<f32>| {
            let (mut sequence, mut scratch) = room(&*along_columns, 1);
            for (column, out) in columns[range].iter().zip(out.data.chunks_exact_mut(2 * m)) {
                sequence.fill(Complex32::ZERO);
                for (row, number) in &column.held {
                    // Half of the factor, for the halves the rows are made of.
                    sequence[*row].re += 0.5 * factor * c[*number];
                }
                along_columns.process_with_scratch(&mut sequence, &mut scratch);
                for (out, value) in out.chunks_exact_mut(2).zip(&sequence) {
                    out.copy_from_slice(&[value.re, value.im]);
                }
            }
        },
    );
    let turned = turned.as_slice::<f32>();
    let mut out = Tensor::uninit([m, n], DType::F32);
    let along_rows = transform(n, FftDirection::Inverse);
    for_blocks(
        m,
        n,
        Rows::new(out.as_mut_slice::<f32>(), n),
        #[inline(always)]
        |range, out: Rows<f32>| {
            let (mut pairs, mut scratch) = room(&*along_rows, range.len().div_ceil(2));
            // Row by row of `turned`, of which it takes a run.
            for (column, from) in columns.iter().zip(turned.chunks_exact(2 * m)) {
                let values = from[2 * range.start..2 * range.end].chunks(4);
                for (value, pair) in values.zip(pairs.chunks_exact_mut(n)) {
                    let first = Complex32::new(value[0], value[1]);
                    let second = value.get(2..4).map_or(Complex32::ZERO, |v| Complex32::new(v[0], v[1]));
                    pair[column.at] += first + Complex32::new(-second.im, second.re);
                    pair[(n - column.at) % n] += first.conj() + Complex32::new(second.im, second.re);
                }
            }
            along_rows.process_with_scratch(&mut pairs, &mut scratch);
            for (pair, rows) in pairs.chunks_exact(n).zip(out.data.chunks_mut(2 * n)) {
                let (first, second) = rows.split_at_mut(n);
                first.iter_mut().zip(pair).for_each(|(out, value)| *out = value.re);
                second.iter_mut().zip(pair).for_each(|(out, value)| *out = value.im);
            }
        },
    );
    out
}

fn backward(grad: &Tensor, frequencies: &Frequencies, factor: f32) -> Tensor {
    let ([m, n], columns) = (frequencies.dims, &frequencies.columns);
    let (grad, width) = (grad.as_slice::<f32>(), 2 * columns.len());
    if columns.is_empty() {
        return Tensor::zeros([0], DType::F32);
    }
    // `[m, columns]` complex numbers.
    let mut turned = Tensor::uninit([m, width], DType::F32);
    let along_rows = transform(n, FftDirection::Forward);
    for_blocks(
        m,
        n,
        Rows::new(turned.as_mut_slice::<f32>(), width),
        #[inline(always)]
        |range, out: Rows<f32>| {
            let (mut pair, mut scratch) = room(&*along_rows, 1);
            let rows = grad[range.start * n..range.end * n].chunks(2 * n);
            for (rows, out) in rows.zip(out.data.chunks_mut(2 * width)) {
                let (first, second) = rows.split_at(n);
                pair.iter_mut().zip(first).for_each(|(pair, value)| *pair = Complex32::new(*value, 0.0));
                pair.iter_mut().zip(second).for_each(|(pair, value)| pair.im = *value);
                along_rows.process_with_scratch(&mut pair, &mut scratch);
                let (first, second) = out.split_at_mut(width);
                // Twice the two transforms, from their sum `first + i second` at a place and at the opposite one.
                let both = |column: &Column| (pair[column.at], pair[(n - column.at) % n].conj());
                for (out, column) in first.chunks_exact_mut(2).zip(columns) {
                    let (here, there) = both(column);
                    out.copy_from_slice(&[here.re + there.re, here.im + there.im]);
                }
                for (out, column) in second.chunks_exact_mut(2).zip(columns) {
                    let (here, there) = both(column);
                    out.copy_from_slice(&[here.im - there.im, there.re - here.re]);
                }
            }
        },
    );
    let turned = turned.as_slice::<f32>();
    // The real parts of whole columns, of which the coefficients' places are read.
    let mut spectrum = Tensor::uninit([columns.len(), m], DType::F32);
    let along_columns = transform(m, FftDirection::Forward);
    for_blocks(
        columns.len(),
        m,
        Rows::new(spectrum.as_mut_slice::<f32>(), m),
        #[inline(always)]
        |range, out: Rows<f32>| {
            let (mut sequences, mut scratch) = room(&*along_columns, range.len());
            for (row, from) in turned.chunks_exact(width).enumerate() {
                let values = from[2 * range.start..2 * range.end].chunks_exact(2);
                for (value, sequence) in values.zip(sequences.chunks_exact_mut(m)) {
                    sequence[row] = Complex32::new(value[0], value[1]);
                }
            }
            along_columns.process_with_scratch(&mut sequences, &mut scratch);
            out.data.iter_mut().zip(&sequences).for_each(|(out, value)| *out = 0.5 * factor * value.re);
        },
    );
    let spectrum = spectrum.as_slice::<f32>();
    let mut out = Tensor::uninit([frequencies.len()], DType::F32);
    let gradients = out.as_mut_slice::<f32>();
    for (column, values) in columns.iter().zip(spectrum.chunks_exact(m)) {
        column.held.iter().for_each(|(row, number)| gradients[*number] = values[*row]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{assert_close, check, random, tolerance, wide};

    /// The sum as it is written, in `f64`.
    fn sum([m, n]: [usize; 2], places: &[(usize, usize)], c: &[f64], factor: f64) -> Vec<f64> {
        let circle = |length: usize, at: usize| (at % length) as f64 / length as f64;
        let term = |at: usize| {
            let (a, b) = (at / n, at % n);
            let each = places.iter().zip(c).map(|((r, q), c)| {
                let turns = circle(m, a * r) + circle(n, b * q);
                c * (std::f64::consts::TAU * turns).cos()
            });
            factor * each.sum::<f64>()
        };
        (0..m * n).map(term).collect()
    }

    #[test]
    fn sums_of_cosines_match_the_reference() {
        // Even and odd lengths, primes, one row, one column; the first and the middle row and column, and places that mirror
        // each other.
        let all = |m: usize, n: usize| (0..m * n).map(|at| (at / n, at % n)).collect::<Vec<_>>();
        let cases = [
            ([6, 10], vec![(0, 0), (5, 9), (2, 3), (2, 7), (4, 1)]),
            ([7, 9], vec![(6, 8), (1, 1), (0, 4), (3, 5), (0, 5)]),
            ([5, 4], all(5, 4)),
            ([4, 6], vec![(3, 0), (1, 0), (2, 3), (0, 3), (1, 3), (3, 3)]),
            ([1, 13], vec![(0, 12), (0, 1), (0, 6)]),
            ([11, 1], vec![(10, 0), (3, 0)]),
            ([31, 2], vec![(30, 1), (15, 1), (4, 0)]),
        ];
        for (dims, places) in cases {
            let frequencies = Arc::new(Frequencies::new(dims, places.clone()));
            let oracle = |v: &[Vec<f64>]| vec![sum(dims, &places, &v[0], 0.5)];
            let op = |tape: &Tape, v: &[Var]| vec![cosine_sum(tape, &v[0], &frequencies, 0.5)];
            check(&[random([places.len()], DType::F32, 1)], tolerance(DType::F32), op, oracle);
        }
    }

    /// Many blocks of rows and of columns, with a last row that has no other to go with.
    #[test]
    fn maps_of_many_blocks_match_sums_and_do_not_depend_on_threads() {
        let (dims, count) = ([193, 577], 90);
        let places: Vec<_> = (0..count).map(|k| (k * 37 % dims[0], k * 211 % dims[1])).collect();
        let frequencies = Frequencies::new(dims, places.clone());
        let (c, grad) = (random([count], DType::F32, 2), random(dims, DType::F32, 3));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (forward(&c, &frequencies, 0.1), backward(&grad, &frequencies, 0.1)))
        };
        let (value, gradient) = run(1);
        assert_close("map", &wide(&value), &sum(dims, &places, &wide(&c), 0.1), tolerance(DType::F32));
        let grad = wide(&grad);
        let each = (0..count).map(|k| {
            let one = sum(dims, &places[k..=k], &[1.0], 0.1);
            one.iter().zip(&grad).map(|(y, g)| y * g).sum::<f64>()
        });
        assert_close("gradient", &wide(&gradient), &each.collect::<Vec<_>>(), tolerance(DType::F32));
        let (again, gradient_again) = run(3);
        assert_eq!((again.to_vec_f32(), gradient_again.to_vec_f32()), (value.to_vec_f32(), gradient.to_vec_f32()));
    }

    #[test]
    fn no_coefficients_make_zeros() {
        let none = Frequencies::new([3, 4], Vec::new());
        assert_eq!(forward(&Tensor::zeros([0], DType::F32), &none, 1.0).to_vec_f32(), [0.0; 12]);
        assert_eq!(backward(&Tensor::full([3, 4], DType::F32, 1.0), &none, 1.0).elements(), 0);
    }

    #[test]
    #[should_panic(expected = "a frequency at 6, 0 of [6, 10]")]
    fn a_place_outside_is_named() {
        Frequencies::new([6, 10], vec![(6, 0)]);
    }
}
