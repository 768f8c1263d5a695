//! Checks an operation, forward and backward, against an `f64` function.
//!
//! The loss is `L = Σ c · y` with fixed random `c`. The operation's gradient of `L` is compared with central differences
//! of the *oracle* in `f64`: with a step of 1e-5 those are good to about 1e-9, so what is left is the operation's own
//! rounding, and tolerances can be those of its arithmetic.

use crate::dtype::DType;
use crate::random::RandomKey;
use crate::tape::{Gradients, ParamId, Tape, Var};
use crate::tensor::{Shape, Tensor};

/// Rounding of `f32` sums of tens of terms (16 times 2^-24), relative to the entry and to the tensor's scale.
pub(crate) const F32: f64 = 1e-6;
/// Four roundings to `bf16` (2^-9 each) in a row.
pub(crate) const BF16: f64 = 8e-3;

/// `F32` or `BF16`.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => F32,
        DType::BF16 => BF16,
    }
}

/// Standard normal numbers, rounded to `dtype`.
pub(crate) fn random(shape: impl Into<Shape>, dtype: DType, seed: u64) -> Tensor {
    let shape = shape.into();
    let key = RandomKey::new(seed).named("test");
    let values: Vec<f32> = (0..shape.elements() as u64).map(|i| key.normal(i)).collect();
    Tensor::from_slice(shape, &values).to_dtype(dtype)
}

/// The elements in `f64`.
pub(crate) fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec_f32().into_iter().map(f64::from).collect()
}

/// Panics where `got` is off `want` by more than `tolerance` of the entry plus the root mean square of all.
pub(crate) fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let mean_square = want.iter().map(|v| v * v).sum::<f64>() / want.len().max(1) as f64;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let allowed = tolerance * (w.abs() + mean_square.sqrt()) + 1e-12;
        assert!((g - w).abs() <= allowed, "{what}[{i}]: {g}, expected {w} within {allowed:.1e}");
    }
}

/// A scalar that depends on every output: `Σ c · y`, recorded.
fn weighted_sum(tape: &Tape, outputs: Vec<Var>, cotangents: Vec<Tensor>) -> Var {
    let value = Tensor::full([1], DType::F32, 0.0);
    tape.record(value, move |_, into| {
        for (output, cotangent) in outputs.iter().zip(cotangents) {
            into.add(output, cotangent);
        }
    })
}

/// Checks `op` against `oracle` over `inputs`, all of which need gradients. Both return one or more outputs, in the same
/// order. `op` is given the inputs as parameters.
pub(crate) fn check(
    inputs: &[Tensor],
    tolerance: f64,
    op: impl Fn(&Tape, &[Var]) -> Vec<Var>,
    oracle: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
) {
    let tape = Tape::recording();
    let vars: Vec<Var> = inputs.iter().enumerate().map(|(i, t)| Var::param(ParamId(i as u32), t.clone())).collect();
    let outputs = op(&tape, &vars);
    let mut at: Vec<Vec<f64>> = inputs.iter().map(wide).collect();
    let want = oracle(&at);
    assert_eq!(outputs.len(), want.len(), "number of outputs");
    for (i, (got, want)) in outputs.iter().zip(&want).enumerate() {
        assert!(got.needs_grad(), "output {i} was not recorded");
        assert_close(&format!("output {i}"), &wide(&got.value), want, tolerance);
        assert_eq!(wide(&op(&Tape::off(), &vars)[i].value), wide(&got.value), "output {i} differs with the tape off");
    }

    let cotangents: Vec<Tensor> =
        outputs.iter().enumerate().map(|(i, y)| random(y.value.shape(), y.value.dtype(), 1000 + i as u64)).collect();
    let weights: Vec<Vec<f64>> = cotangents.iter().map(wide).collect();
    let loss = weighted_sum(&tape, outputs, cotangents);
    let mut grads = Gradients::new();
    tape.backward(&loss, Tensor::full([1], DType::F32, 1.0), &mut grads);

    let loss_at = |at: &[Vec<f64>]| -> f64 {
        let outputs = oracle(at);
        outputs.iter().flatten().zip(weights.iter().flatten()).map(|(y, c)| y * c).sum()
    };
    const STEP: f64 = 1e-5;
    for i in 0..at.len() {
        let differences: Vec<f64> = (0..at[i].len())
            .map(|j| {
                let x = at[i][j];
                at[i][j] = x + STEP;
                let above = loss_at(&at);
                at[i][j] = x - STEP;
                let below = loss_at(&at);
                at[i][j] = x;
                (above - below) / (2.0 * STEP)
            })
            .collect();
        let got = grads.param(ParamId(i as u32)).unwrap_or_else(|| panic!("input {i} got no gradient"));
        assert_close(&format!("gradient of input {i}"), &wide(got), &differences, tolerance);
    }
}
