//! Convolution of each channel by a short kernel of its own along the tokens of a sequence ("depthwise"), with as many zeros
//! around a sequence as keep its length, as in convolutional adapters:
//! `y[t, c] = b[c] + Σ_j w[c, j] x[t + j − l, c]` over the sources within the token's sequence, where `l` is `⌊(k − 1) / 2⌋` ("same"
//! padding) or `k − 1` (causal).
//!
//! With the output's gradient `g`: `dx[s, c] = Σ_j w[c, j] g[s − j + l, c]`, `dw[c, j] = Σ_t g[t, c] x[t + j − l, c]`,
//! `db = Σ_t g`. As in neural networks everywhere the kernel is not mirrored. With "same" padding it looks ahead
//! as far as it looks back, which no decoder may.

use std::ops::Range;

use crate::dtype::Element;
use crate::parallel::{Rows, column_sums, for_blocks, for_blocks_summing};
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Where the zeros stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// On both sides, of an even kernel one more behind: a token sees tokens to come.
    Same,
    /// Before the sequence: a token sees itself and what came before.
    Causal,
}

/// `x` `[tokens, c]`, `w` `[c, k]`, `bias` `[c]` (the last two of either type); result like `x`. `sequences` are the tokens that
/// belong together. Panics on shapes that do not fit, on `k = 0`, and unless the sequences follow one another and cover every token.
pub fn depthwise_convolution(
    tape: &Tape,
    x: &Var,
    w: &Var,
    bias: &Var,
    sequences: &[Range<usize>],
    padding: Padding,
) -> Var {
    let _span = profile::span("depthwise convolution", Pass::Forward);
    let taps = Taps::new(&x.value, &w.value, sequences, padding);
    assert_eq!(bias.value.elements(), taps.channels, "bias {:?} of a convolution", bias.value.shape());
    let value = taps.apply(&x.value, &w.value, Some(&bias.value), false);
    if !tape.needs_grad(&[x, w, bias]) {
        return Var::constant(value);
    }
    let (x, w, bias) = (x.clone(), w.clone(), bias.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("depthwise convolution", Pass::Backward);
        if bias.needs_grad() {
            let sums = crate::dispatch_dtype!(grad.dtype(), T => column_sums(grad.as_slice::<T>(), taps.channels));
            into.add(&bias, Tensor::from_slice(bias.value.shape(), &sums));
        }
        if w.needs_grad() {
            into.add(&w, taps.kernel_gradient(&x.value, &grad).reshape(w.value.shape()));
        }
        if x.needs_grad() {
            into.add(&x, taps.apply(&grad, &w.value, None, true));
        }
    })
}

/// Where a kernel's taps reach from each token.
struct Taps {
    /// The sequence of each token.
    sequence_of: Vec<Range<usize>>,
    channels: usize,
    k: usize,
    /// Taps before the one that meets the token itself.
    left: usize,
}

impl Taps {
    fn new(x: &Tensor, w: &Tensor, sequences: &[Range<usize>], padding: Padding) -> Taps {
        let ((tokens, channels), (rows, k)) = (x.rows_cols(), w.rows_cols());
        assert!(rows == channels && k > 0, "a kernel of {:?} over channels of {:?}", w.shape(), x.shape());
        let mut sequence_of = Vec::with_capacity(tokens);
        for sequence in sequences {
            assert_eq!(sequence.start, sequence_of.len(), "sequences {sequences:?} must follow one another");
            sequence_of.extend(std::iter::repeat_n(sequence.clone(), sequence.len()));
        }
        assert_eq!(sequence_of.len(), tokens, "sequences {sequences:?} must cover {tokens} tokens");
        let left = match padding {
            Padding::Same => (k - 1) / 2,
            Padding::Causal => k - 1,
        };
        Taps { sequence_of, channels, k, left }
    }

    /// The token that tap `j` of the kernel meets at `token`, if there is one in the sequence; with `backward`, the
    /// token at which tap `j` meets `token`.
    #[inline(always)]
    fn source(&self, token: usize, j: usize, backward: bool) -> Option<usize> {
        let at = if backward { (token + self.left).checked_sub(j) } else { (token + j).checked_sub(self.left) };
        at.filter(|at| self.sequence_of[token].contains(at))
    }

    /// The convolution, or with `backward` the one that carries a gradient back.
    fn apply(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, backward: bool) -> Tensor {
        let (channels, k) = (self.channels, self.k);
        // `[k, channels]`, so that a tap is a row.
        let kernel = w.to_vec_f32();
        let taps: Vec<f32> = (0..k * channels).map(|at| kernel[at % channels * k + at / channels]).collect();
        let bias = bias.map_or_else(|| vec![0.0; channels], Tensor::to_vec_f32);
        let mut out = Tensor::uninit(x.shape(), x.dtype());
        crate::dispatch_dtype!(x.dtype(), T => {
            let x = x.as_slice::<T>();
            for_blocks(
                self.sequence_of.len(),
                channels * k,
                Rows::new(out.as_mut_slice::<T>(), channels),
                #[inline(always)]
                |range, out: Rows<T>| {
                    let mut sum = vec![0f32; channels];
                    for (token, out) in range.zip(out.data.chunks_exact_mut(channels)) {
                        sum.copy_from_slice(&bias);
                        for (j, tap) in taps.chunks_exact(channels).enumerate() {
                            if let Some(source) = self.source(token, j, backward) {
                                let x = &x[source * channels..(source + 1) * channels];
                                for ((s, x), w) in sum.iter_mut().zip(x).zip(tap) {
                                    *s = Element::widen(*x).mul_add(*w, *s);
                                }
                            }
                        }
                        crate::simd::convert(out, &sum);
                    }
                },
            )
        });
        out
    }

    /// `[channels, k]` in `f32`: a pass over the tokens for each tap.
    fn kernel_gradient(&self, x: &Tensor, grad: &Tensor) -> Tensor {
        let (channels, k) = (self.channels, self.k);
        let mut out = vec![0f32; channels * k];
        crate::dispatch_dtype!(x.dtype(), T => {
            let (x, grad) = (x.as_slice::<T>(), grad.as_slice::<T>());
            for j in 0..k {
                let sums = for_blocks_summing(
                    self.sequence_of.len(),
                    channels,
                    (),
                    #[inline(always)]
                    |range, (), sums| {
                        for token in range {
                            if let Some(source) = self.source(token, j, false) {
                                let g = &grad[token * channels..(token + 1) * channels];
                                let x = &x[source * channels..(source + 1) * channels];
                                for ((s, g), x) in sums.iter_mut().zip(g).zip(x) {
                                    *s = Element::widen(*g).mul_add(Element::widen(*x), *s);
                                }
                            }
                        }
                    },
                );
                sums.iter().enumerate().for_each(|(c, s)| out[c * k + j] = *s);
            }
        });
        Tensor::from_slice([channels, k], &out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::matrix;

    #[test]
    fn convolutions_match_the_reference_and_stay_in_their_sequences() {
        let sequences = [0..4, 4..5, 5..9];
        for k in [1, 2, 3, 4, 5] {
            for (hidden, kernel) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)] {
                let inputs = [random([9, 6], hidden, 1), random([6, k], kernel, 2), random([6], kernel, 3)];
                for (padding, left) in [(Padding::Same, (k - 1) / 2), (Padding::Causal, k - 1)] {
                    let op = |tape: &Tape, v: &[Var]| {
                        vec![depthwise_convolution(tape, &v[0], &v[1], &v[2], &sequences, padding)]
                    };
                    let oracle =
                        |v: &[Vec<f64>]| vec![matrix::depthwise_convolution(&v[0], &v[1], &v[2], &sequences, left)];
                    check(&inputs, tolerance(hidden), op, oracle);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "must cover 9 tokens")]
    fn a_token_outside_every_sequence_is_refused() {
        let (x, w, b) = (random([9, 6], DType::F32, 1), random([6, 3], DType::F32, 2), random([6], DType::F32, 3));
        let [x, w, b] = [x, w, b].map(Var::constant);
        depthwise_convolution(&Tape::off(), &x, &w, &b, &[0..4, 4..8], Padding::Same);
    }
}
