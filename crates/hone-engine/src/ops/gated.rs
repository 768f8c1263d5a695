//! Gated activation of an MLP: `f(gate) * up` (SwiGLU, GeGLU), and plain activations.

use crate::tape::{Tape, Var};

/// Point-wise non-linearities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)`, with erf.
    Gelu,
    /// GELU with the tanh approximation (`gelu_pytorch_tanh`, `gelu_new`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// `f(gate) * up`, same shapes.
pub fn gated(_tape: &Tape, _gate: &Var, _up: &Var, _f: Activation) -> Var {
    todo!()
}
/// `f(x)`.
pub fn activation(_tape: &Tape, _x: &Var, _f: Activation) -> Var {
    todo!()
}
