//! NF4, the 4-bit numbers of QLoRA (Dettmers et al. 2023, arXiv 2305.14314), as bitsandbytes stores them.
//!
//! Values, row after row, are taken in blocks of 64 (which may begin in one row and end in the next). A block has a scale, its
//! largest magnitude, and each value the nearest of 16 levels, the quantiles of a normal distribution within `[-1, 1]`; of two
//! equally near the lower. Two levels to a byte, the first in the high half. With *double quantisation* the scales, less their
//! mean, are themselves kept in 8 bits, in blocks of 256 with an `f32` scale each: 4.13 bits a value in all, instead of 4.5.
//!
//! Levels, codes, scales and expanded values are those of bitsandbytes to the bit (a golden test); the mean of the scales is
//! summed in `f64` and may differ in its last bit.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

/// Values that share a scale.
const BLOCK: usize = 64;
/// Scales that share a scale of their own.
const SCALES: usize = 256;
/// What a scale is held above, so that it can be divided by.
const SMALLEST: f32 = 1e-38;

/// The levels.
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A run of numbers in NF4.
pub struct Nf4 {
    values: usize,
    codes: Vec<u8>,
    scales: Scales,
}

enum Scales {
    /// One a block.
    Plain(Vec<f32>),
    /// `code[codes[b]] * largest[b / 256] + mean`.
    Double { codes: Vec<u8>, largest: Vec<f32>, mean: f32 },
}

impl Nf4 {
    /// Rounds `values`; `double` quantises the scales too.
    pub fn quantise(values: &[f32], double: bool) -> Nf4 {
        let mut codes = vec![0; values.len().div_ceil(2)];
        let mut scales = vec![0.0; values.len().div_ceil(BLOCK)];
        let blocks = values.par_chunks(BLOCK).zip(codes.par_chunks_mut(BLOCK / 2)).zip(scales.par_iter_mut());
        blocks.for_each(|((values, codes), scale)| *scale = write_block(values, codes));
        let scales = if double { doubled(&scales) } else { Scales::Plain(scales) };
        Nf4 { values: values.len(), codes, scales }
    }

    /// Whether the scales are quantised too.
    pub fn is_double(&self) -> bool {
        matches!(self.scales, Scales::Double { .. })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => 4 * scales.len(),
            Scales::Double { codes, largest, .. } => codes.len() + 4 * largest.len() + 4,
        };
        self.codes.len() + scales
    }

    /// Two levels to a byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scale of block `block`.
    pub fn scale(&self, block: usize) -> f32 {
        match &self.scales {
            Scales::Plain(scales) => scales[block],
            Scales::Double { codes, largest, mean } => {
                dynamic_code()[codes[block] as usize] * largest[block / SCALES] + mean
            }
        }
    }

    /// Expands values `range` into `out`. Panics on a range outside, and on an `out` of another length.
    pub fn expand(&self, range: Range<usize>, out: &mut [f32]) {
        assert!(
            range.end <= self.values && range.len() == out.len(),
            "{range:?} of {} into {}",
            self.values,
            out.len()
        );
        let (mut at, mut rest) = (range.start, out);
        while at < range.end {
            let block = at / BLOCK;
            let end = ((block + 1) * BLOCK).min(range.end);
            let (now, later) = rest.split_at_mut(end - at);
            self.expand_within(at..end, self.scale(block), now);
            (at, rest) = (end, later);
        }
    }

    /// The same for values of one block. Only its ends may split a byte.
    #[inline(always)]
    fn expand_within(&self, range: Range<usize>, scale: f32, out: &mut [f32]) {
        let pairs = pairs();
        let pair = |byte: usize| pairs[self.codes[byte] as usize];
        let (first, out) = out.split_at_mut(range.start % 2);
        first.iter_mut().for_each(|value| *value = pair(range.start / 2)[1] * scale);
        let codes = &self.codes[range.start.div_ceil(2)..range.end.div_ceil(2)];
        let mut twos = out.chunks_exact_mut(2);
        for (two, code) in (&mut twos).zip(codes) {
            let pair = pairs[*code as usize];
            two[0] = pair[0] * scale;
            two[1] = pair[1] * scale;
        }
        let last = twos.into_remainder();
        last.iter_mut().for_each(|value| *value = pair(range.end / 2)[0] * scale);
    }
}

/// The two levels of every byte.
fn pairs() -> &'static [[f32; 2]; 256] {
    static PAIRS: [[f32; 2]; 256] = {
        let mut pairs = [[0.0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [LEVELS[byte >> 4], LEVELS[byte & 15]];
            byte += 1;
        }
        pairs
    };
    &PAIRS
}

/// Writes the codes of one block, the last byte padded with the level of 0; its scale.
fn write_block(values: &[f32], codes: &mut [u8]) -> f32 {
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    // A whole block of zeros keeps a scale of 0 and is divided by something else, as in bitsandbytes.
    let inverse = 1.0 / largest.max(SMALLEST);
    let code = |value: f32| nearest_level((value * inverse).clamp(-1.0, 1.0));
    for (byte, two) in codes.iter_mut().zip(values.chunks(2)) {
        *byte = code(two[0]) << 4 | two.get(1).map_or(7, |value| code(*value));
    }
    largest
}

/// How many midpoints between levels lie below: of two levels equally near, the lower.
#[inline(always)]
fn nearest_level(value: f32) -> u8 {
    LEVELS.windows(2).map(|pair| u8::from((pair[0] + pair[1]) / 2.0 < value)).sum()
}

/// Scales in 8 bits.
fn doubled(scales: &[f32]) -> Scales {
    let mean = (scales.iter().map(|s| f64::from(*s)).sum::<f64>() / scales.len().max(1) as f64) as f32;
    let mut codes = Vec::with_capacity(scales.len());
    let mut largest = Vec::with_capacity(scales.len().div_ceil(SCALES));
    for block in scales.chunks(SCALES) {
        let most = block.iter().fold(0f32, |m, s| m.max((s - mean).abs()));
        largest.push(most);
        let divisor = most.max(SMALLEST);
        codes.extend(block.iter().map(|s| nearest_code((s - mean) / divisor)));
    }
    Scales::Double { codes, largest, mean }
}

/// The place in [`dynamic_code`] of the number nearest to `value`, of two the lower.
fn nearest_code(value: f32) -> u8 {
    let code = dynamic_code();
    let above = code.partition_point(|c| *c < value).clamp(1, 255);
    let below = above - 1;
    (if code[above] - value < value - code[below] { above } else { below }) as u8
}

/// The 8-bit numbers scales are kept in, ascending (Dettmers 2016, arXiv 1511.04561): a sign, a decimal exponent from 0 to −6
/// in unary, and what bits are left as a fraction, evenly from 0.1 to 1.
fn dynamic_code() -> &'static [f32; 256] {
    static CODE: OnceLock<[f32; 256]> = OnceLock::new();
    CODE.get_or_init(|| {
        let mut code = Vec::with_capacity(256);
        for exponent in 0..7 {
            let parts = 1usize << exponent;
            let power = 10f64.powi(exponent - 6) as f32;
            for part in 0..parts {
                let mean = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
                code.extend([power * mean, -power * mean]);
            }
        }
        code.extend([0.0, 1.0]);
        code.sort_by(f32::total_cmp);
        let mut out = [0.0; 256];
        out.copy_from_slice(&code);
        out
    })
}

/// The `at`-th of `parts + 1` numbers evenly from 0.1 to 1, as PyTorch's `linspace` rounds them: from the nearer end.
fn boundary(at: usize, parts: usize) -> f32 {
    let (low, high) = (0.1f32, 1f32);
    let step = (high - low) / parts as f32;
    if at < parts.div_ceil(2) { step.mul_add(at as f32, low) } else { (-step).mul_add((parts - at) as f32, high) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RandomKey;

    fn normal(n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| RandomKey::new(4).normal(i)).collect()
    }

    #[test]
    fn levels_are_fixed_points() {
        let values: Vec<f32> = LEVELS.iter().cycle().take(3 * BLOCK).map(|level| level * 0.25).collect();
        let blocks = Nf4::quantise(&values, false);
        let mut back = vec![0.0; values.len()];
        blocks.expand(0..values.len(), &mut back);
        assert_eq!(values, back);
    }

    #[test]
    fn normal_numbers_lose_as_much_as_published() {
        let values = normal(1 << 16);
        for double in [false, true] {
            let blocks = Nf4::quantise(&values, double);
            let mut back = vec![0.0; values.len()];
            blocks.expand(0..values.len(), &mut back);
            let squares: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let error = (squares / values.len() as f64).sqrt();
            assert!((0.090..0.094).contains(&error), "{error} with double = {double}");
        }
    }

    #[test]
    fn any_part_expands_as_the_whole_does() {
        let values = normal(5 * BLOCK + 7);
        let blocks = Nf4::quantise(&values, true);
        let mut whole = vec![0.0; values.len()];
        blocks.expand(0..values.len(), &mut whole);
        for range in [0..1, 1..2, 3..130, 63..65, 64..128, 100..values.len(), values.len() - 1..values.len(), 9..9] {
            let mut part = vec![0.0; range.len()];
            blocks.expand(range.clone(), &mut part);
            assert_eq!(part, whole[range.clone()], "{range:?}");
        }
    }

    #[test]
    fn doubled_scales_take_about_an_eighth_of_a_bit() {
        let values = normal(256 * BLOCK);
        let bits = |double| 8.0 * Nf4::quantise(&values, double).bytes() as f64 / values.len() as f64;
        assert_eq!(bits(false), 4.5);
        assert!((4.125..4.13).contains(&bits(true)), "{}", bits(true));
    }
}
