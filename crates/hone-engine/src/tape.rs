//! The tape: reverse-mode differentiation over coarse operations.
//!
//! A forward operation computes its value and, when one of its inputs needs a gradient, records a closure that turns the
//! gradient of its outputs into gradients of its inputs. Nothing is recorded when the tape is off (inference) or when
//! no input needs a gradient (everything below the lowest trained site), so those cost and keep nothing.
//!
//! Trained parameters are named by [`ParamId`], not by their place on a tape: a tape made for recomputation adds to the
//! same parameters as the one it serves. Gradients of parameters are `f32`; those of activations have the activation's
//! type.
//!
//! The tape knows nothing of models, and not what its operations compute.

use std::cell::RefCell;
use std::rc::Rc;

use crate::dtype::{DType, Element};
use crate::matmul::{matmul_tn, matmul_tn_add};
use crate::parallel::for_pieces;
use crate::simd;
use crate::tensor::Tensor;

/// A trained parameter, numbered by whoever owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);

/// Where a value came from, which is where its gradient goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Frozen: takes no gradient.
    Constant,
    /// Output `slot` of the tape it was recorded on.
    Slot(u32),
    /// A trained parameter.
    Param(ParamId),
}

/// A value in the forward pass: a tensor and where it came from.
#[derive(Clone, Debug)]
pub struct Var {
    /// The numbers.
    pub value: Tensor,
    /// Where they came from.
    pub origin: Origin,
}

impl Var {
    /// A frozen value.
    pub fn constant(value: Tensor) -> Var {
        Var { value, origin: Origin::Constant }
    }

    /// A trained parameter, in the type it is computed with.
    pub fn param(id: ParamId, value: Tensor) -> Var {
        Var { value, origin: Origin::Param(id) }
    }

    /// Whether a gradient should flow to it.
    pub fn needs_grad(&self) -> bool {
        self.origin != Origin::Constant
    }

    /// The same value cut off from its history.
    pub fn detach(&self) -> Var {
        Var::constant(self.value.clone())
    }
}

type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>, &mut Gradients)>;

struct Entry {
    first: u32,
    count: u32,
    backward: Backward,
}

#[derive(Default)]
struct Record {
    entries: Vec<Entry>,
    slots: u32,
}

/// A recording of a forward pass, or nothing at all ([`Tape::off`]). Cheap to clone: clones share the recording.
#[derive(Clone)]
pub struct Tape {
    record: Option<Rc<RefCell<Record>>>,
}

impl Tape {
    /// A tape that records.
    pub fn recording() -> Tape {
        Tape { record: Some(Rc::default()) }
    }

    /// A tape that records nothing: inference.
    pub fn off() -> Tape {
        Tape { record: None }
    }

    /// Whether operations are recorded.
    pub fn is_recording(&self) -> bool {
        self.record.is_some()
    }

    /// Whether an operation over these inputs has a backward pass to come.
    pub fn needs_grad(&self, inputs: &[&Var]) -> bool {
        self.is_recording() && inputs.iter().any(|v| v.needs_grad())
    }

    /// An input whose gradient is wanted though nothing computed it (the input of a recomputed block).
    pub fn input(&self, value: Tensor) -> Var {
        let Some(record) = &self.record else { return Var::constant(value) };
        let slot = record.borrow().slots;
        record.borrow_mut().slots += 1;
        Var { value, origin: Origin::Slot(slot) }
    }

    /// Records an operation with one output. `backward` gets the output's gradient. Call it only when
    /// [`Tape::needs_grad`] says so; otherwise return [`Var::constant`].
    pub fn record(&self, value: Tensor, backward: impl FnOnce(Tensor, &mut Gradients) + 'static) -> Var {
        let mut vars = self.record_many(vec![value], move |mut grads, into| {
            if let Some(grad) = grads.swap_remove(0) {
                backward(grad, into);
            }
        });
        vars.swap_remove(0)
    }

    /// Records an operation with several outputs. `backward` gets each output's gradient, `None` where nothing used the
    /// output, and is not called when no output was used.
    pub fn record_many(
        &self,
        values: Vec<Tensor>,
        backward: impl FnOnce(Vec<Option<Tensor>>, &mut Gradients) + 'static,
    ) -> Vec<Var> {
        let Some(record) = &self.record else { return values.into_iter().map(Var::constant).collect() };
        let mut record = record.borrow_mut();
        let (first, count) = (record.slots, values.len() as u32);
        record.slots += count;
        record.entries.push(Entry { first, count, backward: Box::new(backward) });
        let slot = |(i, value)| Var { value, origin: Origin::Slot(first + i as u32) };
        values.into_iter().enumerate().map(slot).collect()
    }

    /// Runs the recording backwards from `output`, whose gradient is `seed` (1 for a loss), and empties it. Gradients
    /// of parameters add to `into`; the gradient of each [`Tape::input`] stays readable there under its origin until
    /// the next call.
    pub fn backward(&self, output: &Var, seed: Tensor, into: &mut Gradients) {
        let Some(record) = &self.record else { return };
        let (entries, slots) = {
            let mut record = record.borrow_mut();
            (std::mem::take(&mut record.entries), record.slots)
        };
        // A recomputed block runs a tape of its own inside a backward closure: its slots must not mix with ours.
        let outer = std::mem::take(&mut into.slots);
        into.slots.resize_with(slots as usize, || None);
        into.add(output, seed);
        for entry in entries.into_iter().rev() {
            let range = entry.first as usize..(entry.first + entry.count) as usize;
            let grads: Vec<Option<Tensor>> = into.slots[range].iter_mut().map(Option::take).collect();
            if grads.iter().any(Option::is_some) {
                (entry.backward)(grads, into);
            }
        }
        into.finished = std::mem::replace(&mut into.slots, outer);
    }
}

/// Gradients by parameter, and, while a tape runs backwards, by slot.
#[derive(Default)]
pub struct Gradients {
    params: Vec<Option<Tensor>>,
    slots: Vec<Option<Tensor>>,
    finished: Vec<Option<Tensor>>,
}

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `grad` to the gradient of `to`; dropped when `to` is frozen. For a parameter it is summed in `f32`.
    pub fn add(&mut self, to: &Var, grad: Tensor) {
        match to.origin {
            Origin::Constant => {}
            Origin::Param(id) => {
                assert_eq!(grad.elements(), to.value.elements(), "gradient shape of {id:?}");
                let at = id.0 as usize;
                if self.params.len() <= at {
                    self.params.resize_with(at + 1, || None);
                }
                match &mut self.params[at] {
                    Some(sum) => add_into(sum, grad),
                    empty => *empty = Some(grad.to_dtype(DType::F32)),
                }
            }
            Origin::Slot(slot) => {
                assert_eq!(grad.elements(), to.value.elements(), "gradient shape of slot {slot}");
                let grad = grad.to_dtype(to.value.dtype());
                match &mut self.slots[slot as usize] {
                    Some(sum) => add_into(sum, grad),
                    empty => *empty = Some(grad),
                }
            }
        }
    }

    /// Adds `aᵀ b` to the gradient of `to`, in place where there is one already: the gradient of a trained matrix, for
    /// which a product and an addition apart would be two passes over its whole size.
    pub(crate) fn add_product_tn(&mut self, to: &Var, a: &Tensor, b: &Tensor) {
        match to.origin {
            Origin::Constant => {}
            Origin::Param(id) if self.param(id).is_some() => {
                if let Some(sum) = self.param_mut(id) {
                    matmul_tn_add(sum, 1.0, a, b);
                }
            }
            _ => self.add(to, matmul_tn(a, b, DType::F32).reshape(to.value.shape())),
        }
    }

    /// Lets `write` add to the `f32` gradient of `to`, which is zero if nothing has reached it.
    pub(crate) fn add_in_place(&mut self, to: &Var, write: impl FnOnce(&mut Tensor)) {
        match to.origin {
            Origin::Constant => {}
            Origin::Param(id) if self.param(id).is_some() => {
                if let Some(sum) = self.param_mut(id) {
                    write(sum);
                }
            }
            _ => {
                let mut grad = Tensor::zeros(to.value.shape(), DType::F32);
                write(&mut grad);
                self.add(to, grad);
            }
        }
    }

    /// The gradient of a parameter, if anything reached it.
    pub fn param(&self, id: ParamId) -> Option<&Tensor> {
        self.params.get(id.0 as usize).and_then(Option::as_ref)
    }

    /// The gradient of a parameter, to be changed in place (clipping, masking).
    pub fn param_mut(&mut self, id: ParamId) -> Option<&mut Tensor> {
        self.params.get_mut(id.0 as usize).and_then(Option::as_mut)
    }

    /// Takes the gradient of a [`Tape::input`] after `backward` of its tape.
    pub fn take_input(&mut self, input: &Var) -> Option<Tensor> {
        match input.origin {
            Origin::Slot(slot) => self.finished.get_mut(slot as usize).and_then(Option::take),
            _ => None,
        }
    }

    /// Forgets all gradients, keeping nothing.
    pub fn clear(&mut self) {
        self.params.clear();
        self.finished.clear();
    }
}

/// `sum += grad`, in whichever memory is free to be written.
fn add_into(sum: &mut Tensor, grad: Tensor) {
    if !sum.is_unique() && sum.dtype() == grad.dtype() {
        // The sum is read elsewhere (an addition hands one gradient to both its terms): add into the newcomer, or
        // anew, rather than copy first.
        let grad = std::mem::replace(sum, grad);
        if sum.is_unique() {
            return add_into(sum, grad);
        }
        let (a, b) = (std::mem::replace(sum, Tensor::uninit(grad.shape(), grad.dtype())), grad);
        return crate::dispatch_dtype!(sum.dtype(), T => {
            let (a, b) = (a.as_slice::<T>(), b.as_slice::<T>());
            for_pieces(sum.as_mut_slice::<T>(), #[inline(always)] |range, sum| {
                for ((s, a), b) in sum.iter_mut().zip(&a[range.clone()]).zip(&b[range]) {
                    *s = T::rounded(Element::widen(*a) + Element::widen(*b));
                }
            })
        });
    }
    crate::dispatch_dtype!(sum.dtype(), S => crate::dispatch_dtype!(grad.dtype(), G => {
        let from = grad.as_slice::<G>();
        for_pieces(
            sum.as_mut_slice::<S>(),
            #[inline(always)]
            |range, sum| simd::add_scaled(sum, 1.0, &from[range]),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(tape: &Tape, x: &Var) -> Var {
        let v = x.value.item();
        let value = Tensor::from_slice([1], &[v * v]);
        if !tape.needs_grad(&[x]) {
            return Var::constant(value);
        }
        let x = x.clone();
        tape.record(value, move |grad, into| {
            let dx = Tensor::from_slice([1], &[2.0 * x.value.item() * grad.item()]);
            into.add(&x, dx);
        })
    }

    #[test]
    fn a_value_used_twice_sums_its_gradients() {
        let tape = Tape::recording();
        let p = Var::param(ParamId(0), Tensor::from_slice([1], &[3.0f32]));
        let y = square(&tape, &square(&tape, &p)); // p^4, derivative 4 p^3 = 108
        let mut grads = Gradients::new();
        tape.backward(&y, Tensor::full([1], DType::F32, 1.0), &mut grads);
        assert_eq!(grads.param(ParamId(0)).map(Tensor::item), Some(108.0));
    }

    #[test]
    fn frozen_inputs_record_nothing() {
        let tape = Tape::recording();
        let y = square(&tape, &Var::constant(Tensor::from_slice([1], &[3.0f32])));
        assert!(!y.needs_grad());
    }
}
