//! C3A (Chen et al. 2024, "Parameter-Efficient Fine-Tuning via Circular Convolution", arXiv 2407.19342): `W + ΔW` with `ΔW`
//! made of `b × b` circulant blocks, each given by one vector: full rank with `in · out / b` numbers.
//!
//! `K` `[out/b, in/b, b]`; in block `(m, n)`, row `u` and column `t` hold `K[m, n, (t − u) mod b] / in`. (PEFT multiplies
//! by Fourier transforms; this is the same matrix, put together, since a product with it costs a CPU no more at these block
//! sizes.) Start, by `init_weights`: `"xavier_uniform"` (Hugging Face's default, and `false`), `"kaiming_uniform"`,
//! `"gaussian"`: the model is **not** unchanged; `true`: 0, so it is, and a recipe's default. Parameters: `in · out / b`.

use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Delta, DeltaPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_rank, key, wrong};
use crate::target::pattern_value;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "c3a",
    peft_type: "C3A",
    family: "orthogonal and spectral",
    summary: "circulant blocks: circular convolutions beside each map",
    paper: "arXiv 2407.19342",
    formula: "W + blocks circ(K_mn) / in",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<C3aConfig>(),
};

/// Hugging Face's `C3AConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct C3aConfig {
    /// Side of a block; it divides both sides of every map. Hugging Face's default is 256; a recipe's is 64.
    pub block_size: usize,
    /// Other sides by name or regular expression.
    pub block_size_pattern: Map<String, Value>,
    /// First values: see the [module](self).
    pub init_weights: InitC3a,
    /// Which biases are trained: `none`, `all`, `c3a_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

/// First values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, or the name of a start")]
pub enum InitC3a {
    /// `true`: 0. `false`: as `xavier_uniform`.
    Standard(bool),
    /// `xavier_uniform`, `kaiming_uniform` or `gaussian`.
    Named(String),
}

impl Default for C3aConfig {
    fn default() -> Self {
        C3aConfig {
            block_size: 256,
            block_size_pattern: Map::new(),
            init_weights: InitC3a::Named("xavier_uniform".into()),
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[("block_size", json!(64)), ("init_weights", json!(true))]);
    let c3a: C3aConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    c3a.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "block_size", c3a.block_size)?;
    c3a.biases()?;
    match &c3a.init_weights {
        InitC3a::Named(word) if !["xavier_uniform", "kaiming_uniform", "gaussian"].contains(&word.as_str()) => {
            let expected = "`true`, `false`, `xavier_uniform`, `kaiming_uniform` or `gaussian`";
            Err(wrong(METHOD.name, "init_weights", format!("`{word}`"), expected))
        }
        _ => Ok(Arc::new(c3a)),
    }
}

impl C3aConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "c3a_only")
    }

    fn side(&self, weight: &BaseWeight) -> Result<usize, EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let pattern = pattern_value(METHOD.name, "block_size_pattern", &self.block_size_pattern, module)?;
        let side = pattern.map_or(Some(self.block_size), |value| value.as_u64().map(|side| side as usize));
        let fits = |side: &usize| *side > 0 && out.is_multiple_of(*side) && inputs.is_multiple_of(*side);
        side.filter(fits).ok_or_else(|| {
            let (field, found) = match pattern {
                None => ("block_size", self.block_size.to_string()),
                Some(value) => ("block_size_pattern", value.to_string()),
            };
            wrong(METHOD.name, field, found, format!("a divisor of both sides of `{module}`, [{out}, {inputs}]"))
        })
    }

    fn first_value(&self, out: usize, inputs: usize) -> Init {
        match &self.init_weights {
            InitC3a::Standard(true) => Init::Zeros,
            InitC3a::Named(word) if word == "gaussian" => Init::Normal { std: 1.0 },
            InitC3a::Named(word) if word == "kaiming_uniform" => Init::Uniform { bound: (1.0 / inputs as f32).sqrt() },
            _ => Init::Uniform { bound: (6.0 / (inputs + out) as f32).sqrt() },
        }
    }
}

impl Method for C3aConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                let (out, inputs, side) = (weight.shape[0], weight.shape[1], self.side(weight)?);
                let shape = [out / side, inputs / side, side];
                let kernel = ParamPlan::new(key(weight.module(), "c3a_kernel"), &shape, self.first_value(out, inputs));
                plan.on_linear(weight, DeltaPart::new(Circulant), [kernel]);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// Blocks whose rows are one another turned by one.
struct Circulant;

impl Delta for Circulant {
    fn delta(&self, tape: &Tape, values: &[Var], _weight: &dyn Fn() -> Tensor) -> Var {
        let [down, across, side] = values[0].value.dims() else { unreachable!("C3A plans a kernel of three axes") };
        let (down, across, side) = (*down, *across, *side);
        // Row `u` of a block is a window of its vector written twice, from `b − u` on.
        let kernel = ops::reshape(tape, &values[0], &[down * across, side]);
        let twice = ops::concat_columns(tape, &[kernel.clone(), kernel]);
        let windows: Vec<Var> =
            (0..side).map(|row| ops::columns(tape, &twice, (side - row) % side..(side - row) % side + side)).collect();
        // `[(block row, block column, row), side]` becomes `[(block row, row, block column), side]`, which is `[out, in]`.
        let rows = ops::reshape(tape, &ops::concat_columns(tape, &windows), &[down * across * side, side]);
        let places = (0..down).flat_map(|m| (0..side).flat_map(move |u| (0..across).map(move |n| (m, u, n))));
        let order: Vec<u32> = places.map(|(m, u, n)| ((m * across + n) * side + u) as u32).collect();
        let matrix = ops::reshape(tape, &ops::gather_rows(tape, &rows, &order), &[down * side, across * side]);
        ops::scale(tape, &matrix, 1.0 / (across * side) as f32)
    }
}
