//! Activations rounded to 8 bits, 32 at a time.

use rayon::prelude::*;

use super::lanes::WIDTH;
use crate::dtype::Element;
use crate::simd;

/// Rows that are worth a thread.
const ROWS: usize = 4;
/// `1.5 * 2^23`: adding it rounds a small `f32` to the nearest integer and leaves that in the low bits.
const NEAREST: f32 = 12_582_912.0;

/// One row: its values, and of each block the scale, the sums of its halves and its total.
#[inline(always)]
fn round_row<T: Element>(x: &[T], values: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]], totals: &mut [f32]) {
    let blocks = x.chunks_exact(WIDTH).zip(values.chunks_exact_mut(WIDTH));
    let numbers = scales.iter_mut().zip(sums).zip(totals);
    for ((x, values), ((scale, sums), total)) in blocks.zip(numbers) {
        let mut wide = [0f32; WIDTH];
        let mut largest = [0f32; WIDTH];
        let mut finite = [true; WIDTH];
        for i in 0..WIDTH {
            wide[i] = x[i].widen();
            largest[i] = wide[i].abs();
            finite[i] = largest[i] < f32::INFINITY;
        }
        let mut half = WIDTH / 2;
        while half > 0 {
            for i in 0..half {
                largest[i] = if largest[i] > largest[i + half] { largest[i] } else { largest[i + half] };
                finite[i] &= finite[i + half];
            }
            half /= 2;
        }
        let step = largest[0] / 127.0;
        // Blocks of zeros, or of numbers whose scale vanishes, stay zeros; what is not finite shows as NaN.
        let inverse = if finite[0] && step >= f32::MIN_POSITIVE { 1.0 / step } else { 0.0 };
        let mut whole = [0i32; WIDTH];
        for i in 0..WIDTH {
            let product = if finite[0] { wide[i] * inverse } else { 0.0 };
            whole[i] = (product + NEAREST).to_bits() as i32 - NEAREST.to_bits() as i32;
            values[i] = whole[i] as i8;
        }
        *sums = [whole[..WIDTH / 2].iter().sum(), whole[WIDTH / 2..].iter().sum()];
        *scale = if finite[0] { step } else { f32::NAN };
        *total = *scale * (sums[0] + sums[1]) as f32;
    }
}

/// Rows of activations: `x = t v` with one `t` for each [`WIDTH`] values.
pub(super) struct Rounded {
    columns: usize,
    /// `[rows, columns]`, in -127..=127.
    values: Vec<i8>,
    /// `[rows, blocks]`.
    scales: Vec<f32>,
    /// `[rows, blocks, 2]`: sums of the values of either half of a block.
    sums: Vec<[i32; 2]>,
    /// `[rows, blocks]`: `t Σ v`.
    totals: Vec<f32>,
}

impl Rounded {
    /// `x` `[rows, columns]`, `columns` a multiple of [`WIDTH`].
    pub(super) fn new<T: Element>(x: &[T], columns: usize) -> Rounded {
        let blocks = x.len() / WIDTH;
        let (mut values, mut scales) = (vec![0; x.len()], vec![0.0; blocks]);
        let (mut sums, mut totals) = (vec![[0; 2]; blocks], vec![0.0; blocks]);
        let row = columns / WIDTH;
        x.par_chunks_exact(columns)
            .zip(values.par_chunks_exact_mut(columns))
            .zip(scales.par_chunks_exact_mut(row).zip(sums.par_chunks_exact_mut(row)))
            .zip(totals.par_chunks_exact_mut(row))
            .with_min_len(ROWS)
            .for_each(|(((x, values), (scales, sums)), totals)| {
                simd::dispatch(
                    #[inline(always)]
                    || round_row(x, values, scales, sums, totals),
                );
            });
        Rounded { columns, values, scales, sums, totals }
    }

    /// Number of rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Block `block` of row `row`.
    #[inline(always)]
    pub(super) fn block(&self, row: usize, block: usize) -> RoundedBlock<'_> {
        let at = row * (self.columns / WIDTH) + block;
        let values = &self.values[at * WIDTH..][..WIDTH];
        RoundedBlock { values, scale: self.scales[at], sums: self.sums[at], total: self.totals[at] }
    }

    /// Pointers to the first block of row `row`.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn row(&self, row: usize) -> RowPointers {
        let at = row * (self.columns / WIDTH);
        RowPointers {
            values: self.values[at * WIDTH..].as_ptr(),
            scales: self.scales[at..].as_ptr(),
            sums: self.sums[at..].as_ptr(),
            totals: self.totals[at..].as_ptr(),
        }
    }
}

/// 32 activations.
pub(super) struct RoundedBlock<'a> {
    pub values: &'a [i8],
    /// `t`.
    pub scale: f32,
    /// Sums of the values of either half.
    pub sums: [i32; 2],
    /// `t Σ v`.
    pub total: f32,
}

/// Where a row's blocks lie, for kernels.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct RowPointers {
    pub values: *const i8,
    pub scales: *const f32,
    pub sums: *const [i32; 2],
    pub totals: *const f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_half_a_step() {
        let x: Vec<f32> = (0..96).map(|i| ((i * 37 % 61) as f32 - 30.0) * (1.0 + (i / 32) as f32 * 100.0)).collect();
        let rounded = Rounded::new(&x, 48 * 2);
        for (b, x) in x.chunks_exact(WIDTH).enumerate() {
            let RoundedBlock { values, scale, sums, total } = rounded.block(0, b);
            for (v, x) in values.iter().zip(x) {
                assert!((f32::from(*v) * scale - x).abs() <= scale * 0.501, "{v} {scale} {x}");
            }
            let half = |i: usize| values[16 * i..][..16].iter().map(|v| i32::from(*v)).sum::<i32>();
            assert_eq!(sums, [half(0), half(1)]);
            assert_eq!(total, scale * (half(0) + half(1)) as f32);
            assert!(values.iter().any(|v| v.abs() == 127));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1f32; 64];
            x[5] = bad;
            let rounded = Rounded::new(&x, 64);
            assert!(rounded.block(0, 0).scale.is_nan() && rounded.block(0, 1).scale == 1.0 / 127.0);
        }
    }
}
