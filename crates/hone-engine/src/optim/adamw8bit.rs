//! AdamW with its two moments in 8 bits (Dettmers, Lewis, Shleifer and Zettlemoyer 2022, *8-bit Optimizers via Block-wise
//! Quantization*, arXiv 2110.02861): a quarter of the optimiser's memory.
//!
//! A moment is cut into blocks of 256 values. A block keeps its largest magnitude in `f32`, and of each value the number of
//! the nearest of 256 values between -1 and 1 (0 and 1 for squares), those of the paper's *dynamic tree*, as
//! `bitsandbytes` has them: seven decades, the upper ones divided more finely (64 steps in the highest, 128 for squares).
//! An update expands a block, does to it what [`AdamW`] does, moves the parameters by the exact new moments, and rounds the
//! moments again. The parameters themselves stay `f32`.
//!
//! One thing is kept apart from the paper: a square that is not zero is never rounded to zero, since dividing by it would
//! make a step without bound.
//!
//! Rounding is deterministic, so a run continued from a checkpoint is the run that was interrupted, to the bit.

use super::AdamW;
use crate::parallel::{Rows, for_blocks};

/// Values that share a scale.
pub const BLOCK: usize = 256;
/// Powers of ten the codes span.
const DECADES: usize = 7;
/// Number of the code for 0 where there are signs; negative values lie below it.
const SIGNED_ZERO: f32 = 127.0;

/// What 8-bit AdamW remembers of a parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adam8State {
    /// Mean of gradients: codes, one an element.
    pub m: Vec<u8>,
    /// Mean of squared gradients: codes.
    pub v: Vec<u8>,
    /// What codes of `m` are multiplied with, one a block.
    pub m_scales: Vec<f32>,
    /// The same for `v`.
    pub v_scales: Vec<f32>,
    /// Updates so far.
    pub step: u64,
}

impl Adam8State {
    /// The state of a parameter of `elements` elements before its first update.
    pub fn new(elements: usize) -> Adam8State {
        let blocks = elements.div_ceil(BLOCK);
        Adam8State {
            m: vec![byte(SIGNED_ZERO); elements],
            v: vec![0; elements],
            m_scales: vec![0.0; blocks],
            v_scales: vec![0.0; blocks],
            step: 0,
        }
    }

    /// Bytes of a parameter's state.
    pub fn bytes(elements: usize) -> usize {
        2 * elements + 2 * elements.div_ceil(BLOCK) * size_of::<f32>()
    }
}

impl AdamW {
    /// [`AdamW::update`] with moments in 8 bits. Panics on lengths that differ.
    pub fn update_8bit(
        &self,
        learning_rate: f64,
        gradient_scale: f32,
        param: &mut [f32],
        gradient: &[f32],
        state: &mut Adam8State,
    ) {
        let n = param.len();
        assert!(gradient.len() == n && state.m.len() == n && state.v.len() == n, "AdamW over slices of other lengths");
        state.step += 1;
        let factors = self.factors(learning_rate, state.step);
        let blocks = n.div_ceil(BLOCK);
        let codes = (Rows::new(&mut state.m, BLOCK), Rows::new(&mut state.v, BLOCK));
        let scales = (Rows::new(&mut state.m_scales, 1), Rows::new(&mut state.v_scales, 1));
        for_blocks(
            blocks,
            BLOCK,
            (Rows::new(param, BLOCK), (codes, scales)),
            #[inline(always)]
            |range, (param, (codes, scales)): (Rows<f32>, ((Rows<u8>, Rows<u8>), (Rows<f32>, Rows<f32>)))| {
                let gradient = &gradient[range.start * BLOCK..(range.end * BLOCK).min(n)];
                let scales = scales.0.data.iter_mut().zip(scales.1.data);
                let codes = codes.0.data.chunks_mut(BLOCK).zip(codes.1.data.chunks_mut(BLOCK));
                let values = param.data.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
                for (((p, g), (m_codes, v_codes)), (m_scale, v_scale)) in values.zip(codes).zip(scales) {
                    let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
                    let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
                    m.iter_mut().zip(&*m_codes).for_each(|(m, code)| *m = SIGNED.values[*code as usize] * *m_scale);
                    v.iter_mut().zip(&*v_codes).for_each(|(v, code)| *v = SQUARES.values[*code as usize] * *v_scale);
                    let moments = m.iter_mut().zip(v.iter_mut());
                    p.iter_mut().zip(moments).zip(g).for_each(|((p, (m, v)), g)| {
                        factors.step(p, m, v, g * gradient_scale);
                    });
                    *m_scale = largest(m);
                    *v_scale = largest(v);
                    let inverse = inverse(*m_scale);
                    m_codes.iter_mut().zip(&*m).for_each(|(code, m)| *code = signed_code(*m * inverse));
                    let inverse = self::inverse(*v_scale);
                    v_codes.iter_mut().zip(&*v).for_each(|(code, v)| *code = square_code(*v * inverse));
                }
            },
        );
    }
}

/// The largest magnitude; NaN does not show in it, but stays in the parameter it has reached.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane = if v.abs() > *lane { v.abs() } else { *lane });
    }
    let rest = chunks.remainder().iter().map(|v| v.abs());
    lanes.into_iter().chain(rest).fold(0.0, |largest, v| if v > largest { v } else { largest })
}

/// What brings a block to at most 1.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

/// The nearest code of a value between -1 and 1.
#[inline(always)]
fn signed_code(x: f32) -> u8 {
    let rank = SIGNED.rank(x.abs());
    // There is no code for -1.
    let most = SIGNED.ones - 1.0;
    let below = if rank < most { rank } else { most };
    byte(if x < 0.0 { SIGNED_ZERO - below } else { SIGNED_ZERO + rank })
}

/// The nearest code of a value between 0 and 1, 0 for none but 0.
#[inline(always)]
fn square_code(x: f32) -> u8 {
    let rank = SQUARES.rank(x);
    let least = if rank > 1.0 { rank } else { 1.0 };
    byte(if x > 0.0 { least } else { rank })
}

/// A whole number between 0 and 255. Added to 2²³, it stands in the lowest bits: a conversion that saturates, as `as` does, is
/// not made for many values at once.
#[inline(always)]
fn byte(whole: f32) -> u8 {
    (whole + 8_388_608.0).to_bits() as u8
}

/// The magnitudes that have a code, in order: 0, then decade by decade the middles of `cells · 2^decade` equal parts of
/// `0.1 … 1` times `10^(decade - 6)`, then 1.
struct Codes {
    /// By code.
    values: [f32; 256],
    /// Magnitudes from which on a decade's codes are the nearest.
    starts: [f32; DECADES],
    /// A magnitude `a` of a decade has rank `a · slope + offset`, rounded down.
    slopes: [f32; DECADES],
    offsets: [f32; DECADES],
    /// Lowest rank of a decade.
    first: [f32; DECADES],
    /// From here on the nearest is 1.
    top: f32,
    /// The rank of 1.
    ones: f32,
}

static SIGNED: Codes = Codes::new(1, true);
static SQUARES: Codes = Codes::new(2, false);

impl Codes {
    const fn new(cells: usize, signed: bool) -> Codes {
        let mut codes = Codes {
            values: [0.0; 256],
            starts: [0.0; DECADES],
            slopes: [0.0; DECADES],
            offsets: [0.0; DECADES],
            first: [0.0; DECADES],
            top: 0.0,
            ones: 0.0,
        };
        let zero = if signed { SIGNED_ZERO as usize } else { 0 };
        let (mut decade, mut rank, mut below) = (0, 1, 0.0f64);
        let mut power = 1e-6f64;
        while decade < DECADES {
            let parts = cells << decade;
            let width = 0.9 * power / parts as f64;
            let lowest = 0.1 * power + 0.5 * width;
            codes.starts[decade] = (0.5 * (below + lowest)) as f32;
            codes.slopes[decade] = (1.0 / width) as f32;
            codes.offsets[decade] = (rank as f64 - 0.1 * power / width) as f32;
            codes.first[decade] = rank as f32;
            let mut part = 0;
            while part < parts {
                below = lowest + part as f64 * width;
                codes.values[zero + rank] = below as f32;
                if signed {
                    codes.values[zero - rank] = -below as f32;
                }
                (part, rank) = (part + 1, rank + 1);
            }
            (decade, power) = (decade + 1, power * 10.0);
        }
        codes.values[zero + rank] = 1.0;
        codes.top = (0.5 * (below + 1.0)) as f32;
        codes.ones = rank as f32;
        codes
    }

    /// The rank of the nearest magnitude, a whole number (0 for NaN). Selections instead of branches, and nothing but `f32`,
    /// so that it is made for many values at once.
    #[inline(always)]
    fn rank(&self, a: f32) -> f32 {
        let (mut slope, mut offset) = (self.slopes[0], self.offsets[0]);
        let (mut first, mut last) = (self.first[0], self.first[1] - 1.0);
        for decade in 1..DECADES {
            let end = if decade + 1 < DECADES { self.first[decade + 1] } else { self.ones };
            let here = a >= self.starts[decade];
            slope = if here { self.slopes[decade] } else { slope };
            offset = if here { self.offsets[decade] } else { offset };
            first = if here { self.first[decade] } else { first };
            last = if here { end - 1.0 } else { last };
        }
        let rank = a.mul_add(slope, offset).floor();
        let rank = if rank > first { rank } else { first };
        let rank = if rank < last { rank } else { last };
        let rank = if a >= self.starts[0] { rank } else { 0.0 };
        if a >= self.top { self.ones } else { rank }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::optim::AdamState;
    use crate::random::RandomKey;

    /// `tools/golden/adamw8bit.py`.
    #[test]
    fn codes_are_those_of_bitsandbytes() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/adamw8bit.json")).unwrap();
        let numbers = |value: &Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        assert_eq!(golden["block"].as_u64(), Some(BLOCK as u64));
        type Code = fn(f32) -> u8;
        for (name, map, code) in [("signed", &SIGNED, signed_code as Code), ("squares", &SQUARES, square_code as Code)]
        {
            let case = &golden[name];
            for (ours, theirs) in map.values.iter().zip(numbers(&case["codes"])) {
                assert!((ours - theirs).abs() <= 2e-7 * theirs.abs(), "{name}: {ours} and {theirs}");
            }
            let (values, scales) = (numbers(&case["values"]), numbers(&case["scales"]));
            let (found, read_back) = (numbers(&case["found"]), numbers(&case["read_back"]));
            for (i, block) in values.chunks(BLOCK).enumerate() {
                assert_eq!(largest(block), scales[i]);
                for (j, value) in block.iter().enumerate() {
                    let (at, x) = (i * BLOCK + j, *value * inverse(scales[i]));
                    let (ours, theirs) = (code(x), found[at] as u8);
                    let back = map.values[theirs as usize] * scales[i];
                    assert!((back - read_back[at]).abs() <= 1e-6 * back.abs(), "{back} and {}", read_back[at]);
                    if x.abs() >= 0.01 {
                        assert_eq!(ours, theirs, "{name}: {x}");
                        continue;
                    }
                    // On a processor the package looks small values up in a coarse table: not always the nearest code.
                    let off = |code: u8| (map.values[code as usize] - x).abs();
                    let raised = name == "squares" && ours == 1;
                    assert!(raised || off(ours) <= off(theirs) + 1e-9, "{name}: {x}: {ours} and {theirs}");
                }
            }
        }
    }

    /// The nearest of all codes, looked for one by one.
    fn nearest(values: &[f32], x: f64) -> f64 {
        values.iter().map(|v| (*v as f64 - x).abs()).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn codes_are_the_nearest_and_hold_themselves() {
        assert!(SIGNED.values.is_sorted() && SQUARES.values.is_sorted());
        for code in 0..=255u8 {
            assert_eq!(signed_code(SIGNED.values[code as usize]), code);
            assert_eq!(square_code(SQUARES.values[code as usize]), code);
        }
        let key = RandomKey::new(3);
        for i in 0..200_000u64 {
            // All decades, and beyond the lowest.
            let x = (10f64.powf(-8.0 * key.uniform(2 * i) as f64)) as f32;
            let signed = if key.uniform(2 * i + 1) < 0.5 { -x } else { x };
            let off = (SIGNED.values[signed_code(signed) as usize] as f64 - signed as f64).abs();
            assert!(off <= nearest(&SIGNED.values, signed as f64) * (1.0 + 1e-4) + 1e-9, "{signed}: {off}");
            let off = (SQUARES.values[square_code(x) as usize] as f64 - x as f64).abs();
            // What would be zero is the smallest there is.
            let want = nearest(&SQUARES.values[1..], x as f64);
            assert!(off <= want * (1.0 + 1e-4) + 1e-9, "{x}: {off}, {want}");
        }
        assert_eq!((signed_code(0.0), signed_code(-0.0), square_code(0.0)), (127, 127, 0));
        assert_eq!(square_code(1e-30), 1);
        assert_eq!((signed_code(1.0), signed_code(-1.0), square_code(1.0)), (255, 0, 255));
    }

    /// Gradients of a quadratic bowl with noise, and how far each optimiser comes.
    fn descend(n: usize, steps: u64, mut update: impl FnMut(&mut [f32], &[f32])) -> (Vec<f32>, f64) {
        let key = RandomKey::new(11);
        let mut param: Vec<f32> = (0..n as u64).map(|i| key.normal(i)).collect();
        for step in 0..steps {
            let noise = key.index(step);
            // Curvatures over three powers of ten, as those of different matrices.
            let gradient: Vec<f32> = (param.iter().enumerate())
                .map(|(i, p)| 10f32.powi((i / BLOCK) as i32 % 4 - 3) * (p + 0.1 * noise.normal(i as u64)))
                .collect();
            update(&mut param, &gradient);
        }
        let loss =
            param.iter().enumerate().map(|(i, p)| 10f64.powi((i / BLOCK) as i32 % 4 - 3) * (*p as f64).powi(2)).sum();
        (param, loss)
    }

    #[test]
    fn it_descends_as_the_exact_one_does() {
        let rule = AdamW { weight_decay: 0.01, ..AdamW::default() };
        // The last block is not whole.
        let n = 5 * BLOCK + 77;
        let (mut exact, mut rounded) = (AdamState::new(n), Adam8State::new(n));
        let (a, exact_loss) = descend(n, 300, |p, g| rule.update(3e-3, 0.5, p, g, &mut exact));
        let (b, rounded_loss) = descend(n, 300, |p, g| rule.update_8bit(3e-3, 0.5, p, g, &mut rounded));
        let (_, start) = descend(n, 0, |_, _| {});
        assert!(exact_loss < 0.3 * start, "{start} to {exact_loss}");
        // Rounding to the nearest code swallows small changes of the squares, which slows it by some per cent here.
        assert!((rounded_loss - exact_loss).abs() < 0.1 * exact_loss, "{exact_loss} and {rounded_loss}");
        let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 0.1, "parameters {far} apart");
        assert!(far > 0.0, "moments in 8 bits cannot be the exact ones");
    }

    #[test]
    fn the_first_step_is_the_exact_one_and_threads_do_not_show() {
        let rule = AdamW::default();
        let n = 40 * BLOCK + 3;
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut state = Adam8State::new(n);
            (pool.install(|| descend(n, 3, |p, g| rule.update_8bit(1e-2, 1.0, p, g, &mut state)).0), state)
        };
        assert!(run(1) == run(3));
        let (mut exact, mut rounded) = (AdamState::new(n), Adam8State::new(n));
        let (a, _) = descend(n, 1, |p, g| rule.update(1e-2, 1.0, p, g, &mut exact));
        let (b, _) = descend(n, 1, |p, g| rule.update_8bit(1e-2, 1.0, p, g, &mut rounded));
        assert_eq!(a, b);
    }

    #[test]
    fn parameters_without_a_gradient_stay_and_tiny_squares_make_no_leap() {
        let rule = AdamW::default();
        let mut state = Adam8State::new(2 * BLOCK);
        let mut param = vec![1.0f32; 2 * BLOCK];
        let mut gradient = vec![0.0f32; 2 * BLOCK];
        rule.update_8bit(1e-2, 1.0, &mut param, &gradient, &mut state);
        assert!(param.iter().all(|p| *p == 1.0));
        // A value whose square is far below its block's largest.
        (gradient[0], gradient[1]) = (1.0, 1e-5);
        rule.update_8bit(1e-2, 1.0, &mut param, &gradient, &mut state);
        let before = param[1];
        gradient.fill(0.0);
        rule.update_8bit(1e-2, 1.0, &mut param, &gradient, &mut state);
        assert!((param[1] - before).abs() <= 1e-2, "{before} to {}", param[1]);
    }

    #[test]
    fn a_block_of_not_a_number_shows_in_the_parameter() {
        let mut state = Adam8State::new(3);
        let mut param = [1.0f32; 3];
        AdamW::default().update_8bit(1e-2, 1.0, &mut param, &[0.5, f32::NAN, 0.5], &mut state);
        assert!(param[1].is_nan() && param[0].is_finite());
    }
}
