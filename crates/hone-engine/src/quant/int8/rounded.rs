//! Activations rounded to 8 bits, 32 at a time.

use super::lanes::WIDTH;
use crate::dtype::Element;
use crate::simd;

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
        let mut rounded = Rounded {
            columns,
            values: vec![0; x.len()],
            scales: Vec::with_capacity(blocks),
            sums: Vec::with_capacity(blocks),
            totals: Vec::with_capacity(blocks),
        };
        simd::dispatch(
            #[inline(always)]
            || {
                for (x, to) in x.chunks_exact(WIDTH).zip(rounded.values.chunks_exact_mut(WIDTH)) {
                    let mut wide = [0f32; WIDTH];
                    wide.iter_mut().zip(x).for_each(|(w, x)| *w = Element::widen(*x));
                    let mut largest = wide.map(f32::abs);
                    let mut half = WIDTH / 2;
                    while half > 0 {
                        for i in 0..half {
                            largest[i] = largest[i].max(largest[i + half]);
                        }
                        half /= 2;
                    }
                    let scale = largest[0] / 127.0;
                    // Blocks of zeros, or of numbers whose scale vanishes, stay zeros; what is not finite shows as NaN.
                    let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
                    let mut sums = [0i32; 2];
                    for ((to, wide), sum) in to.chunks_exact_mut(16).zip(wide.chunks_exact(16)).zip(&mut sums) {
                        for (to, w) in to.iter_mut().zip(wide) {
                            let whole = (w * inverse).round_ties_even() as i32;
                            *to = whole as i8;
                            *sum += whole;
                        }
                    }
                    let finite = wide.iter().fold(true, |all, w| all & w.is_finite());
                    let scale = if finite { scale } else { f32::NAN };
                    rounded.scales.push(scale);
                    rounded.sums.push(sums);
                    rounded.totals.push(scale * (sums[0] + sums[1]) as f32);
                }
            },
        );
        rounded
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
