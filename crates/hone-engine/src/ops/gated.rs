//! Gated activation of an MLP: `f(gate) * up` (SwiGLU, GeGLU; arXiv 2002.05202), and plain activations.
//!
//! Computed in `f32` and rounded once. Backward writes the gradients over `gate` and `up` themselves when nobody else
//! holds them: these are the widest activations of a decoder.

use super::map::{map, same, zip_map};
use crate::dtype::Element;
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

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

/// A function and its derivative, branch-free.
trait Pointwise {
    fn value(x: f32) -> f32;
    /// `(f(x), f'(x))`.
    fn with_slope(x: f32) -> (f32, f32);
}

struct Silu;
impl Pointwise for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * simd::sigmoid(x)
    }
    #[inline(always)]
    fn with_slope(x: f32) -> (f32, f32) {
        let s = simd::sigmoid(x);
        (x * s, s * x.mul_add(1.0 - s, 1.0))
    }
}

struct Gelu;
impl Gelu {
    #[inline(always)]
    fn phi(x: f32) -> f32 {
        0.5 * (1.0 + simd::erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }
}
impl Pointwise for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * Self::phi(x)
    }
    #[inline(always)]
    fn with_slope(x: f32) -> (f32, f32) {
        const DENSITY_AT_ZERO: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
        let phi = Self::phi(x);
        (x * phi, (x * DENSITY_AT_ZERO).mul_add(simd::exp(-0.5 * x * x), phi))
    }
}

struct GeluTanh;
impl GeluTanh {
    /// `2 sqrt(2 / pi)`: with it `(1 + tanh(u)) / 2` is `sigmoid(2u)`, which is cheaper.
    const C: f32 = 1.595_769_1;
    const CUBIC: f32 = 0.044_715;
    #[inline(always)]
    fn gate(x: f32) -> f32 {
        simd::sigmoid(Self::C * x * (x * x).mul_add(Self::CUBIC, 1.0))
    }
}
impl Pointwise for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * Self::gate(x)
    }
    #[inline(always)]
    fn with_slope(x: f32) -> (f32, f32) {
        let s = Self::gate(x);
        let inner = Self::C * (x * x).mul_add(3.0 * Self::CUBIC, 1.0);
        (x * s, s * (x * inner).mul_add(1.0 - s, 1.0))
    }
}

struct Relu;
impl Pointwise for Relu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        // Not `max`, which would turn NaN into 0.
        if x < 0.0 { 0.0 } else { x }
    }
    #[inline(always)]
    fn with_slope(x: f32) -> (f32, f32) {
        (Self::value(x), if x > 0.0 { 1.0 } else { 0.0 })
    }
}

struct Tanh;
impl Pointwise for Tanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        simd::tanh(x)
    }
    #[inline(always)]
    fn with_slope(x: f32) -> (f32, f32) {
        let t = simd::tanh(x);
        (t, (-t).mul_add(t, 1.0))
    }
}

struct Sigmoid;
impl Pointwise for Sigmoid {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        simd::sigmoid(x)
    }
    #[inline(always)]
    fn with_slope(x: f32) -> (f32, f32) {
        let s = simd::sigmoid(x);
        (s, s * (1.0 - s))
    }
}

/// Runs `$body` with `$F` bound to the function, so that the choice is made once a pass.
macro_rules! with_function {
    ($f:expr, $F:ident => $body:expr) => {
        match $f {
            Activation::Silu => {
                type $F = Silu;
                $body
            }
            Activation::Gelu => {
                type $F = Gelu;
                $body
            }
            Activation::GeluTanh => {
                type $F = GeluTanh;
                $body
            }
            Activation::Relu => {
                type $F = Relu;
                $body
            }
            Activation::Tanh => {
                type $F = Tanh;
                $body
            }
            Activation::Sigmoid => {
                type $F = Sigmoid;
                $body
            }
        }
    };
}

/// `f(gate) * up`, same shapes. Panics if they differ.
pub fn gated(tape: &Tape, gate: &Var, up: &Var, f: Activation) -> Var {
    let _span = profile::span("gated", Pass::Forward);
    let value = with_function!(f, F => zip_map(
        gate.value.clone(),
        &up.value,
        #[inline(always)]
        |gate, up| F::value(gate) * up,
    ));
    if !tape.needs_grad(&[gate, up]) {
        return Var::constant(value);
    }
    let (mut gate, mut up) = (gate.clone(), up.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("gated", Pass::Backward);
        with_function!(f, F => gated_backward::<F>(&grad, &mut gate.value, &mut up.value));
        let (dgate, dup) = (gate.value.clone(), up.value.clone());
        into.add(&gate, dgate);
        into.add(&up, dup);
    })
}

/// Turns `gate` into `grad * f'(gate) * up` and `up` into `grad * f(gate)`.
fn gated_backward<F: Pointwise>(grad: &Tensor, gate: &mut Tensor, up: &mut Tensor) {
    same(grad, gate);
    crate::dispatch_dtype!(gate.dtype(), T => {
        let grad = grad.as_slice::<T>();
        let (gate, up) = (gate.as_mut_slice::<T>(), up.as_mut_slice::<T>());
        for_blocks(
            grad.len(),
            1,
            (Rows::new(gate, 1), Rows::new(up, 1)),
            #[inline(always)]
            |range, (gate, up): (Rows<T>, Rows<T>)| {
                for ((gate, up), grad) in gate.data.iter_mut().zip(up.data).zip(&grad[range]) {
                    let (value, slope) = F::with_slope(Element::widen(*gate));
                    let grad = Element::widen(*grad);
                    *gate = T::rounded(grad * slope * Element::widen(*up));
                    *up = T::rounded(grad * value);
                }
            },
        )
    })
}

/// `f(x)`.
pub fn activation(tape: &Tape, x: &Var, f: Activation) -> Var {
    let _span = profile::span("activation", Pass::Forward);
    let value = with_function!(f, F => map(
        x.value.clone(),
        F::value,
    ));
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("activation", Pass::Backward);
        let dx = with_function!(f, F => zip_map(
            grad,
            &x.value,
            #[inline(always)]
            |grad, x| grad * F::with_slope(x).1,
        ));
        into.add(&x, dx);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::pointwise::activation as reference;
    use crate::tape::{Gradients, ParamId};
    use crate::{DType, bf16};

    const ALL: [Activation; 6] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    #[test]
    fn activations_match_the_reference() {
        for (f, dtype) in ALL.into_iter().flat_map(|f| [(f, DType::F32), (f, DType::BF16)]) {
            let x = [random([8, 40], dtype, 1)];
            let oracle = |v: &[Vec<f64>]| vec![v[0].iter().map(|x| reference(*x, f)).collect()];
            check(&x, tolerance(dtype), |tape, v| vec![activation(tape, &v[0], f)], oracle);
        }
    }

    #[test]
    fn gated_activations_match_the_reference() {
        for (f, dtype) in ALL.into_iter().flat_map(|f| [(f, DType::F32), (f, DType::BF16)]) {
            let inputs = [random([5, 33], dtype, 2), random([5, 33], dtype, 3)];
            let oracle =
                |v: &[Vec<f64>]| vec![v[0].iter().zip(&v[1]).map(|(gate, up)| reference(*gate, f) * up).collect()];
            check(&inputs, tolerance(dtype), |tape, v| vec![gated(tape, &v[0], &v[1], f)], oracle);
        }
    }

    #[test]
    fn backward_leaves_inputs_alone_that_others_hold() {
        let held = random([2, 8], DType::BF16, 4);
        let before = held.as_slice::<bf16>().to_vec();
        let tape = Tape::recording();
        let (gate, up) = (Var::param(ParamId(0), held.clone()), Var::param(ParamId(1), held.clone()));
        let y = gated(&tape, &gate, &up, Activation::Silu);
        tape.backward(&y, Tensor::full([2, 8], DType::BF16, 1.0), &mut Gradients::new());
        assert_eq!(held.as_slice::<bf16>(), before);
    }

    #[test]
    fn not_a_number_stays_visible() {
        let x = Var::constant(Tensor::full([1], DType::F32, f32::NAN));
        for f in ALL {
            assert!(activation(&Tape::off(), &x, f).value.item().is_nan(), "{f:?}");
        }
    }
}
