//! LoRA (Hu et al. 2021, arXiv 2106.09685): `y = x Wᵀ + s · drop(x) Aᵀ Bᵀ` with `A` `[r, in]`, `B` `[out, r]` trained, `W`
//! frozen, `s = alpha / r`. rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): `s = alpha / √r`.
//!
//! Start: `A ~ U(±1/√in)` (Kaiming-uniform with `a = √5`) or `N(0, 1/r²)`, `B = 0`, so the model is unchanged.
//! Parameters: `r (in + out)` a map.
//!
//! Fields, defaults and tensor keys are Hugging Face PEFT's (`LoraConfig`, 0.21). Beside the low-rank pairs an adapter may
//! hold weights trained whole (`modules_to_save`) and biases (`bias`).

use std::sync::Arc;

use hone_engine::ops::{Dropout, LowRank};
use hone_engine::{Tensor, Var, WeightRef, matmul};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{
    At, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan,
    QuantisedBase,
};
use crate::replace::plan_replacements;
use crate::target::{OneOrMany, Targets, pattern_value, saved_modules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "lora",
    peft_type: "LORA",
    family: "low rank",
    summary: "a trained low-rank pair beside each frozen linear map",
    paper: "arXiv 2106.09685; rsLoRA 2312.03732",
    formula: "W + s B A",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<LoraConfig>(),
};

/// Hugging Face's `LoraConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoraConfig {
    /// Rank. Hugging Face's default is 8; a recipe's is 16.
    pub r: usize,
    /// Scaling: `alpha / r` (or `alpha / √r`). Hugging Face's default is 8; a recipe's is `2 r`.
    #[serde(serialize_with = "config::number")]
    pub lora_alpha: f64,
    /// Dropout on the input of `A`.
    pub lora_dropout: f64,
    /// Scale by `alpha / √r`.
    pub use_rslora: bool,
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear` (a recipe's default).
    pub target_modules: Option<OneOrMany<String>>,
    /// Names or a regular expression to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// What stands before the layer's number in module paths.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Other ranks by name or regular expression.
    pub rank_pattern: Map<String, Value>,
    /// Other alphas by name or regular expression.
    pub alpha_pattern: Map<String, Value>,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases are trained: `none`, `all`, `lora_only`.
    pub bias: BiasChoice,
    /// First values.
    pub init_lora_weights: InitLora,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

/// Which biases are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BiasChoice {
    /// None.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// Those of targeted maps.
    LoraOnly,
}

/// `init_lora_weights`: `true` (Kaiming-uniform A, zero B), `"gaussian"` (normal A, zero B), `false` (both uniform: not the
/// identity, for tests).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum InitLora {
    /// `true` or `false`.
    Standard(bool),
    /// A named one.
    Named(String),
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Map::new(),
            alpha_pattern: Map::new(),
            modules_to_save: None,
            bias: BiasChoice::None,
            init_lora_weights: InitLora::Standard(true),
            task_type: None,
        }
    }
}

const NOT_BUILT: &str = "this variant is not built";
const INERT: &[Inert] = &[
    Inert { field: "fan_in_fan_out", off: &[], reason: "it is for GPT-2's transposed maps, which these models lack" },
    Inert { field: "lora_bias", off: &[], reason: "train the map's own bias with `bias: lora_only`" },
    Inert { field: "use_dora", off: &[], reason: NOT_BUILT },
    Inert { field: "use_qalora", off: &[], reason: NOT_BUILT },
    Inert { field: "qalora_group_size", off: &["16"], reason: NOT_BUILT },
    Inert { field: "loftq_config", off: &[], reason: NOT_BUILT },
    Inert { field: "eva_config", off: &[], reason: NOT_BUILT },
    Inert { field: "corda_config", off: &[], reason: NOT_BUILT },
    Inert { field: "kasa_config", off: &[], reason: NOT_BUILT },
    Inert { field: "lora_ga_config", off: &[], reason: NOT_BUILT },
    Inert { field: "monteclora_config", off: &[], reason: NOT_BUILT },
    Inert { field: "velora_config", off: &[], reason: NOT_BUILT },
    Inert { field: "use_bdlora", off: &[], reason: NOT_BUILT },
    Inert { field: "arrow_config", off: &[], reason: NOT_BUILT },
    Inert { field: "alora_invocation_tokens", off: &[], reason: NOT_BUILT },
    Inert { field: "megatron_config", off: &[], reason: "Megatron's parallel layers are not built" },
    Inert { field: "megatron_core", off: &["\"megatron.core\""], reason: "Megatron's parallel layers are not built" },
    Inert { field: "layer_replication", off: &[], reason: "layers cannot be repeated" },
    Inert { field: "target_parameters", off: &[], reason: "name modules in `target_modules`" },
    Inert { field: "trainable_token_indices", off: &[], reason: "train the table whole with `modules_to_save`" },
    Inert {
        field: "ensure_weight_tying",
        off: &[],
        reason: "modules in `modules_to_save` are trained untied, as PEFT does by default",
    },
];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        recommend(&mut fields);
    }
    let lora: LoraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    lora.check()?;
    Ok(Arc::new(lora))
}

/// A recipe's defaults, which are what the field recommends rather than Hugging Face's: rank 16, alpha twice the rank,
/// every linear map.
fn recommend(fields: &mut Map<String, Value>) {
    let r = fields.entry("r").or_insert(json!(16)).clone();
    if let Some(r) = r.as_u64() {
        fields.entry("lora_alpha").or_insert(json!(r.saturating_mul(2)));
    }
    fields.entry("target_modules").or_insert(json!("all-linear"));
    fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
}

impl LoraConfig {
    fn check(&self) -> Result<(), EditError> {
        let wrong = |field: &str, found: String, expected: &str| {
            Err(EditError::Field { method: METHOD.name, field: field.into(), found, expected: expected.into() })
        };
        if self.r == 0 {
            return wrong("r", "0".into(), "a rank of 1 or more");
        }
        if !self.lora_alpha.is_finite() || self.lora_alpha == 0.0 {
            return wrong("lora_alpha", self.lora_alpha.to_string(), "a number other than 0");
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return wrong("lora_dropout", self.lora_dropout.to_string(), "a probability in [0, 1)");
        }
        if let InitLora::Named(name) = &self.init_lora_weights
            && name != "gaussian"
        {
            return wrong("init_lora_weights", format!("`{name}`"), "`true`, `false` or `gaussian`");
        }
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM") => Ok(()),
            Some(other) => wrong("task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)"),
        }
    }

    fn targets(&self) -> Targets {
        Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            modules_to_save: self.modules_to_save.clone().unwrap_or_default(),
        }
    }

    /// Rank and scale of the pair on `module`.
    fn rank_and_scale(&self, module: &str) -> Result<(usize, f32), EditError> {
        let wrong = |field: &str, found: &Value, expected: &str| EditError::Field {
            method: METHOD.name,
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        };
        let rank = match pattern_value(METHOD.name, "rank_pattern", &self.rank_pattern, module)? {
            None => self.r,
            Some(v) => {
                v.as_u64().filter(|r| *r > 0).ok_or_else(|| wrong("rank_pattern", v, "a rank of 1 or more"))? as usize
            }
        };
        let alpha = match pattern_value(METHOD.name, "alpha_pattern", &self.alpha_pattern, module)? {
            None => self.lora_alpha,
            Some(v) => v.as_f64().ok_or_else(|| wrong("alpha_pattern", v, "a number"))?,
        };
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }

    fn init(&self, rank: usize, inputs: usize) -> (Init, Init) {
        let kaiming = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
        match &self.init_lora_weights {
            InitLora::Standard(true) => (kaiming(inputs), Init::Zeros),
            InitLora::Standard(false) => (kaiming(inputs), kaiming(rank)),
            InitLora::Named(_) => (Init::Normal { std: 1.0 / rank as f32 }, Init::Zeros),
        }
    }

    fn plan_pair(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let module = weight.module();
        let (out, inputs) = (weight.shape[0], weight.shape[1]);
        let (rank, scale) = self.rank_and_scale(module)?;
        if rank > out.max(inputs) {
            return Err(EditError::Field {
                method: METHOD.name,
                field: "r".into(),
                found: rank.to_string(),
                expected: format!("a rank of at most {} (`{module}` is [{out}, {inputs}])", out.max(inputs)),
            });
        }
        let (init_a, init_b) = self.init(rank, inputs);
        let mut param = |name: &str, shape: [usize; 2], init: Init| {
            let key = format!("base_model.model.{module}.{name}.weight");
            plan.params.push(ParamPlan::new(key, &shape, init));
            plan.params.len() - 1
        };
        let params = vec![param("lora_A", [rank, inputs], init_a), param("lora_B", [out, rank], init_b)];
        let part = Arc::new(Pair { scale, dropout: self.lora_dropout as f32 });
        plan.placed.push(Placed { place: Place::Linear(module.to_string()), part, params });
        Ok(())
    }

    /// Biases: Hugging Face keys those of targeted maps `….base_layer.bias`.
    fn plan_biases(&self, plan: &mut Plan, base: &Base, targeted: &[&BaseWeight]) {
        let is_target = |bias: &BaseWeight| targeted.iter().any(|t| t.module() == bias.module());
        let wanted = |b: &&BaseWeight| match self.bias {
            BiasChoice::None => false,
            BiasChoice::All => true,
            BiasChoice::LoraOnly => is_target(b),
        };
        let biases: Vec<&BaseWeight> =
            base.weights.iter().filter(|w| w.kind == WeightKind::Bias).filter(wanted).collect();
        let first = plan.params.len();
        plan_replacements(plan, &biases, base);
        for (param, bias) in plan.params[first..].iter_mut().zip(&biases) {
            if is_target(bias) {
                let wrapped = format!("base_model.model.{}.base_layer.bias", bias.module());
                param.aliases.push(std::mem::replace(&mut param.key, wrapped));
            }
        }
    }
}

impl Method for LoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let selection = self.targets().select_linears(METHOD.name, base)?;
        let mut config = config::to_map(self);
        config.insert("target_modules".into(), selection.resolved.clone());
        for inert in INERT {
            let off = inert.off.first().and_then(|v| serde_json::from_str(v).ok());
            config.insert(inert.field.into(), off.unwrap_or_else(|| off_value(inert.field)));
        }
        let mut plan = Plan { config, params: Vec::new(), placed: Vec::new() };
        for weight in &selection.weights {
            self.plan_pair(&mut plan, weight)?;
        }
        let saved = saved_modules(self.modules_to_save.as_deref().unwrap_or_default(), base)?;
        plan_replacements(&mut plan, &saved, base);
        self.plan_biases(&mut plan, base, &selection.weights);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The value Hugging Face writes for a field that is off.
fn off_value(field: &str) -> Value {
    match field {
        "loftq_config" => json!({}),
        "fan_in_fan_out" | "lora_bias" | "use_dora" | "use_qalora" | "ensure_weight_tying" => json!(false),
        _ => Value::Null,
    }
}

/// The pair `(A, B)` on one map.
struct Pair {
    scale: f32,
    dropout: f32,
}

impl Part for Pair {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let dropout = (at.cx.training && self.dropout > 0.0)
            .then(|| Dropout { p: self.dropout, key: at.cx.key.named("lora_dropout").named(at.name) });
        let scale = self.scale * at.strength;
        LinearEffect::term(LowRank { a: at.values[0].clone(), b: at.values[1].clone(), scale, dropout })
    }

    fn low_rank(&self, values: &[Tensor], _group: u32) -> Option<LowRank> {
        let pair = |at: usize| Var::constant(values[at].clone());
        Some(LowRank { a: pair(0), b: pair(1), scale: self.scale, dropout: None })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mut out = merge.weight.clone();
        let scale = merge.direction.sign() * merge.strength * self.scale;
        matmul::matmul_nn_add(&mut out, scale, &merge.values[1], &merge.values[0]);
        Ok(out)
    }
}
