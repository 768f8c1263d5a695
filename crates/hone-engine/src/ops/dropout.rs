//! Inverted dropout (arXiv 1207.0580), the mask drawn by counter: recomputed in backward, never stored.

use crate::dtype::Element;
use crate::parallel::for_pieces;
use crate::random::{GROUP, RandomKey};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

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
        if self.key.bits(i) < self.threshold() { 0.0 } else { self.kept() }
    }

    /// `p` as a share of the 32-bit numbers.
    fn threshold(&self) -> u32 {
        assert!((0.0..1.0).contains(&self.p), "dropout probability {} is not in [0, 1)", self.p);
        (self.p as f64 * 4_294_967_296.0) as u32
    }

    fn kept(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// `x * mask / (1 - p)`.
    pub(super) fn apply(&self, x: &Tensor) -> Tensor {
        let mut out = Tensor::uninit(x.shape(), x.dtype());
        crate::dispatch_dtype!(x.dtype(), T => {
            let x = x.as_slice::<T>();
            self.pass(
                out.as_mut_slice::<T>(),
                #[inline(always)]
                |i, _, factor| Element::widen(x[i]) * factor,
            );
        });
        out
    }

    /// `to += from * mask / (1 - p)`.
    pub(super) fn apply_add(&self, to: &mut Tensor, from: &Tensor) {
        super::map::same(to, from);
        crate::dispatch_dtype!(to.dtype(), T => {
            let from = from.as_slice::<T>();
            self.pass(
                to.as_mut_slice::<T>(),
                #[inline(always)]
                |i, to, factor| Element::widen(from[i]).mul_add(factor, to),
            );
        })
    }

    /// `out[i] = f(i, out[i], factor(i))`.
    #[inline(always)]
    fn pass<T: Element>(&self, out: &mut [T], f: impl Fn(usize, f32, f32) -> f32 + Sync) {
        let (threshold, kept) = (self.threshold(), self.kept());
        for_pieces(
            out,
            #[inline(always)]
            |range, out| {
                // Pieces begin at multiples of GROUP, so every group of bits is drawn once.
                for (g, out) in out.chunks_mut(GROUP).enumerate() {
                    let first = range.start + g * GROUP;
                    let bits = self.key.group((first / GROUP) as u64);
                    for (j, (out, bits)) in out.iter_mut().zip(bits).enumerate() {
                        let factor = if bits < threshold { 0.0 } else { kept };
                        *out = T::rounded(f(first + j, out.widen(), factor));
                    }
                }
            },
        )
    }
}

/// `x * mask / (1 - p)`. Panics if `p` is not in [0, 1).
pub fn dropout(tape: &Tape, x: &Var, dropout: Dropout) -> Var {
    if dropout.p == 0.0 {
        return x.clone();
    }
    let value = dropout.apply(&x.value);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| into.add(&x, dropout.apply(&grad)))
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
