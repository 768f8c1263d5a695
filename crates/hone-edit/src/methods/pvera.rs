//! PVeRA (Fillioux et al. 2025, "PVeRA: Probabilistic Vector-Based Random Matrix Adaptation", arXiv 2512.07703): VeRA whose
//! inner values are normal random numbers: `y = x Wᵀ + diag(b) B z`, `z ~ N(μ, σ²)`, with `(μ, ln σ²) = diag(d) A x`.
//!
//! `A` `[2 r, widest in]` (the first `r` rows give the mean, the others the logarithm of the variance), `B` `[widest out, r]`:
//! one pair for all maps, drawn as VeRA's is (see [`super::vera`]). `z = μ + ε σ` is drawn anew for every token while the
//! edit is trained, and is the mean everywhere else, which is `W + diag(b) B diag(d_μ) A_μ` and merges; drawing at inference
//! too (`sample_at_inference`) is refused. Start: `d = d_initial`, `b = 0`, so the model is unchanged. Parameters: `out + 2 r`
//! a map. It knows nothing of a divergence of `z` from a prior: PEFT trains without one as well.

use std::sync::Arc;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{RandomKey, Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::vera::{shared_pair, slices};
use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::dropped;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "pvera",
    peft_type: "PVERA",
    family: "low rank",
    summary: "VeRA with inner values drawn from a learned distribution while it is trained",
    paper: "arXiv 2512.07703",
    formula: "y + diag(b) B z, z ~ N(μ, σ²), (μ, ln σ²) = diag(d) A x",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<PveraConfig>(),
};

/// Hugging Face's `PveraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PveraConfig {
    /// Rank of the shared pair: inner values of a token.
    pub r: usize,
    /// Seed of the shared pair.
    pub projection_prng_key: u64,
    /// Whether the file holds the shared pair.
    pub save_projection: bool,
    /// Dropout on the input of `A`.
    pub pvera_dropout: f64,
    /// First value of `d`.
    pub d_initial: f64,
    /// Whether the model is unchanged at the start; `false`: `d` normal and `b` 1, for tests.
    pub init_weights: bool,
    /// Seed of the noise in training, beside the run's own.
    pub generator_seed: Option<u64>,
    /// Which biases are trained: `none`, `all`, `pvera_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for PveraConfig {
    fn default() -> Self {
        PveraConfig {
            r: 256,
            projection_prng_key: 0,
            save_projection: true,
            pvera_dropout: 0.0,
            d_initial: 0.1,
            init_weights: true,
            generator_seed: None,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[
    config::TRANSPOSED,
    Inert {
        field: "sample_at_inference",
        off: &["false"],
        reason: "the same text would get other logits each time; the mean is used, as PEFT does without it",
    },
];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[("r", json!(256))]);
    let pvera: PveraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    pvera.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", pvera.r)?;
    check_probability(METHOD.name, "pvera_dropout", pvera.pvera_dropout)?;
    pvera.biases()?;
    Ok(Arc::new(pvera))
}

impl PveraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "pvera_only")
    }
}

impl Method for PveraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (out, inputs) = self.targets.widest(METHOD.name, base, Q_AND_V)?;
        let (a, b) = (("pvera_A", [2 * self.r, inputs]), ("pvera_B", [out, self.r]));
        let mut pair = Some(shared_pair(a, b, self.projection_prng_key, self.save_projection));
        let d = || if self.init_weights { Init::Constant(self.d_initial as f32) } else { Init::Normal { std: 1.0 } };
        let b = || if self.init_weights { Init::Zeros } else { Init::Constant(1.0) };
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                if let Some(pair) = pair.take() {
                    plan.add(pair);
                }
                let own = [
                    ParamPlan::new(key(weight.module(), "pvera_lambda_b"), &[weight.shape[0]], b()),
                    ParamPlan::new(key(weight.module(), "pvera_lambda_d"), &[2 * self.r], d()),
                ];
                let part = Drawn { r: self.r, dropout: self.pvera_dropout as f32, seed: self.generator_seed };
                plan.on_linear_sharing(weight, part, 0..2, own);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The vectors `b`, `d` of a map around its slice of the shared pair, with inner values that are drawn.
struct Drawn {
    r: usize,
    dropout: f32,
    seed: Option<u64>,
}

impl Drawn {
    /// What `A` and `d` are for the mean alone: `A_μ` `[r, in]`, `d_μ` `[r]`.
    fn of_mean(&self, tape: &Tape, a: &Var, lambda_d: &Var) -> (Var, Var) {
        let d = ops::columns(tape, &ops::reshape(tape, lambda_d, &[1, 2 * self.r]), 0..self.r);
        (ops::rows(tape, a, 0..self.r), ops::reshape(tape, &d, &[self.r]))
    }

    /// Inner values drawn by the rows of `both`, `[tokens, 2 r]`.
    fn sampled(&self, at: &At, both: &Var) -> Var {
        let key = at.cx.key.named("pvera").named(at.name);
        let shape = [both.value.rows_cols().0, self.r];
        let noise = normal(self.seed.map_or(key, |seed| key.index(seed)), &shape);
        drawn(&at.cx.tape, both, &Var::constant(noise.to_dtype(both.value.dtype())))
    }
}

/// `μ + ε σ`: the rows of `both` `[tokens, 2 r]` are means, then logarithms of variances; `noise` `[tokens, r]` is `ε`.
fn drawn(tape: &Tape, both: &Var, noise: &Var) -> Var {
    let r = noise.value.rows_cols().1;
    let mean = ops::columns(tape, both, 0..r);
    let log_deviation = ops::scale(tape, &ops::columns(tape, both, r..2 * r), 0.5);
    let away = ops::multiply(tape, &ops::pointwise(tape, &log_deviation, Pointwise::Exp), noise);
    ops::add(tape, &mean, &away)
}

fn normal(key: RandomKey, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| key.normal(i)).collect();
    Tensor::from_slice(shape, &values)
}

impl Part for Drawn {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let (lambda_b, lambda_d) = (&at.values[2], &at.values[3]);
        let (b, a) = slices(tape, at.values, lambda_b.value.elements(), x.value.rows_cols().1);
        let projected = |a: Var, d: &Var| {
            let inner = ops::linear(tape, &dropped(at, x, self.dropout), &WeightRef::Trained(a), None, &[]);
            ops::scale_columns(tape, &inner, d)
        };
        let inner = if at.cx.training {
            self.sampled(at, &projected(a, lambda_d))
        } else {
            let (a, d) = self.of_mean(tape, &a, lambda_d);
            projected(a, &d)
        };
        let outer = ops::linear(tape, &inner, &WeightRef::Trained(b), None, &[]);
        ops::add_scaled(tape, &next(x), &ops::scale_columns(tape, &outer, lambda_b), at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        let values = merge.constants();
        let (out, inputs) = merge.weight.rows_cols();
        let (b, a) = slices(&tape, &values, out, inputs);
        let (a, d) = self.of_mean(&tape, &a, &values[3]);
        let (b, a) = (ops::scale_rows(&tape, &b, &values[2]), ops::scale_rows(&tape, &a, &d));
        Ok(merge.with_product(1.0, &b.value, &a.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_drawn_around_the_mean_by_the_square_root_of_the_variance() {
        let both = Var::constant(Tensor::from_slice([2, 4], &[1.0f32, -2.0, 0.0, 4f32.ln(), 0.5, 0.0, 9f32.ln(), 0.0]));
        let noise = Var::constant(Tensor::from_slice([2, 2], &[0.5f32, 1.5, -1.0, 0.0]));
        let values = drawn(&Tape::off(), &both, &noise).value.to_vec_f32();
        for (value, expected) in values.iter().zip([1.5f32, 1.0, -2.5, 0.0]) {
            assert!((value - expected).abs() < 1e-5, "{values:?}");
        }
    }
}
