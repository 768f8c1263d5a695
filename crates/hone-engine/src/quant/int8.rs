//! Products of a few rows with a matrix in blocks, in 8-bit integers: what writing a text costs with a model that stays
//! quantised.
//!
//! A block of 32 weights is `w = s (u - c) + m` with whole numbers `u` in 0..256 (see [`lanes`]), and 32 activations are
//! rounded to `x = t v` with `v` in -127..=127 and `t = max|x| / 127`. So
//!
//! `y[r, n] = Σ_blocks t s Σ_k (u - c) v + m t Σ_k v`, the inner sums exact in 32-bit integers.
//!
//! It is llama.cpp's arithmetic (there the scale of the activations is a binary16). Rounding activations costs accuracy:
//! about half a per cent of a product's size where activations are even, more in a block with one that stands out. So it
//! is used only where somebody asked for it ([`crate::Weight::round_activations`]); everything else multiplies by the
//! exact values.
//!
//! The matrix is read once, from a copy in which sixteen rows lie side by side: one instruction then multiplies four
//! values of each of sixteen rows.
//!
//! **What a result depends on.** A value of `y` is one chain of additions over blocks: not on the other rows, nor on
//! threads or the instruction set.

mod lanes;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use rayon::prelude::*;

pub(crate) use lanes::Lanes;
use lanes::{Form, PANEL, Parts, WIDTH};
use rounded::{Rounded, RoundedBlock};

use crate::cpu::Level;
use crate::dtype::Element;
use crate::simd;
use crate::tensor::Tensor;

/// Most rows for which this is faster than expanding the matrix and multiplying in bf16 or `f32`.
pub(crate) const FEW: usize = 32;

/// Bytes of the matrix that are worth a thread of their own, about.
const PIECE: usize = 48 * 1024;

/// One product of [`multiply`]: rows `range` of `matrix` (it starts at a multiple of [`PANEL`]), to `y`
/// `[rows, range.len()]`.
pub(crate) struct Job<'a> {
    pub matrix: &'a Lanes,
    pub range: Range<usize>,
    pub y: &'a mut Tensor,
}

impl Job<'_> {
    fn panels(&self) -> Range<usize> {
        self.range.start / PANEL..self.range.end.div_ceil(PANEL)
    }
}

/// Panels that a thread takes, and where their sums go.
struct Piece<'a> {
    matrix: &'a Lanes,
    first: usize,
    sums: &'a mut [f32],
}

/// `x` `[rows, columns]` by several matrices: it is rounded once, and threads are called once.
pub(crate) fn multiply(level: Level, x: &Tensor, jobs: &mut [Job<'_>]) {
    let (rows, columns) = x.rows_cols();
    for Job { matrix, range, .. } in jobs.iter() {
        assert_eq!(columns, matrix.columns(), "{:?} by {matrix:?}", x.shape());
        assert!(range.start.is_multiple_of(PANEL) && range.end <= matrix.rows(), "rows {range:?} of {matrix:?}");
    }
    if rows == 0 {
        return;
    }
    let x = crate::dispatch_dtype!(x.dtype(), T => Rounded::new(x.as_slice::<T>(), columns));
    // `[panels, rows, PANEL]` of each matrix: a panel's sums lie together while they are made.
    let mut sums = vec![0f32; jobs.iter().map(|job| job.panels().len()).sum::<usize>() * rows * PANEL];
    let mut pieces = Vec::new();
    let mut rest = sums.as_mut_slice();
    for job in jobs.iter() {
        let panels = job.panels();
        let (own, others) = rest.split_at_mut(panels.len() * rows * PANEL);
        rest = others;
        let piece = (PIECE / job.matrix.panel_bytes().max(1)).max(1);
        let cut = own.chunks_mut(piece * rows * PANEL).enumerate();
        pieces.extend(cut.map(|(i, sums)| Piece { matrix: job.matrix, first: panels.start + i * piece, sums }));
    }
    pieces.into_par_iter().for_each(|piece| {
        for (i, sums) in piece.sums.chunks_exact_mut(rows * PANEL).enumerate() {
            panel_sums(level, piece.matrix, piece.first + i, &x, sums);
        }
    });
    let mut rest = sums.as_slice();
    for job in jobs {
        let n = job.range.len();
        let (own, others) = rest.split_at(job.panels().len() * rows * PANEL);
        rest = others;
        if n == 0 {
            continue;
        }
        crate::dispatch_dtype!(job.y.dtype(), T => {
            for (r, row) in job.y.as_mut_slice::<T>().chunks_exact_mut(n).enumerate() {
                for (to, sums) in row.chunks_mut(PANEL).zip(own.chunks_exact(PANEL).skip(r).step_by(rows)) {
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to = T::rounded(*sum));
                }
            }
        });
    }
}

/// All rows of `x` by one panel: `sums` `[rows, PANEL]`.
fn panel_sums(level: Level, matrix: &Lanes, panel: usize, x: &Rounded, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level <= Level::Avx512Bf16 && vnni::is_available() {
        return vnni::panel_sums(matrix, panel, x, sums);
    }
    let _ = level;
    simd::dispatch(
        #[inline(always)]
        || {
            for (r, sums) in sums.chunks_exact_mut(PANEL).enumerate() {
                plain_sums(matrix.form(), matrix.panel(panel), x, r, sums);
            }
        },
    );
}

/// One row of `x` by one panel, in plain loops: what every kernel must give.
#[inline(always)]
fn plain_sums(form: Form, panel: &[u8], x: &Rounded, row: usize, sums: &mut [f32]) {
    sums.fill(0.0);
    for (b, block) in panel.chunks_exact(form.block_bytes()).enumerate() {
        let parts = form.parts(block);
        let RoundedBlock { values, scale, sums: halves, total } = x.block(row, b);
        let centre = form.centre();
        let mut whole = [[-centre * halves[0]; PANEL], [-centre * halves[1]; PANEL]];
        for (half, whole) in whole.iter_mut().enumerate() {
            for step in 0..WIDTH / 8 {
                let values = &values[WIDTH / 2 * half + 4 * step..][..4];
                for (lane, whole) in whole.iter_mut().enumerate() {
                    for (i, v) in values.iter().enumerate() {
                        *whole += i32::from(parts.quant(half, step, 4 * lane + i)) * i32::from(*v);
                    }
                }
            }
        }
        for (lane, sum) in sums.iter_mut().enumerate() {
            let [first, second] = [whole[0][lane], whole[1][lane]];
            if form.halves {
                *sum = (first as f32).mul_add(parts.scale(0, lane) * scale, *sum);
                *sum = (second as f32).mul_add(parts.scale(1, lane) * scale, *sum);
            } else {
                *sum = ((first + second) as f32).mul_add(parts.scale(0, lane) * scale, *sum);
            }
            if form.minimum {
                *sum = parts.minimum(lane).mul_add(total, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;
    use crate::dtype::DType;
    use crate::quant::{BlockType, QuantTensor};

    const KINDS: [BlockType; 8] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
    ];

    /// Blocks of arbitrary bits whose scales are small numbers.
    fn matrix(kind: BlockType, rows: usize, columns: usize) -> QuantTensor {
        let mut state = 1u32;
        let mut bytes: Vec<u8> = (0..kind.row_bytes(columns).unwrap() * rows)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let scales: &[usize] = match kind {
            BlockType::Q6K => &[209],
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[1, 3],
            _ => &[1],
        };
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            scales.iter().for_each(|at| block[*at] = 0x30 + (block[*at] & 7));
        }
        QuantTensor::new(kind, rows, columns, bytes).unwrap()
    }

    fn activations(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 500.0).collect();
        Tensor::from_slice([rows, columns], &values)
    }

    fn one(level: Level, x: &Tensor, matrix: &Lanes, range: Range<usize>, y: &mut Tensor) {
        multiply(level, x, &mut [Job { matrix, range, y }]);
    }

    /// The definition at the top of the module, in `f64`, on activations rounded here.
    fn oracle(x: &Tensor, matrix: &QuantTensor, row: usize, column: usize) -> (f64, f64) {
        let columns = matrix.columns();
        let mut weights = vec![0f32; columns];
        matrix.dequantise_row(column, &mut weights);
        let x = &x.as_slice::<f32>()[row * columns..][..columns];
        let mut total = (0.0, 0.0);
        for (x, weights) in x.chunks_exact(32).zip(weights.chunks_exact(32)) {
            let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
            for (x, w) in x.iter().zip(weights) {
                let product = f64::from((x * (1.0 / scale)).round_ties_even() * scale) * f64::from(*w);
                total = (total.0 + product, total.1 + product.abs());
            }
        }
        total
    }

    #[test]
    fn every_type_is_what_its_definition_says_at_every_level() {
        for kind in KINDS {
            let (rows, n, columns) = (13, 37, 512);
            let matrix = matrix(kind, n, columns);
            let lanes = Lanes::new(&matrix).expect("a type with blocks");
            let x = activations(rows, columns);
            let mut out = Tensor::zeros([rows, n - 16], DType::F32);
            one(Level::Portable, &x, &lanes, 16..n, &mut out);
            for level in cpu::available() {
                let mut same = Tensor::zeros([rows, n - 16], DType::F32);
                one(*level, &x, &lanes, 16..n, &mut same);
                assert!(out.as_bytes() == same.as_bytes(), "{kind}: {} and plain loops differ", level.name());
            }
            for r in 0..rows {
                for column in 16..n {
                    let found = f64::from(out.as_slice::<f32>()[r * (n - 16) + column - 16]);
                    let (sum, size) = oracle(&x, &matrix, r, column);
                    // A minimum is added to a sum of its own size, so `f32` rounds what cancels.
                    assert!(
                        (found - sum).abs() <= 4e-6 * size,
                        "{kind}: row {r}, column {column}: {found} {sum} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn rounding_activations_costs_about_half_a_per_cent() {
        let (rows, n, columns) = (4, 64, 512);
        let matrix = matrix(BlockType::Q8_0, n, columns);
        let x = activations(rows, columns);
        let mut out = Tensor::zeros([rows, n], DType::F32);
        one(cpu::level(), &x, &Lanes::new(&matrix).unwrap(), 0..n, &mut out);
        let (mut wrong, mut right) = (0f64, 0f64);
        let mut weights = vec![0f32; columns];
        for column in 0..n {
            matrix.dequantise_row(column, &mut weights);
            for r in 0..rows {
                let x = &x.as_slice::<f32>()[r * columns..];
                let exact: f64 = x.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                wrong += (f64::from(out.as_slice::<f32>()[r * n + column]) - exact).powi(2);
                right += exact.powi(2);
            }
        }
        let share = (wrong / right).sqrt();
        assert!(share > 1e-5 && share < 0.01, "{share}");
    }

    #[test]
    fn a_row_does_not_depend_on_its_company_or_on_threads() {
        let (n, columns) = (304, 256);
        let lanes = Lanes::new(&matrix(BlockType::Q4_1, n, columns)).unwrap();
        let x = activations(11, columns);
        for dtype in [DType::F32, DType::BF16] {
            let mut together = Tensor::zeros([11, n], dtype);
            one(cpu::level(), &x, &lanes, 0..n, &mut together);
            for r in 0..11 {
                let row_alone = Tensor::from_slice([1, columns], &x.as_slice::<f32>()[r * columns..][..columns]);
                let mut alone = Tensor::zeros([1, n], dtype);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + r % 3).build().unwrap();
                pool.install(|| one(cpu::level(), &row_alone, &lanes, 0..n, &mut alone));
                let row = n * dtype.size();
                assert_eq!(alone.as_bytes(), &together.as_bytes()[r * row..][..row]);
            }
        }
    }

    #[test]
    fn several_matrices_at_once_are_each_by_itself() {
        let (first, second) = (matrix(BlockType::Q4_1, 40, 256), matrix(BlockType::Q6K, 33, 256));
        let (first, second) = (Lanes::new(&first).unwrap(), Lanes::new(&second).unwrap());
        let x = activations(3, 256);
        let zeros = |n| Tensor::zeros([3, n], DType::F32);
        let (mut a, mut b, mut c, mut d) = (zeros(40), zeros(17), zeros(40), zeros(17));
        one(cpu::level(), &x, &first, 0..40, &mut a);
        one(cpu::level(), &x, &second, 16..33, &mut b);
        let mut jobs =
            [Job { matrix: &first, range: 0..40, y: &mut c }, Job { matrix: &second, range: 16..33, y: &mut d }];
        multiply(cpu::level(), &x, &mut jobs);
        assert!(a.as_bytes() == c.as_bytes() && b.as_bytes() == d.as_bytes());
    }

    #[test]
    fn values_without_blocks_have_no_lanes() {
        let bytes = vec![0; 4 * 64 * 2];
        assert!(Lanes::new(&QuantTensor::new(BlockType::F16, 4, 64, bytes).unwrap()).is_none());
    }

    #[test]
    fn a_block_of_zeros_is_zero() {
        let lanes = Lanes::new(&matrix(BlockType::Q4_1, 16, 64)).unwrap();
        let mut out = Tensor::full([2, 16], DType::F32, f32::NAN);
        one(cpu::level(), &Tensor::zeros([2, 64], DType::F32), &lanes, 0..16, &mut out);
        assert!(out.as_slice::<f32>().iter().all(|v| *v == 0.0));
    }
}
