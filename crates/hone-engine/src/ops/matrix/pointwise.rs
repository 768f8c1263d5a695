//! A function of every element, and its derivative times the output's gradient backward.
//!
//! Those that are activations of a network ([`Activation`]) are computed by [`activation`]; the others here. Where a function
//! has a kink, its derivative there is PyTorch's: 0 for `|x|` at 0, 1 for a clamp at its bounds.

use super::super::gated::{Activation, activation};
use super::super::map::{map, zip_map};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pointwise {
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `tanh x`.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `e^x`.
    Exp,
    /// Natural logarithm; NaN below 0, negative infinity at 0.
    Ln,
    /// `√x`; NaN below 0. Its derivative at 0 is infinite.
    Sqrt,
    /// `1 / x`.
    Reciprocal,
    /// `x²`.
    Square,
    /// `|x|`.
    Abs,
    /// `sin x`, `x` in radians.
    Sin,
    /// `cos x`, `x` in radians.
    Cos,
    /// `x` within `[low, high]`, else the nearer bound; nothing flows back from outside.
    Clamp {
        /// Lower bound.
        low: f32,
        /// Upper bound, at least `low`.
        high: f32,
    },
    /// `x + by`.
    Shift {
        /// What is added.
        by: f32,
    },
}

/// `f(x)`, of `x`'s shape and type. Panics on a clamp whose bounds are out of order.
pub fn pointwise(tape: &Tape, x: &Var, f: Pointwise) -> Var {
    /// A function and its derivative, compiled into the loops over the elements.
    macro_rules! function {
        (|$x:ident| $value:expr, |$at:pat_param| $slope:expr) => {
            apply(
                tape,
                x,
                #[inline(always)]
                move |$x: f32| $value,
                #[inline(always)]
                move |$at: f32| $slope,
            )
        };
    }
    match f {
        Pointwise::Sigmoid => activation(tape, x, Activation::Sigmoid),
        Pointwise::Tanh => activation(tape, x, Activation::Tanh),
        Pointwise::Relu => activation(tape, x, Activation::Relu),
        Pointwise::Exp => function!(|x| simd::exp(x), |x| simd::exp(x)),
        Pointwise::Ln => function!(|x| x.ln(), |x| 1.0 / x),
        Pointwise::Sqrt => function!(|x| x.sqrt(), |x| 0.5 / x.sqrt()),
        Pointwise::Reciprocal => function!(|x| 1.0 / x, |x| -1.0 / (x * x)),
        Pointwise::Square => function!(|x| x * x, |x| 2.0 * x),
        // Not `signum` alone, which is 1 at 0.
        Pointwise::Abs => function!(|x| x.abs(), |x| if x == 0.0 { 0.0 } else { x.signum() }),
        Pointwise::Sin => function!(|x| x.sin(), |x| x.cos()),
        Pointwise::Cos => function!(|x| x.cos(), |x| -x.sin()),
        Pointwise::Clamp { low, high } => {
            assert!(low <= high, "a clamp between {low} and {high}");
            function!(|x| x.clamp(low, high), |x| if x >= low && x <= high { 1.0 } else { 0.0 })
        }
        Pointwise::Shift { by } => function!(|x| x + by, |_| 1.0),
    }
}

/// `value(x)`, recorded with the derivative `slope(x)`.
#[inline(always)]
fn apply(tape: &Tape, x: &Var, value: impl Fn(f32) -> f32 + Sync, slope: impl Fn(f32) -> f32 + Sync + 'static) -> Var {
    let _span = profile::span("pointwise", Pass::Forward);
    let value = map(x.value.clone(), value);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("pointwise", Pass::Backward);
        let dx = zip_map(
            grad,
            &x.value,
            #[inline(always)]
            |grad, x| grad * slope(x),
        );
        into.add(&x, dx);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::tape::{Gradients, ParamId};
    use crate::{DType, Tensor};

    /// Every function with its `f64` version.
    fn all() -> Vec<(Pointwise, fn(f64) -> f64)> {
        vec![
            (Pointwise::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (Pointwise::Tanh, f64::tanh),
            (Pointwise::Relu, |x| x.max(0.0)),
            (Pointwise::Exp, f64::exp),
            (Pointwise::Ln, f64::ln),
            (Pointwise::Sqrt, f64::sqrt),
            (Pointwise::Reciprocal, |x| 1.0 / x),
            (Pointwise::Square, |x| x * x),
            (Pointwise::Abs, f64::abs),
            (Pointwise::Sin, f64::sin),
            (Pointwise::Cos, f64::cos),
            // Bounds that no bf16 number stands on, where differences straddle the kink.
            (Pointwise::Clamp { low: -0.503, high: 0.753 }, |x| x.clamp(-0.503, 0.753)),
            (Pointwise::Shift { by: 1.5 }, |x| x + 1.5),
        ]
    }

    /// Numbers of both signs, or, where only those have a value, positive ones.
    fn domain(f: Pointwise, dtype: DType) -> Tensor {
        let x = random([8, 40], dtype, 1);
        match f {
            Pointwise::Ln | Pointwise::Sqrt | Pointwise::Reciprocal => {
                let positive: Vec<f32> = x.to_vec_f32().iter().map(|v| v.abs() + 0.25).collect();
                Tensor::from_slice([8, 40], &positive).to_dtype(dtype)
            }
            _ => x,
        }
    }

    #[test]
    fn functions_match_the_reference() {
        for (f, reference) in all() {
            for dtype in [DType::F32, DType::BF16] {
                let oracle = |v: &[Vec<f64>]| vec![v[0].iter().map(|x| reference(*x)).collect()];
                check(&[domain(f, dtype)], tolerance(dtype), |tape, v| vec![pointwise(tape, &v[0], f)], oracle);
            }
        }
    }

    #[test]
    fn kinks_have_the_documented_derivatives() {
        let at = |f: Pointwise, x: f32| {
            let tape = Tape::recording();
            let y = pointwise(&tape, &Var::param(ParamId(0), Tensor::full([1], DType::F32, x)), f);
            let mut grads = Gradients::new();
            tape.backward(&y, Tensor::full([1], DType::F32, 1.0), &mut grads);
            grads.param(ParamId(0)).map(Tensor::item)
        };
        assert_eq!(at(Pointwise::Abs, 0.0), Some(0.0));
        for (x, slope) in [(-1.0, 1.0), (2.0, 1.0), (2.5, 0.0), (-1.5, 0.0)] {
            assert_eq!(at(Pointwise::Clamp { low: -1.0, high: 2.0 }, x), Some(slope), "at {x}");
        }
    }

    #[test]
    fn not_a_number_stays_visible() {
        let x = Var::constant(Tensor::full([1], DType::F32, f32::NAN));
        for (f, _) in all() {
            assert!(pointwise(&Tape::off(), &x, f).value.item().is_nan(), "{f:?}");
        }
    }
}
