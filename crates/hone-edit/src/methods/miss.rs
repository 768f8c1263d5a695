//! MiSS (Kang & Yin 2024, "MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure", arXiv
//! 2409.15371; the successor of Bone): `W` is cut into shards of `r` input columns, and all of them share one trained
//! matrix `M` `[r, out]`: `y = x Wᵀ + x̄ M`, with `x̄` `[tokens, r]` the sum of the input's groups of `r` numbers (the last
//! filled up with zeros).
//!
//! Forms, by `init_weights`:
//! - `true`: `M` starts at 0, so the model is unchanged (`false`: `U(±1/√out)`, for tests). Parameters: `r · out` a map;
//! - `"mini"`: `M` `[r, mini_r]`, repeated along `out`. Parameters: `r · mini_r`;
//! - `"bat"`: `M` `[out/r, r, r]`; each `r × r` block `W_ij` of the weight becomes `W_ij + W_ij M_i + M_i`. Needs `r` to
//!   divide both sides, and the base's values at every step. Parameters: `r · out`.
//!
//! The first two are a low-rank pair whose first matrix is fixed (column `i` of it has its 1 in row `i mod r`), and run as
//! one.

use std::sync::Arc;

use hone_engine::ops::LowRank;
use hone_engine::{DType, Tape, Tensor, Var, WeightRef, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Delta, DeltaPart, dropout};
use crate::method::{
    At, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "miss",
    peft_type: "MISS",
    family: "low rank",
    summary: "one trained matrix shared by all shards of a map's input",
    paper: "arXiv 2409.15371",
    formula: "y + Σ_g x_g M",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<MissConfig>(),
};

/// Hugging Face's `MissConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MissConfig {
    /// Width of a shard: the rank of the change.
    pub r: usize,
    /// Dropout on the input of the change.
    pub miss_dropout: f64,
    /// Distinct output columns of `M`, with `init_weights: mini` only.
    pub mini_r: usize,
    /// The form: `true`, `"mini"`, `"bat"`, or `false` for tests.
    pub init_weights: InitMiss,
    /// Which biases are trained: `none`, `all`, `miss_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

/// The form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, `mini` or `bat`")]
pub enum InitMiss {
    /// The plain one, starting at 0 or not.
    Standard(bool),
    /// `mini` or `bat`.
    Named(String),
}

impl Default for MissConfig {
    fn default() -> Self {
        MissConfig {
            r: 64,
            miss_dropout: 0.0,
            mini_r: 1,
            init_weights: InitMiss::Standard(true),
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
    let fields = TargetFields::recommended(fields, origin, &[("r", json!(64))]);
    let miss: MissConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    miss.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", miss.r)?;
    check_rank(METHOD.name, "mini_r", miss.mini_r)?;
    check_probability(METHOD.name, "miss_dropout", miss.miss_dropout)?;
    miss.biases()?;
    match &miss.init_weights {
        InitMiss::Named(word) if word != "mini" && word != "bat" => {
            Err(wrong(METHOD.name, "init_weights", format!("`{word}`"), "`true`, `false`, `mini` or `bat`"))
        }
        InitMiss::Named(word) if word == "bat" && miss.miss_dropout > 0.0 => Err(wrong(
            METHOD.name,
            "miss_dropout",
            miss.miss_dropout.to_string(),
            "0 with `init_weights: bat`, which changes the weight itself",
        )),
        _ => Ok(Arc::new(miss)),
    }
}

impl MissConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "miss_only")
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (module, out, inputs, r) = (weight.module(), weight.shape[0], weight.shape[1], self.r);
        let size = |expected: String| Err(wrong(METHOD.name, "r", r.to_string(), expected));
        let block = |shape: &[usize], init| [ParamPlan::new(key(module, "miss_block"), shape, init)];
        if r > inputs {
            return size(format!("at most {inputs}, the inputs of `{module}`"));
        }
        let dropout = self.miss_dropout as f32;
        match &self.init_weights {
            InitMiss::Named(word) if word == "bat" => {
                if !inputs.is_multiple_of(r) || !out.is_multiple_of(r) {
                    return size(format!("a divisor of both sides of `{module}`, [{out}, {inputs}]"));
                }
                plan.on_linear(weight, DeltaPart::new(Blocks { r }), block(&[out / r, r, r], Init::Zeros));
            }
            InitMiss::Named(_) => {
                if !out.is_multiple_of(self.mini_r) {
                    let expected = format!("a divisor of {out}, the outputs of `{module}`");
                    return Err(wrong(METHOD.name, "mini_r", self.mini_r.to_string(), expected));
                }
                let part = Shards { r, inputs, out, dropout };
                plan.on_linear(weight, part, block(&[r, self.mini_r], Init::Zeros));
            }
            InitMiss::Standard(at_zero) => {
                let random = Init::Uniform { bound: 1.0 / (out as f32).sqrt() };
                let init = if *at_zero { Init::Zeros } else { random };
                plan.on_linear(weight, Shards { r, inputs, out, dropout }, block(&[r, out], init));
            }
        }
        Ok(())
    }
}

impl Method for MissConfig {
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
            |plan, weight| self.plan_map(plan, weight),
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// All shards of the input share `M`.
struct Shards {
    r: usize,
    inputs: usize,
    out: usize,
    dropout: f32,
}

impl Shards {
    /// `[r, in]`: 1 where the row is the column's number in its shard.
    fn sharing(&self, dtype: DType) -> Tensor {
        let mut values = vec![0f32; self.r * self.inputs];
        (0..self.inputs).for_each(|i| values[i % self.r * self.inputs + i] = 1.0);
        Tensor::from_slice([self.r, self.inputs], &values).to_dtype(dtype)
    }

    /// `Mᵀ` `[out, r]`, repeated along `out` if it has fewer columns.
    fn shared(&self, tape: &Tape, m: &Var) -> Var {
        let turned = ops::transpose(tape, m);
        let (own, _) = turned.value.rows_cols();
        if own == self.out {
            return turned;
        }
        let ids: Vec<u32> = (0..self.out).map(|column| (column % own) as u32).collect();
        ops::gather_rows(tape, &turned, &ids)
    }
}

impl Part for Shards {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let m = &at.values[0];
        let a = Var::constant(self.sharing(m.value.dtype()));
        LinearEffect::term(LowRank {
            a,
            b: self.shared(&at.cx.tape, m),
            scale: at.strength,
            dropout: dropout(at, self.dropout),
        })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let b = self.shared(&Tape::off(), &Var::constant(merge.values[0].clone()));
        Ok(merge.with_product(1.0, &b.value, &self.sharing(DType::F32)))
    }
}

/// `W_ij M_i + M_i` for each `r × r` block.
struct Blocks {
    r: usize,
}

impl Delta for Blocks {
    fn delta(&self, tape: &Tape, values: &[Var], weight: &dyn Fn() -> Tensor) -> Var {
        let (r, m, weight) = (self.r, &values[0], weight());
        let (out, inputs) = weight.rows_cols();
        let (down, across) = (out / r, inputs / r);
        // `W` with row `(j, p)` and column `(i, k)` for element `(p, k)` of block `W_ij`, so that one product with
        // `blockdiag(M_1, …)` makes all `W_ij M_i`.
        let from = weight.as_slice::<f32>();
        let mut turned = vec![0f32; out * inputs];
        for (row, to) in turned.chunks_exact_mut(out).enumerate() {
            let (j, p) = (row / r, row % r);
            for (i, to) in to.chunks_exact_mut(r).enumerate() {
                let at = (i * r + p) * inputs + j * r;
                to.copy_from_slice(&from[at..at + r]);
            }
        }
        let turned = Var::constant(Tensor::from_slice([across * r, out], &turned));
        let products = ops::rotate_blocks(tape, &turned, m);
        // Back to `[out, in]`, in pieces of `r` neighbours: row `i r + p` and piece `j`.
        let pieces = (0..out).flat_map(|row| (0..across).map(move |j| (row / r, row % r, j)));
        let of_products: Vec<u32> = pieces.clone().map(|(i, p, j)| ((j * r + p) * down + i) as u32).collect();
        let of_blocks: Vec<u32> = pieces.map(|(i, p, _)| (i * r + p) as u32).collect();
        let products = ops::reshape(tape, &products, &[out * across, r]);
        let products = ops::gather_rows(tape, &products, &of_products);
        let blocks = ops::convert(tape, &ops::reshape(tape, m, &[out, r]), DType::F32);
        let blocks = ops::gather_rows(tape, &blocks, &of_blocks);
        ops::reshape(tape, &ops::add(tape, &products, &blocks), &[out, inputs])
    }
}
