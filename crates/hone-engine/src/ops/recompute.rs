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
