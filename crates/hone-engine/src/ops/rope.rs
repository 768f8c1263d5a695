//! Rotary position embedding (arXiv 2104.09864), half-rotation layout of Hugging Face: within a head of width `d`, entry
//! `i < d/2` turns with entry `i + d/2` by the angle `position * inverse_frequency[i]`:
//!
//! `y[i] = x[i] cos - x[i + d/2] sin`, `y[i + d/2] = x[i + d/2] cos + x[i] sin`.
//!
//! Cosines and sines depend on positions only, so they are made once a forward pass ([`RopeTable::angles`]) and handed
//! to every layer. They are computed as `transformers` does: angle, cosine and sine in `f32`, times the attention
//! factor, rounded to the compute type. Products and sums are `f32`, rounded once.

use rayon::prelude::*;

use crate::dtype::{DType, Element};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Elements a parallel task turns at least, so that small inputs stay on one thread.
const TASK_ELEMENTS: usize = 1 << 15;

/// Inverse frequencies, which carry all scaling schemes.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// `[d/2]` inverse frequencies. Fewer than half a head's width: only the head's first `2 * len` entries turn.
    pub inverse_frequencies: Vec<f32>,
    /// Factor on cosines and sines (YaRN's attention factor); 1 elsewhere.
    pub attention_factor: f32,
}

/// Cosines and sines of a batch's positions; cheap to clone.
#[derive(Clone, Debug)]
pub struct RopeAngles {
    /// `[tokens, d/2]`, `f32` values representable in the compute type.
    cos: Tensor,
    /// Like `cos`.
    sin: Tensor,
}

impl RopeTable {
    /// Cosines and sines for `positions` (one a token), rounded to `dtype`, the type of what will be turned.
    pub fn angles(&self, positions: &[u32], dtype: DType) -> RopeAngles {
        let half = self.inverse_frequencies.len();
        let mut cos = Tensor::uninit([positions.len(), half], DType::F32);
        let mut sin = Tensor::uninit([positions.len(), half], DType::F32);
        let round = |v: f32| match dtype {
            DType::F32 => v,
            DType::BF16 => Element::widen(<half::bf16 as Element>::rounded(v)),
        };
        let rows = cos.as_mut_slice::<f32>().par_chunks_mut(half.max(1));
        rows.zip(sin.as_mut_slice::<f32>().par_chunks_mut(half.max(1))).zip(positions).for_each(
            |((cos, sin), &position)| {
                for (i, &frequency) in self.inverse_frequencies.iter().enumerate() {
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    cos[i] = round(c * self.attention_factor);
                    sin[i] = round(s * self.attention_factor);
                }
            },
        );
        RopeAngles { cos, sin }
    }
}

/// Turns `x` `[tokens, heads * head_dim]` by the tokens' angles. Backward turns back.
///
/// Panics if `angles` is for another number of tokens or for wider heads.
pub fn rope(tape: &Tape, x: &Var, head_dim: usize, angles: &RopeAngles) -> Var {
    let _span = profile::span("rope", Pass::Forward);
    let value = turn(&x.value, head_dim, angles, 1.0);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let (x, angles) = (x.clone(), angles.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("rope", Pass::Backward);
        let dx = turn(&grad, head_dim, &angles, -1.0);
        into.add(&x, dx);
    })
}

/// `direction` 1 turns by the angles, -1 by the negative angles.
fn turn(x: &Tensor, head_dim: usize, angles: &RopeAngles, direction: f32) -> Tensor {
    let (tokens, width) = x.rows_cols();
    let half = angles.cos.dim(1);
    assert_eq!(angles.cos.dim(0), tokens, "rope: angles of {} tokens for {tokens} rows", angles.cos.dim(0));
    assert!(2 * half <= head_dim, "rope: {half} frequencies turn {} entries, a head has {head_dim}", 2 * half);
    assert!(head_dim > 0 && width % head_dim == 0, "rope: width {width} is no multiple of head_dim {head_dim}");
    let mut out = Tensor::uninit(x.shape(), x.dtype());
    if x.elements() == 0 {
        return out;
    }
    crate::dispatch_dtype!(x.dtype(), T => {
        let rows = (TASK_ELEMENTS / width).max(1);
        out.as_mut_slice::<T>()
            .par_chunks_mut(rows * width)
            .zip(x.as_slice::<T>().par_chunks(rows * width))
            .enumerate()
            .for_each(|(task, (out, x))| {
                let range = task * rows * half..(task * rows + x.len() / width) * half;
                let (cos, sin) = (&angles.cos.as_slice::<f32>()[range.clone()], &angles.sin.as_slice::<f32>()[range]);
                pulp::Arch::new().dispatch(|| turn_rows(out, x, cos, sin, width, head_dim, half, direction));
            });
    });
    out
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn turn_rows<T: Element>(
    out: &mut [T],
    x: &[T],
    cos: &[f32],
    sin: &[f32],
    width: usize,
    head_dim: usize,
    half: usize,
    direction: f32,
) {
    for (row, (out, x)) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
        let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
        for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            let (out_turned, out_rest) = out.split_at_mut(2 * half);
            let (out_low, out_high) = out_turned.split_at_mut(half);
            let (x_turned, x_rest) = x.split_at(2 * half);
            let (x_low, x_high) = x_turned.split_at(half);
            for i in 0..half {
                let (low, high) = (x_low[i].widen(), x_high[i].widen());
                let (c, s) = (cos[i], direction * sin[i]);
                out_low[i] = T::rounded(low * c - high * s);
                out_high[i] = T::rounded(high * c + low * s);
            }
            out_rest.copy_from_slice(x_rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::{Gradients, ParamId};
    use half::bf16;

    fn table(half: usize, factor: f32) -> RopeTable {
        let frequency = |i: usize| 10_000f32.powf(-(i as f32) / half as f32);
        RopeTable { inverse_frequencies: (0..half).map(frequency).collect(), attention_factor: factor }
    }

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The rotation as complex numbers in `f64`.
    fn reference(x: &[f32], positions: &[u32], head_dim: usize, table: &RopeTable) -> Vec<f64> {
        let half = table.inverse_frequencies.len();
        let width = x.len() / positions.len();
        let mut out: Vec<f64> = x.iter().map(|&v| v as f64).collect();
        for (row, &position) in positions.iter().enumerate() {
            for head in 0..width / head_dim {
                for i in 0..half {
                    let at = row * width + head * head_dim + i;
                    let angle = (position as f32 * table.inverse_frequencies[i]) as f64;
                    let (s, c) = angle.sin_cos();
                    let factor = table.attention_factor as f64;
                    let (low, high) = (x[at] as f64, x[at + half] as f64);
                    out[at] = factor * (low * c - high * s);
                    out[at + half] = factor * (high * c + low * s);
                }
            }
        }
        out
    }

    #[test]
    fn turns_as_complex_numbers_do() {
        // The last case turns only the first 8 of 12 entries; enough rows for several tasks in the first.
        for (tokens, heads, head_dim, half, factor) in [(1500, 3, 16, 8, 1.0), (7, 2, 80, 40, 0.7), (5, 2, 12, 4, 1.0)]
        {
            let table = table(half, factor);
            let positions: Vec<u32> = (0..tokens as u32).map(|i| i * 3 + 1).collect();
            let x = numbers(tokens * heads * head_dim, 1);
            let expected = reference(&x, &positions, head_dim, &table);
            let x32 = Tensor::from_slice([tokens, heads * head_dim], &x);
            let run = |x: Tensor| {
                let angles = table.angles(&positions, x.dtype());
                rope(&Tape::off(), &Var::constant(x), head_dim, &angles).value.to_vec_f32()
            };
            for (ours, expected) in run(x32.clone()).iter().zip(&expected) {
                assert!((*ours as f64 - expected).abs() < 1e-6, "{ours} {expected}");
            }
            // bf16: x, cos and sin and the result carry a relative error of 2^-9 each.
            for (ours, expected) in run(x32.to_dtype(DType::BF16)).iter().zip(&expected) {
                assert!((*ours as f64 - expected).abs() < 4.0 * 2f64.powi(-9) * 1.5, "{ours} {expected}");
            }
        }
    }

    #[test]
    fn backward_turns_back() {
        let table = table(8, 1.0);
        let positions = [0, 5, 1000, 77];
        let x = Var::param(ParamId(0), Tensor::from_slice([4, 32], &numbers(128, 2)));
        let tape = Tape::recording();
        let y = rope(&tape, &x, 16, &table.angles(&positions, DType::F32));
        let mut grads = Gradients::new();
        // The gradient of |y|²/2 is y, and turning it back gives x: a rotation keeps lengths.
        tape.backward(&y, y.value.clone(), &mut grads);
        let dx = grads.param(ParamId(0)).expect("x has a gradient").to_vec_f32();
        for (dx, x) in dx.iter().zip(x.value.to_vec_f32()) {
            assert!((dx - x).abs() < 1e-6, "{dx} {x}");
        }
    }

    #[test]
    fn bf16_angles_are_rounded_as_transformers_does() {
        let angles = table(4, 1.0).angles(&[3], DType::BF16);
        for (i, c) in angles.cos.as_slice::<f32>().iter().enumerate() {
            let exact = (3.0 * 10_000f32.powf(-(i as f32) / 4.0)).cos();
            assert_eq!(*c, bf16::from_f32(exact).to_f32());
        }
    }

    #[test]
    fn scores_depend_on_distance_only() {
        let table = table(16, 1.0);
        let (q, k) = (numbers(32, 3), numbers(32, 4));
        let score = |i: u32, j: u32| -> f32 {
            let turned = |x: &[f32], p: u32| {
                let x = Var::constant(Tensor::from_slice([1, 32], x));
                rope(&Tape::off(), &x, 32, &table.angles(&[p], DType::F32)).value.to_vec_f32()
            };
            turned(&q, i).iter().zip(turned(&k, j)).map(|(a, b)| a * b).sum()
        };
        assert!((score(10, 3) - score(107, 100)).abs() < 1e-4);
        assert!((score(10, 3) - score(10, 8)).abs() > 1e-3);
    }
}
