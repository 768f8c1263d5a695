//! Inverted dropout (arXiv 1207.0580), the mask drawn by counter: recomputed in backward, never stored.

use crate::dtype::Element;
use crate::parallel::{Rows, for_blocks, for_pieces};
use crate::profile::{self, Pass};
use crate::random::{GROUP, RandomKey};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Elements that share a group of random numbers, two a number.
const PAIR: usize = 2 * GROUP;

/// Drop each element with probability `p` and scale the rest by `1 / (1 - p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub p: f32,
    /// Names the mask: run, step and site.
    pub key: RandomKey,
}

impl Dropout {
    /// What the `i`-th element is multiplied by: 0 or `1 / (1 - p)`.
    pub fn factor(&self, i: u64) -> f32 {
        // Element `i` has 16 bits: the low halves of a group's numbers first, then the high ones.
        let (pair, within) = (i / PAIR as u64, i as usize % PAIR);
        let bits = self.key.bits(pair * GROUP as u64 + (within % GROUP) as u64) >> (16 * (within / GROUP));
        if bits & 0xffff < self.threshold() { 0.0 } else { self.kept() }
    }

    /// `p` as a share of the 16-bit numbers: exact to 2^-17.
    fn threshold(&self) -> u32 {
        assert!((0.0..1.0).contains(&self.p), "dropout probability {} is not in [0, 1)", self.p);
        (self.p * 65_536.0).round() as u32
    }

    fn kept(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// Factors of elements `first .. first + PAIR`; `first` is a multiple of [`PAIR`].
    #[inline(always)]
    fn factors(&self, first: usize, threshold: u32, kept: f32) -> [f32; PAIR] {
        let bits = self.key.group((first / PAIR) as u64);
        let mut factors = [0f32; PAIR];
        let (low, high) = factors.split_at_mut(GROUP);
        for ((low, high), bits) in low.iter_mut().zip(high).zip(bits) {
            *low = if bits & 0xffff < threshold { 0.0 } else { kept };
            *high = if bits >> 16 < threshold { 0.0 } else { kept };
        }
        factors
    }

    /// `x * mask / (1 - p)`.
    pub(super) fn apply(&self, x: &Tensor) -> Tensor {
        let mut out = Tensor::uninit(x.shape(), x.dtype());
        let (threshold, kept) = (self.threshold(), self.kept());
        crate::dispatch_dtype!(x.dtype(), T => {
            let x = x.as_slice::<T>();
            for_pieces(
                out.as_mut_slice::<T>(),
                #[inline(always)]
                |range, out| {
                    // Pieces begin at multiples of PAIR, so every group of bits is drawn once.
                    for ((i, out), x) in (range.start..).step_by(PAIR).zip(out.chunks_mut(PAIR)).zip(x[range].chunks(PAIR)) {
                        let factors = self.factors(i, threshold, kept);
                        for ((out, x), factor) in out.iter_mut().zip(x).zip(&factors) {
                            *out = T::rounded(x.widen() * factor);
                        }
                    }
                },
            );
        });
        out
    }

    /// `to += from * mask / (1 - p)`, and returns `x * mask / (1 - p)`: what backward needs of one mask, drawn once.
    pub(super) fn apply_and_add(&self, x: &Tensor, to: &mut Tensor, from: &Tensor) -> Tensor {
        super::map::same(to, from);
        super::map::same(to, x);
        let mut out = Tensor::uninit(x.shape(), x.dtype());
        let (threshold, kept) = (self.threshold(), self.kept());
        crate::dispatch_dtype!(x.dtype(), T => {
            let (x, from) = (x.as_slice::<T>(), from.as_slice::<T>());
            for_blocks(
                x.len(),
                1,
                (Rows::new(out.as_mut_slice::<T>(), 1), Rows::new(to.as_mut_slice::<T>(), 1)),
                #[inline(always)]
                |range, (out, to): (Rows<T>, Rows<T>)| {
                    let read = x[range.clone()].chunks(PAIR).zip(from[range.clone()].chunks(PAIR));
                    let write = out.data.chunks_mut(PAIR).zip(to.data.chunks_mut(PAIR));
                    for ((i, (x, from)), (out, to)) in (range.start..).step_by(PAIR).zip(read).zip(write) {
                        let factors = self.factors(i, threshold, kept);
                        for ((out, x), factor) in out.iter_mut().zip(x).zip(&factors) {
                            *out = T::rounded(x.widen() * factor);
                        }
                        for ((to, from), factor) in to.iter_mut().zip(from).zip(&factors) {
                            *to = T::rounded(from.widen().mul_add(*factor, to.widen()));
                        }
                    }
                },
            );
        });
        out
    }
}

/// `x * mask / (1 - p)`. Panics if `p` is not in [0, 1).
pub fn dropout(tape: &Tape, x: &Var, dropout: Dropout) -> Var {
    let _span = profile::span("dropout", Pass::Forward);
    if dropout.p == 0.0 {
        return x.clone();
    }
    let value = dropout.apply(&x.value);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("dropout", Pass::Backward);
        into.add(&x, dropout.apply(&grad))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::reference::gradient_check::{check, random, tolerance};

    #[test]
    fn masks_match_the_reference() {
        let mask = Dropout { p: 0.3, key: RandomKey::new(5).named("site").index(2) };
        for dtype in [DType::F32, DType::BF16] {
            let x = [random([3, 71], dtype, 1)];
            let oracle = |v: &[Vec<f64>]| vec![v[0].iter().zip(0..).map(|(x, i)| x * mask.factor(i) as f64).collect()];
            check(&x, tolerance(dtype), |tape, v| vec![dropout(tape, &v[0], mask)], oracle);
        }
    }

    #[test]
    fn the_right_share_is_dropped_over_several_pieces() {
        let n = 100_000;
        let x = Var::constant(Tensor::full([n], DType::F32, 1.0));
        let mask = Dropout { p: 0.1, key: RandomKey::new(1) };
        let y = dropout(&Tape::off(), &x, mask).value.to_vec_f32();
        let dropped = y.iter().filter(|v| **v == 0.0).count();
        // Binomial(100000, 0.1) has a standard deviation of 95.
        assert!((9_500..10_500).contains(&dropped), "{dropped}");
        assert!(y.iter().zip(0..).all(|(v, i)| *v == mask.factor(i)));
    }

    #[test]
    fn no_dropout_is_the_value_itself() {
        let x = Var::constant(random([4], DType::F32, 1));
        let y = dropout(&Tape::off(), &x, Dropout { p: 0.0, key: RandomKey::new(1) });
        assert_eq!(y.value.to_vec_f32(), x.value.to_vec_f32());
    }
}
