//! Activation recomputation: a block runs forward without recording, keeping its input only, and again, recording, when its
//! gradient is due (Chen et al. 2016, arXiv 1604.06174). Parameters met inside get their gradients as usual.

use crate::tape::{Gradients, Tape, Var};

/// `block(tape, x)`, recomputed in backward. `block` must give the same value every time (dropout masks are drawn by
/// counter, so they do).
pub fn recompute(tape: &Tape, x: &Var, block: impl Fn(&Tape, &Var) -> Var + 'static) -> Var {
    let value = block(&Tape::off(), x).value;
    if !tape.is_recording() {
        return Var::constant(value);
    }
    // Whether a parameter sits inside is not known before the block runs; a recorded entry that turns out to reach
    // none costs a recomputation and is still right.
    let x = x.clone();
    tape.record(value, move |grad, into: &mut Gradients| {
        let inner = Tape::recording();
        let input = if x.needs_grad() { inner.input(x.value.clone()) } else { x.detach() };
        let output = block(&inner, &input);
        if !output.needs_grad() {
            return;
        }
        inner.backward(&output, grad, into);
        if let Some(grad) = into.take_input(&input) {
            into.add(&x, grad);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ops::{Activation, Dropout, LowRank, add_rms_norm, dropout, gated, linear, linears, rms_norm};
    use crate::reference::gradient_check::random;
    use crate::{DType, ParamId, RandomKey, Tensor, Weight, WeightRef};

    const WIDTH: usize = 32;
    const INNER: usize = 48;

    /// An MLP half block with everything in it: norms, low-rank terms, dropout, a trained norm weight.
    struct Block {
        gate: WeightRef,
        up: WeightRef,
        down: WeightRef,
        norm: Var,
        term: LowRank,
        dropout: Dropout,
    }

    fn frozen(out: usize, width: usize, dtype: DType, seed: u64) -> WeightRef {
        WeightRef::Frozen(Arc::new(Weight::dense(random([out, width], dtype, seed))))
    }

    impl Block {
        /// Parameters `first` to `first + 2`.
        fn new(dtype: DType, first: u32) -> Block {
            let param = |i: u32, shape: [usize; 2]| {
                Var::param(ParamId(first + i), random(shape, dtype, 100 + (first + i) as u64))
            };
            let drop = Dropout { p: 0.2, key: RandomKey::new(first as u64) };
            let (a, b) = (param(1, [4, INNER]), param(2, [WIDTH, 4]));
            Block {
                gate: frozen(INNER, WIDTH, dtype, 1),
                up: frozen(INNER, WIDTH, dtype, 2),
                down: frozen(WIDTH, INNER, dtype, 3),
                norm: param(0, [1, WIDTH]),
                term: LowRank { a, b, scale: 0.5, dropout: Some(drop) },
                dropout: drop,
            }
        }

        fn forward(&self, tape: &Tape, x: &Var) -> Var {
            let part = |weight| crate::ops::linear::LinearPart { weight, bias: None, terms: &[] };
            let h = rms_norm(tape, x, &self.norm, 1e-5, 0.0);
            let inner = linears(tape, &h, &[part(&self.gate), part(&self.up)]);
            let h = gated(tape, &inner[0], &inner[1], Activation::Silu);
            let h = linear(tape, &h, &self.down, None, std::slice::from_ref(&self.term));
            let (sum, normed) = add_rms_norm(tape, x, &h, &self.norm, 1e-5, 0.0);
            crate::ops::add(tape, &sum, &dropout(tape, &normed, self.dropout))
        }
    }

    /// Output of two blocks, gradients of their six parameters and of their input.
    fn run(dtype: DType, recomputed: bool, input_needs_grad: bool) -> Vec<Option<Vec<f32>>> {
        let tape = Tape::recording();
        let x = random([9, WIDTH], dtype, 7);
        let start = if input_needs_grad { tape.input(x) } else { Var::constant(x) };
        let mut h = start.clone();
        for first in [0, 3] {
            let block = Block::new(dtype, first);
            h = if recomputed {
                recompute(&tape, &h, move |tape, x| block.forward(tape, x))
            } else {
                block.forward(&tape, &h)
            };
        }
        let mut grads = Gradients::new();
        tape.backward(&h, random([9, WIDTH], dtype, 8), &mut grads);
        let input = grads.take_input(&start).map(|g| g.to_vec_f32());
        let params = (0..6).map(|i| grads.param(ParamId(i)).map(Tensor::to_vec_f32));
        std::iter::once(Some(h.value.to_vec_f32())).chain(params).chain([input]).collect()
    }

    #[test]
    fn recomputed_gradients_are_the_kept_ones_bit_for_bit() {
        for dtype in [DType::F32, DType::BF16] {
            for input_needs_grad in [false, true] {
                let kept = run(dtype, false, input_needs_grad);
                assert!(kept[..7].iter().all(Option::is_some) && kept[7].is_some() == input_needs_grad);
                assert!(kept.iter().flatten().flatten().all(|v| v.is_finite()));
                let recomputed = run(dtype, true, input_needs_grad);
                assert!(recomputed == kept, "{dtype}, input gradient {input_needs_grad}");
            }
        }
    }

    #[test]
    fn with_the_tape_off_nothing_is_recorded() {
        let block = Block::new(DType::F32, 0);
        let x = Var::constant(random([9, WIDTH], DType::F32, 7));
        assert!(!recompute(&Tape::off(), &x, move |tape, x| block.forward(tape, x)).needs_grad());
    }
}
