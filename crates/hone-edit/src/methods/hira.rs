//! HiRA (Huang et al. 2025, "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation", ICLR 2025): `W + W ⊙ (B A)`: the
//! low-rank matrix scales the base weight element by element, so the change can have the base's rank. There is no `alpha`.
//!
//! `A` `[r, in]`, `B` `[out, r]`. Start: `A` Kaiming-uniform (`U(±1/√in)`) or normal (`N(0, 1/r²)`), `B` 0, so the model is
//! unchanged. Parameters: `r (in + out)` a map. Every step multiplies by the base weight in `f32`: a quantised base is
//! expanded a matrix at a time. Stacked on other edits, `W` is the model's own weight.

use std::sync::Arc;

use hone_engine::{DType, Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Delta, DeltaPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "hira",
    peft_type: "HIRA",
    family: "low rank",
    summary: "a low-rank matrix that scales the base weight element by element",
    paper: "HiRA, ICLR 2025",
    formula: "W + W ⊙ (B A)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<HiraConfig>(),
};

/// Hugging Face's `HiraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HiraConfig {
    /// Rank.
    pub r: usize,
    /// Dropout on the input of the change.
    pub hira_dropout: f64,
    /// `true`: uniform `A`; `"gaussian"`: normal `A`; `false`: both normal, not the identity, for tests.
    pub init_weights: InitHira,
    /// PEFT 0.21 has the field and gives every map the rank `r` whatever it says; so does Hone for its files, and refuses
    /// it in a recipe.
    pub rank_pattern: Map<String, Value>,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

/// First values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, or `gaussian`")]
pub enum InitHira {
    /// `true` or `false`.
    Standard(bool),
    /// A named one: `gaussian`.
    Named(String),
}

impl Default for HiraConfig {
    fn default() -> Self {
        HiraConfig {
            r: 32,
            hira_dropout: 0.0,
            init_weights: InitHira::Standard(true),
            rank_pattern: Map::new(),
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
    let fields = TargetFields::recommended(fields, origin, &[("r", json!(32))]);
    let hira: HiraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    hira.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", hira.r)?;
    check_probability(METHOD.name, "hira_dropout", hira.hira_dropout)?;
    if !hira.rank_pattern.is_empty() {
        let found = Value::Object(hira.rank_pattern.clone()).to_string();
        let reason = "PEFT gives every map the rank `r` whatever it says; train two adapters and stack them instead";
        match origin {
            Origin::Recipe => {
                let field = "rank_pattern".into();
                return Err(EditError::Unsupported { method: METHOD.name, field, found, reason: reason.into() });
            }
            Origin::File => {
                warnings.push(format!("`hira`: `rank_pattern` {found} is not used, as PEFT does not use it"))
            }
        }
    }
    if let InitHira::Named(word) = &hira.init_weights
        && !word.eq_ignore_ascii_case("gaussian")
    {
        return Err(wrong(METHOD.name, "init_weights", format!("`{word}`"), "`true`, `false` or `gaussian`"));
    }
    Ok(Arc::new(hira))
}

impl HiraConfig {
    fn first_values(&self, r: usize, inputs: usize) -> (Init, Init) {
        match &self.init_weights {
            InitHira::Standard(true) => (Init::Uniform { bound: 1.0 / (inputs as f32).sqrt() }, Init::Zeros),
            InitHira::Standard(false) => (Init::Normal { std: 1.0 }, Init::Normal { std: 1.0 }),
            InitHira::Named(_) => (Init::Normal { std: 1.0 / r as f32 }, Init::Zeros),
        }
    }
}

impl Method for HiraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan(METHOD.name, base, Q_AND_V, (self.fields(), INERT), |plan, weight| {
            let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
            let r = self.r;
            let (a, b) = self.first_values(r, inputs);
            let pair = [
                ParamPlan::new(key(module, "hira_A"), &[r, inputs], a),
                ParamPlan::new(key(module, "hira_B"), &[out, r], b),
            ];
            plan.on_linear(weight, DeltaPart { delta: Scaled, dropout: self.hira_dropout as f32 }, pair);
            Ok(())
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `W ⊙ (B A)`.
struct Scaled;

impl Delta for Scaled {
    fn delta(&self, tape: &Tape, values: &[Var], weight: &dyn Fn() -> Tensor) -> Var {
        let product = ops::convert(tape, &ops::product(tape, &values[1], &values[0]), DType::F32);
        ops::multiply(tape, &product, &Var::constant(weight()))
    }
}
