//! A mask by threshold, trained through a straight-through estimator (Bengio et al. 2013, arXiv 1308.3432): forward
//! `1[m > threshold]`, backward as if it were the identity, for a step has no derivative to learn from.

use super::super::map::map;
use crate::profile::{self, Pass};
use crate::tape::{Tape, Var};

/// 1 where `m > threshold`, else 0 (NaN included), of `m`'s shape and type; the gradient passes unchanged.
pub fn straight_through(tape: &Tape, m: &Var, threshold: f32) -> Var {
    let _span = profile::span("straight through", Pass::Forward);
    let value = map(
        m.value.clone(),
        #[inline(always)]
        |m| if m > threshold { 1.0 } else { 0.0 },
    );
    if !tape.needs_grad(&[m]) {
        return Var::constant(value);
    }
    let m = m.clone();
    tape.record(value, move |grad, into| into.add(&m, grad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::random;
    use crate::tape::{Gradients, ParamId};
    use crate::{DType, Tensor};

    #[test]
    fn a_mask_is_hard_forward_and_open_backward() {
        for dtype in [DType::F32, DType::BF16] {
            let m = Tensor::from_slice([4], &[0.25f32, 0.5, 0.75, -1.0]).to_dtype(dtype);
            let tape = Tape::recording();
            let y = straight_through(&tape, &Var::param(ParamId(0), m), 0.5);
            assert_eq!(y.value.to_vec_f32(), [0.0, 0.0, 1.0, 0.0]);
            let seed = random([4], dtype, 1);
            let mut grads = Gradients::new();
            tape.backward(&y, seed.clone(), &mut grads);
            assert_eq!(grads.param(ParamId(0)).map(Tensor::to_vec_f32), Some(seed.to_vec_f32()));
        }
    }
}
