//! AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): `W + s B diag(E) A`, shaped like a singular value decomposition, whose
//! ranks are shared out between the maps while it trains.
//!
//! `A` `[r₀, in]`, `B` `[out, r₀]`, `E` `[r₀, 1]`, `s = alpha / (r₀ + 1e-5)` with `r₀ = init_r` (PEFT's divisor, to the
//! letter; it stays when ranks fall). Start: `A`, `B ~ N(0, 0.02²)`, `E = 0`, so the model is unchanged. Parameters: `r₀
//! (in + out + 1)` a map.
//!
//! While it trains ([`budget`]): the loss has a penalty that keeps rows of `A` and columns of `B` orthonormal, importance
//! is averaged over steps, and the budget falls from `init_r` to `target_r` ranks a map by a cubic curve; entries of `E`
//! beyond it are set to 0, the least important of all maps first.
//!
//! In the file, as in PEFT: what the final budget left, each map cut to its own rank (which may be 0), and `rank_pattern`
//! in the configuration says which ranks stayed. Before the budget is final (`tinit` and `tfinal` mark its slope) an
//! adapter is written whole.

pub mod budget;

use std::collections::BTreeMap;
use std::sync::Arc;

use hone_engine::ops::{self, LowRank};
use hone_engine::{Tape, Tensor, Var, WeightRef, matmul};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::dropout;
use crate::method::{
    At, Edit, Init, LinearEffect, LowRankPair, Merge, Mergeable, Method, MethodInfo, Origin, Param, ParamPlan, Part,
    Plan, QuantisedBase,
};
use crate::methods::lora;
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, wrong};
use crate::training::TrainingRules;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "adalora",
    peft_type: "ADALORA",
    family: "low rank",
    summary: "low-rank pairs with singular values, whose ranks move to where they matter",
    paper: "arXiv 2303.10512",
    formula: "W + s B diag(E) A",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<AdaLoraConfig>(),
};

/// Hugging Face's `AdaLoraConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdaLoraConfig {
    /// Mean rank at the end.
    pub target_r: usize,
    /// Rank of every map at the start.
    pub init_r: usize,
    /// Updates before the budget falls.
    pub tinit: usize,
    /// Updates at the end in which it stays at its target.
    pub tfinal: usize,
    /// Updates between two cuts.
    #[serde(rename = "deltaT")]
    pub delta_t: usize,
    /// How slowly importance is averaged.
    pub beta1: f64,
    /// How slowly its uncertainty is averaged.
    pub beta2: f64,
    /// Weight of the penalty that keeps `A` and `B` orthonormal.
    pub orth_reg_weight: f64,
    /// All updates of the run. In a recipe none is what the run has.
    pub total_step: Option<usize>,
    /// Which ranks stayed, by `….lora_E`, once the budget is final.
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
    /// Scale: `alpha / (init_r + 1e-5)`.
    #[serde(serialize_with = "config::number")]
    pub lora_alpha: f64,
    /// Dropout on the input of `A`.
    pub lora_dropout: f64,
    /// Whether the model is unchanged at the start; `false`: all normal, for tests.
    pub init_lora_weights: bool,
    /// Which biases are trained: `none`, `all`, `lora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        AdaLoraConfig {
            target_r: 8,
            init_r: 12,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            total_step: None,
            rank_pattern: None,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            init_lora_weights: true,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

/// LoRA's fields that AdaLoRA has too and does not use.
const OWN_INERT: &[Inert] = &[
    Inert { field: "r", off: &["8"], reason: "AdaLoRA has `init_r` and `target_r`" },
    Inert { field: "use_dora", off: &["false"], reason: "AdaLoRA has no magnitudes" },
    Inert { field: "lora_bias", off: &["false"], reason: "AdaLoRA has none; use `bias: lora_only`" },
    Inert { field: "use_rslora", off: &["false"], reason: "AdaLoRA's scale is `alpha / init_r`" },
    Inert { field: "alpha_pattern", off: &["{}"], reason: "AdaLoRA has one scale" },
    Inert { field: "loftq_config", off: &["{}"], reason: "AdaLoRA starts at 0" },
    Inert {
        field: "trainable_token_indices",
        off: &["null", "{}"],
        reason: "train the table whole with `modules_to_save`",
    },
];

fn inert() -> impl Iterator<Item = Inert> {
    OWN_INERT.iter().chain(lora::INERT).map(|i| Inert { field: i.field, off: i.off, reason: i.reason })
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        if let Some(r) = fields.entry("init_r").or_insert(json!(12)).as_u64() {
            fields.entry("target_r").or_insert(json!((r * 2).div_ceil(3)));
            fields.entry("lora_alpha").or_insert(json!(r.saturating_mul(2)));
        }
        TargetFields::recommend(&mut fields);
    }
    let inert: Vec<Inert> = inert().collect();
    let adalora: AdaLoraConfig = config::read(METHOD.name, &fields, &inert, origin, warnings)?;
    adalora.check()?;
    Ok(Arc::new(adalora))
}

impl AdaLoraConfig {
    fn check(&self) -> Result<(), EditError> {
        let refused = |field: &str, found: String, expected: &str| Err(wrong(METHOD.name, field, found, expected));
        self.targets.check(METHOD.name)?;
        check_rank(METHOD.name, "init_r", self.init_r)?;
        check_rank(METHOD.name, "deltaT", self.delta_t)?;
        check_probability(METHOD.name, "lora_dropout", self.lora_dropout)?;
        self.biases()?;
        if self.target_r == 0 || self.target_r > self.init_r {
            let found = self.target_r.to_string();
            return refused("target_r", found, "a mean rank of 1 or more, at most `init_r`");
        }
        for (field, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if beta <= 0.0 || beta >= 1.0 || beta.is_nan() {
                return refused(field, beta.to_string(), "a number between 0 and 1");
            }
        }
        if self.orth_reg_weight < 0.0 || !self.orth_reg_weight.is_finite() {
            return refused("orth_reg_weight", self.orth_reg_weight.to_string(), "0 or more");
        }
        if !self.lora_alpha.is_finite() || self.lora_alpha <= 0.0 {
            return refused("lora_alpha", self.lora_alpha.to_string(), "a number above 0");
        }
        match self.total_step {
            Some(total) if self.tinit + self.tfinal >= total => {
                let found = format!("{total} with `tinit: {}` and `tfinal: {}`", self.tinit, self.tfinal);
                refused("total_step", found, "more than both together, so that the budget has time to fall")
            }
            _ => Ok(()),
        }
    }

    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "lora_only")
    }

    /// The rank of `module`: all, or what `rank_pattern` left.
    fn rank(&self, module: &str) -> Result<usize, EditError> {
        let Some(pattern) = &self.rank_pattern else { return Ok(self.init_r) };
        match pattern.get(&format!("{module}.lora_E")) {
            None => Ok(self.init_r),
            Some(kept) if kept.len() == self.init_r => Ok(kept.iter().filter(|kept| **kept).count()),
            Some(kept) => {
                let expected = format!("{} entries for `{module}`, one for each of `init_r` ranks", self.init_r);
                Err(wrong(METHOD.name, "rank_pattern", format!("{} entries", kept.len()), expected))
            }
        }
    }
}

impl Method for AdaLoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let scale = (self.lora_alpha / (self.init_r as f64 + 1e-5)) as f32;
        let inert: Vec<Inert> = inert().collect();
        let mut plan = self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), inert.as_slice()),
            self.biases()?,
            |plan, weight| {
                let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
                let r = self.rank(module)?;
                let (std, values) = match self.init_lora_weights {
                    true => (0.02, Init::Zeros),
                    false => (1.0, Init::Normal { std: 1.0 }),
                };
                let triplet = [
                    ParamPlan::new(key(module, "lora_A"), &[r, inputs], Init::Normal { std }),
                    ParamPlan::new(key(module, "lora_B"), &[out, r], Init::Normal { std }),
                    ParamPlan::new(key(module, "lora_E"), &[r, 1], values),
                ];
                plan.on_linear(weight, Triplet { scale, dropout: self.lora_dropout as f32 }, triplet);
                Ok(())
            },
        )?;
        if self.total_step.is_none() {
            // PEFT reads no configuration without one; a run puts its own length here.
            plan.config.insert("total_step".into(), json!(self.tinit + self.tfinal + 1));
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(budget::Budget::new(self.clone(), edit)))
    }

    fn saved_form(&self, edit: &Edit) -> Option<Edit> {
        let pattern = edit.config.get("rank_pattern")?;
        let pattern: BTreeMap<String, Vec<bool>> = serde_json::from_value(pattern.clone()).ok()?;
        let cut = |param: &Param| cut(param, &pattern).unwrap_or_else(|| param.clone());
        Some(Edit { params: edit.params.iter().map(cut).collect(), ..edit.clone() })
    }
}

/// A parameter without the ranks that `pattern` leaves out; `None` where there is nothing to cut.
fn cut(param: &Param, pattern: &BTreeMap<String, Vec<bool>>) -> Option<Param> {
    let (module, tensor) = param.key.strip_prefix("base_model.model.")?.rsplit_once('.')?;
    let kept = pattern.get(&format!("{module}.lora_E"))?;
    let (rows, columns) = param.value.rows_cols();
    let values = param.value.as_slice::<f32>();
    let value = match tensor {
        "lora_A" | "lora_E" if rows == kept.len() => {
            let rows = (0..rows).filter(|row| kept[*row]).flat_map(|row| &values[row * columns..(row + 1) * columns]);
            let rows: Vec<f32> = rows.copied().collect();
            Tensor::from_slice([rows.len() / columns, columns], &rows)
        }
        "lora_B" if columns == kept.len() => {
            let kept_columns = kept.iter().filter(|kept| **kept).count();
            let entries =
                (0..rows).flat_map(|row| (0..columns).filter(|c| kept[*c]).map(move |c| values[row * columns + c]));
            Tensor::from_slice([rows, kept_columns], &entries.collect::<Vec<f32>>())
        }
        _ => return None,
    };
    Some(Param { value, ..param.clone() })
}

/// `s B diag(E) A` on one map.
struct Triplet {
    scale: f32,
    dropout: f32,
}

/// `diag(E) A`.
fn scaled(tape: &Tape, values: &[Var]) -> Var {
    ops::scale_rows(tape, &values[0], &values[2])
}

fn pair(values: &[Tensor]) -> (Tensor, &Tensor) {
    let vars: Vec<Var> = values.iter().cloned().map(Var::constant).collect();
    (scaled(&Tape::off(), &vars).value, &values[1])
}

impl Part for Triplet {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        if at.values[0].value.elements() == 0 {
            return LinearEffect::Fused { weight: None, terms: Vec::new() };
        }
        let a = scaled(&at.cx.tape, at.values);
        LinearEffect::term(LowRank {
            a,
            b: at.values[1].clone(),
            scale: self.scale * at.strength,
            dropout: dropout(at, self.dropout),
        })
    }

    fn low_rank(&self, values: &[Tensor], _group: Option<u32>) -> Option<LowRankPair> {
        let (a, b) = pair(values);
        Some(LowRankPair { a, b: b.clone(), scale: self.scale })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mut out = merge.weight.clone();
        if merge.values[0].elements() > 0 {
            let (a, b) = pair(merge.values);
            matmul::matmul_nn_add(&mut out, merge.direction.sign() * merge.strength * self.scale, b, &a);
        }
        Ok(out)
    }
}
