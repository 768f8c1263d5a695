//! A penalty that rides on an activation: a term of the loss that is made in the middle of a forward pass (the balance of a
//! router's experts, say), where the loss itself is far away.

use crate::DType;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `x` unchanged; backward passes its gradient on and adds `weight` to the gradient of `penalty` `[1]`, as if
/// `weight · penalty` stood in the loss (whose own gradient is 1). So it works inside a recomputed block, which hands on nothing
/// but its output. If no gradient reaches the result, none reaches the penalty. Panics if `penalty` is not one number.
pub fn with_penalty(tape: &Tape, x: &Var, penalty: &Var, weight: f32) -> Var {
    assert_eq!(penalty.value.elements(), 1, "a penalty of shape {:?}", penalty.value.shape());
    if !tape.needs_grad(&[penalty]) {
        return x.clone();
    }
    let value = x.value.clone();
    let (x, penalty) = (x.clone(), penalty.clone());
    tape.record(value, move |grad, into| {
        into.add(&penalty, Tensor::full(penalty.value.shape(), DType::F32, weight));
        into.add(&x, grad);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{recompute, scale_columns, sum};
    use crate::reference::gradient_check::random;
    use crate::tape::{Gradients, ParamId};

    /// The gradient of `Σ c x v + weight Σ v²` with respect to `v`, the second term riding on the product.
    fn gradient(recomputed: bool, weight: f32) -> Vec<f32> {
        let v = Var::param(ParamId(0), random([3], DType::F32, 1));
        let x = Var::constant(random([4, 3], DType::F32, 2));
        let block = move |tape: &Tape, x: &Var| {
            let squares = sum(tape, &crate::ops::multiply(tape, &v, &v));
            with_penalty(tape, &scale_columns(tape, x, &v), &squares, weight)
        };
        let tape = Tape::recording();
        let y = if recomputed { recompute(&tape, &x, block) } else { block(&tape, &x) };
        let mut gradients = Gradients::new();
        tape.backward(&y, random([4, 3], DType::F32, 3), &mut gradients);
        gradients.param(ParamId(0)).expect("a gradient").to_vec_f32()
    }

    #[test]
    fn the_penalty_adds_its_own_gradient_and_nothing_else_changes() {
        let (without, with) = (gradient(false, 0.0), gradient(false, 0.25));
        let v = random([3], DType::F32, 1).to_vec_f32();
        for ((without, with), v) in without.iter().zip(&with).zip(&v) {
            assert!((with - without - 0.25 * 2.0 * v).abs() < 1e-6, "{with} {without} {v}");
        }
    }

    #[test]
    fn it_is_the_same_in_a_recomputed_block() {
        assert_eq!(gradient(false, 0.5), gradient(true, 0.5));
    }

    #[test]
    fn the_value_is_untouched() {
        let tape = Tape::recording();
        let x = Var::constant(random([2, 2], DType::BF16, 1));
        let penalty = Var::param(ParamId(0), Tensor::full([1], DType::F32, 3.0));
        assert_eq!(with_penalty(&tape, &x, &penalty, 1.0).value.to_vec_f32(), x.value.to_vec_f32());
    }
}
