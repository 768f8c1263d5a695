//! GraLoRA (Jung et al. 2025, "GraLoRA: Granular Low-Rank Adaptation", arXiv 2505.20355): the weight cut into `k × k`
//! blocks, each with a low-rank pair of its own, of rank `r / k`: the parameters of a LoRA of rank `r`, but a change of
//! rank up to `k r`.
//!
//! `A` `[k, in/k, r]`, `B` `[k, r, out/k]`. Piece `n` of the input goes through `A_n` to `r` numbers; those are cut in `k`
//! runs, and run `j` of all pieces together goes through `B_j` to piece `j` of the output. `s = alpha / (r + hybrid_r)`.
//! With `hybrid_r` there is an ordinary pair `[hybrid_r, in]`, `[out, hybrid_r]` beside. Start: `A` Kaiming-uniform, `B` 0,
//! so the model is unchanged. Parameters: `(r + hybrid_r) (in + out)` a map.

use std::sync::Arc;

use hone_engine::{DType, Tape, Tensor, Var, WeightRef, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::dropped;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_probability, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "gralora",
    peft_type: "GRALORA",
    family: "low rank",
    summary: "a low-rank pair for each block of the weight",
    paper: "arXiv 2505.20355",
    formula: "W_jn + s B_jn A_jn, block by block",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<GraloraConfig>(),
};

/// Hugging Face's `GraloraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GraloraConfig {
    /// Rank of all blocks of a row together; `gralora_k` divides it.
    pub r: usize,
    /// Rank of an ordinary pair beside; 0 is none.
    pub hybrid_r: usize,
    /// Scale: `alpha / (r + hybrid_r)`. Hugging Face's default is 64.
    #[serde(serialize_with = "config::number")]
    pub alpha: f64,
    /// Dropout on the input of the change.
    pub gralora_dropout: f64,
    /// Blocks along each side.
    pub gralora_k: usize,
    /// Whether the model is unchanged at the start; `false`: `B` random too, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `gralora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for GraloraConfig {
    fn default() -> Self {
        GraloraConfig {
            r: 32,
            hybrid_r: 0,
            alpha: 64.0,
            gralora_dropout: 0.0,
            gralora_k: 2,
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
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        if let Some(r) = fields.entry("r").or_insert(json!(32)).as_u64() {
            fields.entry("alpha").or_insert(json!(r.saturating_mul(2)));
        }
        TargetFields::recommend(&mut fields);
    }
    let gralora: GraloraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    gralora.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", gralora.r)?;
    check_rank(METHOD.name, "gralora_k", gralora.gralora_k)?;
    check_probability(METHOD.name, "gralora_dropout", gralora.gralora_dropout)?;
    if !gralora.r.is_multiple_of(gralora.gralora_k) {
        let expected = format!("a multiple of `gralora_k`, {}", gralora.gralora_k);
        return Err(wrong(METHOD.name, "r", gralora.r.to_string(), expected));
    }
    check_factor(METHOD.name, "alpha", gralora.alpha)?;
    gralora.biases()?;
    Ok(Arc::new(gralora))
}

impl GraloraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "gralora_only")
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let (r, k, hybrid) = (self.r, self.gralora_k, self.hybrid_r);
        if !out.is_multiple_of(k) || !inputs.is_multiple_of(k) {
            let expected = format!("a divisor of both sides of `{module}`, [{out}, {inputs}]");
            return Err(wrong(METHOD.name, "gralora_k", k.to_string(), expected));
        }
        let kaiming = |columns: usize| Init::Uniform { bound: 1.0 / (columns as f32).sqrt() };
        let second = |columns: usize| if self.init_weights { Init::Zeros } else { kaiming(columns) };
        let mut params = vec![
            ParamPlan::new(key(module, "gralora_A"), &[k, inputs / k, r], kaiming(inputs / k)),
            ParamPlan::new(key(module, "gralora_B"), &[k, r, out / k], second(r)),
        ];
        if hybrid > 0 {
            params.push(ParamPlan::new(key(module, "gralora_A_general.weight"), &[hybrid, inputs], kaiming(inputs)));
            params.push(ParamPlan::new(key(module, "gralora_B_general.weight"), &[out, hybrid], second(hybrid)));
        }
        let scale = (self.alpha / (r + hybrid) as f64) as f32;
        plan.on_linear(weight, Blocks { scale, dropout: self.gralora_dropout as f32 }, params);
        Ok(())
    }
}

impl Method for GraloraConfig {
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

struct Blocks {
    scale: f32,
    dropout: f32,
}

impl Blocks {
    /// `x ΔWᵀ` without the scale: `[tokens, in]` to `[tokens, out]`.
    fn apply(&self, tape: &Tape, values: &[Var], x: &Var) -> Var {
        let (a, b) = (&values[0], &values[1]);
        let [k, width, r] = a.value.dims() else { unreachable!("GraLoRA plans `A` with three axes") };
        let (k, width, r, share) = (*k, *width, *r, *r / *k);
        let block = |of: &Var, at: usize| {
            let dims = of.value.dims()[1..].to_vec();
            ops::reshape(tape, &ops::rows(tape, of, at..at + 1), &dims)
        };
        let inner = |n: usize| {
            let piece = ops::columns(tape, x, n * width..(n + 1) * width);
            ops::product(tape, &piece, &block(a, n))
        };
        let inner: Vec<Var> = (0..k).map(inner).collect();
        let outer = |j: usize| {
            let runs: Vec<Var> = inner.iter().map(|t| ops::columns(tape, t, j * share..(j + 1) * share)).collect();
            ops::product(tape, &ops::concat_columns(tape, &runs), &block(b, j))
        };
        debug_assert_eq!(share * k, r);
        let outer: Vec<Var> = (0..k).map(outer).collect();
        let y = ops::concat_columns(tape, &outer);
        let [_, _, a, b] = values else { return y };
        let general = ops::linear(tape, x, &WeightRef::Trained(a.clone()), None, &[]);
        ops::add(tape, &y, &ops::linear(tape, &general, &WeightRef::Trained(b.clone()), None, &[]))
    }
}

impl Part for Blocks {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let added = self.apply(tape, at.values, &dropped(at, x, self.dropout));
        ops::add_scaled(tape, &next(x), &added, self.scale * at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        // What an identity becomes is the transpose of the change.
        let (_, inputs) = merge.weight.rows_cols();
        let mut identity = Tensor::zeros([inputs, inputs], DType::F32);
        identity.as_mut_slice::<f32>().iter_mut().step_by(inputs + 1).for_each(|v| *v = 1.0);
        let change = ops::transpose(&tape, &self.apply(&tape, &merge.constants(), &Var::constant(identity)));
        let scale = merge.direction.sign() * merge.strength * self.scale;
        Ok(ops::add_scaled(&tape, &Var::constant(merge.weight.clone()), &change, scale).value)
    }
}
