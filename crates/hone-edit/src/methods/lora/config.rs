//! Hugging Face's `LoraConfig`: the fields, what a recipe recommends, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::METHOD;
use super::init::Start;
use crate::base::{Base, WeightKind};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{Method, Origin, Plan};
use crate::methods::tokens;
use crate::planning::{check_probability, check_rank, number_of, rank_of, wrong};
use crate::target::{OneOrMany, Targets};

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
    /// DoRA: lengths of the weight's rows are trained apart from their directions.
    pub use_dora: bool,
    /// Train a vector that is added after `B`.
    pub lora_bias: bool,
    /// LoRA+: how much faster `B` learns than `A`; the paper's is 16. None is 1.
    pub loraplus_lr_ratio: Option<f64>,
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear` (a recipe's
    /// default).
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
    /// Rows of the embedding table that are trained whole: token ids, or ids by module.
    pub trainable_token_indices: Option<TokenIndices>,
    /// Which biases are trained: `none`, `all`, `lora_only`.
    pub bias: BiasChoice,
    /// First values.
    pub init_lora_weights: InitLora,
    /// With `init_lora_weights: loftq`: `loftq_bits` (4) and `loftq_iter` (1).
    pub loftq_config: Map<String, Value>,
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

impl From<BiasChoice> for Biases {
    fn from(choice: BiasChoice) -> Biases {
        match choice {
            BiasChoice::None => Biases::None,
            BiasChoice::All => Biases::All,
            BiasChoice::LoraOnly => Biases::Targets,
        }
    }
}

/// `init_lora_weights`: `true` (Kaiming-uniform A, zero B), `false` (both uniform: not the identity, for tests),
/// `"gaussian"` (normal A, zero B), `"orthogonal"`, `"pissa"`, `"pissa_niter_N"`, `"olora"`, `"loftq"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "true, false, or the name of a start")]
pub enum InitLora {
    /// `true` or `false`.
    Standard(bool),
    /// A named one.
    Named(String),
}

/// Token ids of the embedding table, or by module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "token ids (`[5, 6]`), or token ids by module")]
pub enum TokenIndices {
    /// Of the embedding table.
    OfTable(Vec<u32>),
    /// By the module's name.
    ByModule(BTreeMap<String, Vec<u32>>),
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            loraplus_lr_ratio: None,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Map::new(),
            alpha_pattern: Map::new(),
            modules_to_save: None,
            trainable_token_indices: None,
            bias: BiasChoice::None,
            init_lora_weights: InitLora::Standard(true),
            loftq_config: Map::new(),
            task_type: None,
        }
    }
}

const NOT_BUILT: &str = "this variant is not built";
/// Fields of `LoraConfig` that are not honoured; AdaLoRA's configuration has them too.
pub(crate) const INERT: &[Inert] = &[
    config::TRANSPOSED,
    Inert { field: "use_qalora", off: &["false"], reason: NOT_BUILT },
    Inert { field: "qalora_group_size", off: &["16"], reason: NOT_BUILT },
    Inert { field: "eva_config", off: &[], reason: NOT_BUILT },
    Inert { field: "corda_config", off: &[], reason: NOT_BUILT },
    Inert { field: "kasa_config", off: &[], reason: NOT_BUILT },
    Inert { field: "lora_ga_config", off: &[], reason: NOT_BUILT },
    Inert { field: "monteclora_config", off: &[], reason: NOT_BUILT },
    Inert { field: "velora_config", off: &[], reason: NOT_BUILT },
    Inert { field: "use_bdlora", off: &[], reason: NOT_BUILT },
    Inert { field: "arrow_config", off: &[], reason: NOT_BUILT },
    Inert { field: "alora_invocation_tokens", off: &[], reason: NOT_BUILT },
    Inert { field: "megatron_config", off: &["null", "{}"], reason: "Megatron's parallel layers are not built" },
    Inert { field: "megatron_core", off: &["\"megatron.core\""], reason: "Megatron's parallel layers are not built" },
    Inert { field: "layer_replication", off: &[], reason: "layers cannot be repeated" },
    Inert { field: "target_parameters", off: &[], reason: "name modules in `target_modules`" },
    Inert {
        field: "ensure_weight_tying",
        off: &["false"],
        reason: "modules in `modules_to_save` are trained untied, as PEFT does by default",
    },
];

pub(super) fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    match origin {
        Origin::Recipe => recommend(&mut fields),
        // How `A` was first filled; the file holds it as any other.
        Origin::File if fields.get("init_lora_weights").and_then(Value::as_str) == Some("eva") => {
            fields.insert("init_lora_weights".into(), json!(true));
            fields.remove("eva_config");
        }
        Origin::File => {}
    }
    let lora: LoraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    lora.check()?;
    Ok(Arc::new(lora))
}

/// A recipe's defaults, which are what the field recommends rather than Hugging Face's: rank 16, alpha twice the rank,
/// every linear map. LoftQ makes up for rounding only where `alpha` is the rank, so it is, there.
fn recommend(fields: &mut Map<String, Value>) {
    let r = fields.entry("r").or_insert(json!(16)).clone();
    let loftq = fields.get("init_lora_weights").and_then(Value::as_str) == Some("loftq");
    if let Some(r) = r.as_u64() {
        fields.entry("lora_alpha").or_insert(json!(if loftq { r } else { r.saturating_mul(2) }));
    }
    if loftq {
        fields.entry("loftq_config").or_insert(json!({ "loftq_bits": 4, "loftq_iter": 1 }));
    }
    fields.entry("target_modules").or_insert(json!("all-linear"));
    fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
}

impl LoraConfig {
    fn check(&self) -> Result<(), EditError> {
        check_rank(METHOD.name, "r", self.r)?;
        if !self.lora_alpha.is_finite() || self.lora_alpha == 0.0 {
            return Err(wrong(METHOD.name, "lora_alpha", self.lora_alpha.to_string(), "a number other than 0"));
        }
        check_probability(METHOD.name, "lora_dropout", self.lora_dropout)?;
        if let Some(ratio) = self.loraplus_lr_ratio.filter(|ratio| !ratio.is_finite() || *ratio <= 0.0) {
            return Err(wrong(METHOD.name, "loraplus_lr_ratio", ratio.to_string(), "a number above 0"));
        }
        let start = Start::of(&self.init_lora_weights, &self.loftq_config)?;
        if self.lora_alpha < 0.0 && matches!(start, Start::Pissa { .. }) {
            // The singular values are divided by the scale before their roots are taken.
            return Err(wrong(METHOD.name, "lora_alpha", self.lora_alpha.to_string(), "a number above 0 with `pissa`"));
        }
        let plain = matches!(self.init_lora_weights, InitLora::Standard(_));
        if self.lora_bias && (self.use_dora || !plain) {
            let reason =
                "PEFT has it neither with `use_dora` nor with a named `init_lora_weights`; leave one of them out";
            return Err(refused("lora_bias", "true", reason));
        }
        if self.use_dora && !matches!(start, Start::Plain | Start::Orthogonal) {
            let found = format!("true with `init_lora_weights: {}`", start.name());
            return Err(refused("use_dora", &found, "this combination is not built; leave one of them out"));
        }
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM") => Ok(()),
            Some(other) => Err(wrong(METHOD.name, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
        }
    }

    /// How first values are made; the configuration was checked.
    pub(super) fn start(&self) -> Start {
        Start::of(&self.init_lora_weights, &self.loftq_config).unwrap_or(Start::Plain)
    }

    pub(super) fn targets(&self) -> Targets {
        Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            modules_to_save: self.modules_to_save.clone().unwrap_or_default(),
        }
    }

    /// Rank and scale of the pair on `module`.
    pub(super) fn rank_and_scale(&self, module: &str) -> Result<(usize, f32), EditError> {
        let rank = rank_of(METHOD.name, &self.rank_pattern, module, self.r)?;
        let alpha = number_of((METHOD.name, "alpha_pattern"), &self.alpha_pattern, module, self.lora_alpha)?;
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }

    /// The fields as `adapter_config.json` has them: targets spelled out, those of variants that are not built switched
    /// off.
    pub(super) fn written(&self, targets: &Value) -> Map<String, Value> {
        let mut written = config::to_map(self);
        written.insert("target_modules".into(), targets.clone());
        for inert in INERT {
            let off = inert.off.first().and_then(|value| serde_json::from_str(value).ok());
            written.insert(inert.field.into(), off.unwrap_or(Value::Null));
        }
        written
    }

    /// Rows of embedding tables that are trained whole.
    pub(super) fn plan_tokens(&self, plan: &mut Plan, base: &Base) -> Result<(), EditError> {
        const FIELD: &str = "trainable_token_indices";
        let by_module = match &self.trainable_token_indices {
            None => return Ok(()),
            Some(TokenIndices::OfTable(ids)) => BTreeMap::from([("embed_tokens".to_string(), ids.clone())]),
            Some(TokenIndices::ByModule(by_module)) => by_module.clone(),
        };
        let mut tables = Vec::new();
        for (module, ids) in &by_module {
            let targets = Targets { target_modules: Some(OneOrMany::Many(vec![module.clone()])), ..Targets::default() };
            let none = OneOrMany::Many(Vec::new());
            let kinds = [WeightKind::Embedding, WeightKind::Head];
            let selection = targets.select(METHOD.name, base, &kinds, none)?;
            tables.extend(selection.weights.into_iter().map(|weight| (module, ids, weight)));
        }
        tables.sort_by_key(|(.., weight)| weight.kind == WeightKind::Head);
        let of_table = tables.iter().find(|(.., weight)| weight.kind == WeightKind::Embedding).map(|(_, ids, _)| *ids);
        for (module, ids, weight) in tables {
            // Where the head is the table, the same rows of both are trained once, as in PEFT.
            match of_table.filter(|_| base.tied_head && weight.kind == WeightKind::Head) {
                Some(same) if same == ids => continue,
                Some(other) => {
                    let found = format!("{ids:?} of `{module}` beside {other:?} of the embedding table");
                    let reason = "in this model they are one table; name the same tokens for both, or one of the two";
                    return Err(refused(FIELD, &found, reason));
                }
                None => {}
            }
            if plan.placed.iter().any(|placed| placed.place.to_string() == weight.name) {
                let found = format!("{ids:?} of `{module}`");
                return Err(refused(FIELD, &found, "`target_modules` has the same table; leave one of them out"));
            }
            let key = format!("base_model.model.{}.token_adapter.trainable_tokens_delta", weight.module());
            tokens::plan_rows(plan, (METHOD.name, FIELD), weight, ids, key)?;
        }
        Ok(())
    }
}

fn refused(field: &str, found: &str, reason: &str) -> EditError {
    EditError::Unsupported { method: METHOD.name, field: field.into(), found: found.into(), reason: reason.into() }
}
