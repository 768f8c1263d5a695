//! VeRA (Kopiczko et al. 2024, arXiv 2310.11454): `W + diag(b) B diag(d) A`, with one random pair `A`, `B` that is frozen
//! and shared by all maps, and two trained vectors a map.
//!
//! `A` `[r, widest in]`, `B` `[widest out, r]`; a map uses the first `in` columns of `A` and the first `out` rows of `B`.
//! Both are `U(±√(6/columns))`, drawn as PyTorch draws them from `projection_prng_key`, so an adapter without them
//! (`save_projection: false`) is made whole again here and in PEFT alike. Start: `d = d_initial`, `b = 0`, so the model is
//! unchanged. Parameters: `out + r` a map. The vectors are small, so VeRA wants a learning rate ten times LoRA's or more.

use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, WeightRef, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::dropped;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key};
use crate::torch_random::TorchRandom;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "vera",
    peft_type: "VERA",
    family: "low rank",
    summary: "two trained vectors a map around a random pair that all maps share",
    paper: "arXiv 2310.11454",
    formula: "W + diag(b) B diag(d) A",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<VeraConfig>(),
};

/// Hugging Face's `VeraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VeraConfig {
    /// Rank of the shared pair.
    pub r: usize,
    /// Seed of the shared pair.
    pub projection_prng_key: u64,
    /// Whether the file holds the shared pair.
    pub save_projection: bool,
    /// Dropout on the input of `A`.
    pub vera_dropout: f64,
    /// First value of `d`.
    pub d_initial: f64,
    /// Whether the model is unchanged at the start; `false`: `d` normal and `b` 1, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `vera_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for VeraConfig {
    fn default() -> Self {
        VeraConfig {
            r: 256,
            projection_prng_key: 0,
            save_projection: true,
            vera_dropout: 0.0,
            d_initial: 0.1,
            init_weights: true,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[config::TRANSPOSED];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[("r", json!(256))]);
    let vera: VeraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    vera.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", vera.r)?;
    check_probability(METHOD.name, "vera_dropout", vera.vera_dropout)?;
    vera.biases()?;
    Ok(Arc::new(vera))
}

/// The bound of Kaiming-uniform values with `a = 0`, in the order PyTorch computes it.
fn bound(columns: usize) -> f32 {
    (3f64.sqrt() * (2f64.sqrt() / (columns as f64).sqrt())) as f32
}

impl VeraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "vera_only")
    }
}

/// The pair that all maps share, `A` and `B` by name and shape: uniform, one drawn after the other from `seed`. The file
/// holds it if it is `saved`.
pub(super) fn shared_pair(
    (name_a, [rows, inputs]): (&str, [usize; 2]),
    (name_b, [out, r]): (&str, [usize; 2]),
    seed: u64,
    saved: bool,
) -> [ParamPlan; 2] {
    let first = move |random: &mut TorchRandom| random.uniform(rows * inputs, -bound(inputs), bound(inputs));
    let a = move |_: &Base| Tensor::from_slice([rows, inputs], &first(&mut TorchRandom::new(seed)));
    let b = move |_: &Base| {
        let mut random = TorchRandom::new(seed);
        first(&mut random);
        Tensor::from_slice([out, r], &random.uniform(out * r, -bound(r), bound(r)))
    };
    let fixed = |name: &str, shape: &[usize], init: Init| {
        let plan = ParamPlan::new(format!("base_model.{name}"), shape, init).fixed();
        if saved { plan } else { plan.not_saved() }
    };
    [fixed(name_a, &[rows, inputs], Init::Computed(Box::new(a))), fixed(name_b, &[out, r], Init::Computed(Box::new(b)))]
}

impl Method for VeraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (out, inputs) = self.targets.widest(METHOD.name, base, Q_AND_V)?;
        let (a, b) = (("vera_A", [self.r, inputs]), ("vera_B", [out, self.r]));
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
                    ParamPlan::new(key(weight.module(), "vera_lambda_b"), &[weight.shape[0]], b()),
                    ParamPlan::new(key(weight.module(), "vera_lambda_d"), &[self.r], d()),
                ];
                plan.on_linear_sharing(weight, Vectors { dropout: self.vera_dropout as f32 }, 0..2, own);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The vectors `b`, `d` of a map around its slice of the shared pair.
struct Vectors {
    dropout: f32,
}

/// The first `out` rows of `B` and the first `in` columns of `A`.
pub(super) fn slices(tape: &Tape, values: &[Var], out: usize, inputs: usize) -> (Var, Var) {
    (ops::rows(tape, &values[1], 0..out), ops::columns(tape, &values[0], 0..inputs))
}

impl Part for Vectors {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let (lambda_b, lambda_d) = (&at.values[2], &at.values[3]);
        let (b, a) = slices(tape, at.values, lambda_b.value.elements(), x.value.rows_cols().1);
        // The pair is frozen, so the vectors scale activations: no gradient of the size of the pair is made.
        let inner = ops::linear(tape, &dropped(at, x, self.dropout), &WeightRef::Trained(a), None, &[]);
        let inner = ops::scale_columns(tape, &inner, lambda_d);
        let outer = ops::linear(tape, &inner, &WeightRef::Trained(b), None, &[]);
        ops::add_scaled(tape, &next(x), &ops::scale_columns(tape, &outer, lambda_b), at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        let values = merge.constants();
        let (out, inputs) = merge.weight.rows_cols();
        let (b, a) = slices(&tape, &values, out, inputs);
        let (b, a) = (ops::scale_rows(&tape, &b, &values[2]), ops::scale_rows(&tape, &a, &values[3]));
        Ok(merge.with_product(1.0, &b.value, &a.value))
    }
}
