//! The optimiser over the trained parameters of a stack: the engine's updates, and their states by parameter.

use hone_edit::EditStack;
use hone_edit::method::Param;
use hone_engine::Gradients;
use hone_engine::optim::{Adam8State, AdamState, AdamW, Sgd, SgdState, global_norm};
use hone_model::decoder::{EMBED_TOKENS, LM_HEAD};

use crate::recipe::{Optimizer as Kind, TrainConfig};

/// The update rule with its settings.
#[derive(Clone, Copy, Debug)]
enum Rule {
    AdamW(AdamW),
    Sgd(Sgd),
}

/// What the rule remembers of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Memory {
    /// AdamW's two moments.
    Adam(AdamState),
    /// AdamW's two moments in 8 bits.
    Adam8(Adam8State),
    /// SGD's velocity.
    Sgd(SgdState),
}

/// An optimiser and its memory, one entry a trained parameter in the stack's order.
#[derive(Clone, Debug)]
pub struct Optimizer {
    rule: Rule,
    /// By trained parameter.
    pub memory: Vec<Memory>,
}

impl Optimizer {
    /// As a recipe has it, with nothing remembered yet.
    pub fn new(train: &TrainConfig, stack: &EditStack) -> Optimizer {
        let weight_decay = train.weight_decay;
        let rule = match train.optimizer {
            Kind::Adamw | Kind::Adamw8bit => {
                Rule::AdamW(AdamW { beta1: train.betas.0, beta2: train.betas.1, eps: train.eps, weight_decay })
            }
            Kind::Sgd => Rule::Sgd(Sgd { momentum: train.momentum, weight_decay, ..Sgd::default() }),
        };
        let empty = |param: &Param| match rule {
            Rule::AdamW(_) if train.optimizer == Kind::Adamw8bit && fits_8_bits(param) => {
                Memory::Adam8(Adam8State::new(param.value.elements()))
            }
            Rule::AdamW(_) => Memory::Adam(AdamState::new(param.value.elements())),
            Rule::Sgd(_) => Memory::Sgd(SgdState::default()),
        };
        let memory = stack.trained_params().map(|(_, param)| empty(param)).collect();
        Optimizer { rule, memory }
    }

    /// Updates every trained parameter that has a gradient, from `scale` times it.
    pub fn update(&mut self, stack: &mut EditStack, gradients: &Gradients, learning_rate: f64, scale: f32) {
        for ((id, param), memory) in stack.trained_params_mut().zip(&mut self.memory) {
            let Some(gradient) = gradients.param(id) else { continue };
            let learning_rate = learning_rate * param.traits.learning_rate_factor;
            let (values, gradient) = (param.value.as_mut_slice::<f32>(), gradient.as_slice::<f32>());
            match (self.rule, memory) {
                (Rule::AdamW(rule), Memory::Adam(state)) => {
                    let weight_decay = if param.traits.decay { rule.weight_decay } else { 0.0 };
                    AdamW { weight_decay, ..rule }.update(learning_rate, scale, values, gradient, state);
                }
                (Rule::AdamW(rule), Memory::Adam8(state)) => {
                    let weight_decay = if param.traits.decay { rule.weight_decay } else { 0.0 };
                    AdamW { weight_decay, ..rule }.update_8bit(learning_rate, scale, values, gradient, state);
                }
                (Rule::Sgd(rule), Memory::Sgd(state)) => {
                    let weight_decay = if param.traits.decay { rule.weight_decay } else { 0.0 };
                    Sgd { weight_decay, ..rule }.update(learning_rate, scale, values, gradient, state);
                }
                // A checkpoint of another optimiser is refused when it is read.
                _ => unreachable!("memory of another rule"),
            }
        }
    }

    /// Bytes the memory takes once it is in use.
    pub fn bytes(&self, stack: &EditStack) -> usize {
        let of = |(param, memory): (&Param, &Memory)| {
            let elements = param.value.elements();
            match (memory, self.rule) {
                (Memory::Adam(_), _) => 2 * elements * size_of::<f32>(),
                (Memory::Adam8(_), _) => Adam8State::bytes(elements),
                (Memory::Sgd(_), Rule::Sgd(rule)) if rule.momentum > 0.0 => elements * size_of::<f32>(),
                (Memory::Sgd(_), _) => 0,
            }
        };
        stack.trained_params().map(|(_, param)| param).zip(&self.memory).map(of).sum()
    }
}

/// Parameters below this size keep their moments in `f32`, as `bitsandbytes` has it: they take no memory to speak of.
const SMALL: usize = 4096;

/// Whether a parameter's moments may be kept in 8 bits. Embedding tables and heads keep `f32`, as Hugging Face's trainer has
/// it: most of their rows get no gradient in a step, and what they get differs by orders of magnitude.
fn fits_8_bits(param: &Param) -> bool {
    let table = [EMBED_TOKENS, LM_HEAD].iter().any(|name| param.key.ends_with(name));
    param.value.elements() >= SMALL && !table
}

/// The norm of all trained parameters' gradients together.
pub fn gradient_norm(stack: &EditStack, gradients: &Gradients) -> f64 {
    global_norm(stack.trained_params().filter_map(|(id, _)| gradients.param(id)).map(|g| g.as_slice::<f32>()))
}
