//! X-LoRA (Buehler & Buehler 2024, arXiv 2402.07148): frozen LoRA adapters as experts, mixed token by token and layer by layer by
//! a classifier that reads the model's last hidden states of a first pass without adapters.
//!
//! `y = x Wᵀ + γ Σ_e g_e s_e (x A_eᵀ) B_eᵀ`, `s_e` expert `e`'s own scale, `γ` `global_scaling_weight`, and per token
//! `g = softmax(c(h) / T)` over the `E` experts, `h` `[tokens, hidden]` the final-norm hidden states of the *unedited* model over
//! the same tokens, `c` a linear map or an MLP with ReLU. `layerwise_scalings`: `c` gives `E` numbers for each of the `L` maps that
//! any expert changes (numbered in order of the forward pass); otherwise all share them. `top_k_lora` leaves the `k` largest `g`;
//! `enable_softmax_topk` puts what is left through a softmax once more, as PEFT does. An expert that lacks a map adds nothing
//! there, but keeps its part of the softmax.
//!
//! Trained: the classifier, `hidden · E (L) + E (L)` numbers at depth 1. Start: PyTorch's `nn.Linear`, `U(±1/√in)`; the model is that
//! of an even mixture, more or less. Fields and keys are PEFT's (`XLoraConfig`); the experts stay in their own directories,
//! which `adapters` names (and `hone.json` as seen from the mixture's own, so that both can be moved together). Costs two forward
//! passes; generation keeps the keys and values of both.
//!
//! It does not train experts, and knows nothing of edits below it in a stack: the first pass is the bare model's.

use std::path::PathBuf;
use std::sync::Arc;

use hone_engine::ops::{self, Dropout, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::moe_lora::{gated_pair, highest};
use crate::base::Base;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::files::read_edit;
use crate::method::{
    At, Edit, Init, LowRankPair, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan,
    QuantisedBase,
};
use crate::planning::{check_probability, check_rank, wrong};

const NAME: &str = "xlora";
const BY_TOKEN: &str = "each token has a mixture of its own";
const CLASSIFIER: &str = "base_model.internal_xlora_classifier.layers";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "XLORA",
    family: "routed",
    summary: "frozen LoRA adapters mixed token by token by a classifier over the hidden states of a first pass",
    paper: "arXiv 2402.07148",
    formula: "x Wᵀ + γ Σ_e g_e s_e x A_eᵀ B_eᵀ, g = softmax(c(h))",
    mergeable: Mergeable::No(BY_TOKEN),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<XLoraConfig>(),
};

/// Hugging Face's `XLoraConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct XLoraConfig {
    /// Width of the model's hidden states; the model's own unless said.
    pub hidden_size: Option<usize>,
    /// Directories of LoRA adapters by name; those of a written adapter are looked for beside it first.
    #[schemars(extend("format" = "path"))]
    pub adapters: Map<String, Value>,
    /// Put the classifier's numbers through a softmax.
    pub enable_softmax: bool,
    /// Put what is left of them through a softmax once more.
    pub enable_softmax_topk: bool,
    /// Temperature of the (first) softmax.
    pub softmax_temperature: f64,
    /// A mixture for each map.
    pub layerwise_scalings: bool,
    /// Experts used for a token; all unless said.
    pub top_k_lora: Option<usize>,
    /// Linear maps of the classifier.
    pub xlora_depth: usize,
    /// Its inner width.
    pub xlora_size: usize,
    /// Dropout after its inner maps.
    pub xlora_dropout_p: f64,
    /// Factor on everything that the experts add.
    pub global_scaling_weight: f64,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for XLoraConfig {
    fn default() -> Self {
        XLoraConfig {
            hidden_size: None,
            adapters: Map::new(),
            enable_softmax: true,
            enable_softmax_topk: false,
            softmax_temperature: 1.0,
            layerwise_scalings: false,
            top_k_lora: None,
            xlora_depth: 1,
            xlora_size: 2048,
            xlora_dropout_p: 0.2,
            global_scaling_weight: 1.0,
            task_type: None,
        }
    }
}

const INERT: &[Inert] = &[
    Inert { field: "use_trainable_adapters", off: &["false"], reason: "train the experts first, each as `lora`" },
    Inert { field: "scaling_pass_value", off: &["0.0", "0"], reason: "the first pass is that of the unedited model" },
];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
    let xlora: XLoraConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    xlora.check()?;
    Ok(Arc::new(xlora))
}

impl XLoraConfig {
    fn check(&self) -> Result<(), EditError> {
        if !(1..=1000).contains(&self.xlora_depth) {
            return Err(wrong(NAME, "xlora_depth", self.xlora_depth.to_string(), "1 to 1000 layers"));
        }
        check_rank(NAME, "xlora_size", self.xlora_size)?;
        check_probability(NAME, "xlora_dropout_p", self.xlora_dropout_p)?;
        let temperature = self.softmax_temperature;
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(wrong(NAME, "softmax_temperature", temperature.to_string(), "a positive number"));
        }
        if let Some((name, value)) = self.adapters.iter().find(|(_, value)| !value.is_string()) {
            return Err(wrong(NAME, "adapters", format!("`{name}`: {value}"), "directories of LoRA adapters by name"));
        }
        if self.top_k_lora.is_some_and(|k| k == 0 || (!self.adapters.is_empty() && k > self.adapters.len())) {
            let found = self.top_k_lora.unwrap_or(0).to_string();
            return Err(wrong(NAME, "top_k_lora", found, format!("1 to {} (the experts)", self.adapters.len())));
        }
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM") => Ok(()),
            Some(other) => Err(wrong(NAME, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
        }
    }

    /// The experts in their order, each a plain LoRA adapter.
    fn experts(&self, base: &Base) -> Result<Vec<Edit>, EditError> {
        if self.adapters.is_empty() {
            let what = "directories of trained LoRA adapters by name: `adapters: { \"0\": DIR, … }`";
            return Err(EditError::Needs { method: NAME, field: "adapters", what });
        }
        let read = |value: &Value| read_edit(&PathBuf::from(value.as_str().unwrap_or_default()), base);
        self.adapters.values().map(read).collect()
    }

    /// The classifier's parameters: weight and bias of each of its maps.
    fn classifier(&self, hidden: usize, outputs: usize) -> Vec<ParamPlan> {
        // In PEFT's `nn.Sequential`, a ReLU and (if there is any) a dropout stand between two maps.
        let step = if self.xlora_dropout_p > 0.0 { 3 } else { 2 };
        let maps = (0..self.xlora_depth).flat_map(|at| {
            let inputs = if at == 0 { hidden } else { self.xlora_size };
            let out = if at + 1 == self.xlora_depth { outputs } else { self.xlora_size };
            let uniform = || Init::Uniform { bound: 1.0 / (inputs as f32).sqrt() };
            let key = |tensor: &str| format!("{CLASSIFIER}.{}.{tensor}", at * step);
            let weight = ParamPlan::new(key("weight"), &[out, inputs], uniform());
            [weight.full_precision(), ParamPlan::new(key("bias"), &[out], uniform()).full_precision()]
        });
        maps.collect()
    }
}

impl Method for XLoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let hidden = base.geometry.hidden;
        if let Some(said) = self.hidden_size.filter(|said| *said != hidden) {
            return Err(wrong(NAME, "hidden_size", said.to_string(), format!("{hidden}, the model's")));
        }
        let experts = self.experts(base)?;
        let pairs = experts.iter().map(pairs).collect::<Result<Vec<_>, _>>()?;
        let modules: Vec<&str> = base
            .linears()
            .map(|weight| weight.module())
            .filter(|module| pairs.iter().any(|pairs| pairs.iter().any(|(own, _)| own == module)))
            .collect();
        let mut config = config::to_map(self);
        config.insert("hidden_size".into(), json!(hidden));
        config.insert("use_trainable_adapters".into(), json!(false));
        config.insert("scaling_pass_value".into(), json!(0.0));
        let mut plan = Plan { config, params: Vec::new(), placed: Vec::new() };
        let mixtures = if self.layerwise_scalings { modules.len() } else { 1 };
        let classifier = plan.add(self.classifier(hidden, mixtures * experts.len()));
        for (layer, module) in modules.iter().enumerate() {
            let mut params = classifier.clone();
            let mut present = Vec::new();
            for (expert, pairs) in pairs.iter().enumerate() {
                let Some((_, pair)) = pairs.iter().find(|(own, _)| own == module) else { continue };
                for (name, value) in [("A", &pair.a), ("B", &pair.b)] {
                    let (key, value) = (format!("xlora_experts.{expert}.{module}.lora_{name}.weight"), value.clone());
                    let dims = value.dims().to_vec();
                    let made = Init::Computed(Box::new(move |_| value.clone()));
                    params.extend(plan.add([ParamPlan::new(key, &dims, made).fixed().not_saved()]));
                }
                present.push((expert, pair.scale));
            }
            let mixture = if self.layerwise_scalings { layer } else { 0 };
            let part = Mixture { config: self.clone(), mixture, count: experts.len(), present };
            plan.placed.push(Placed { place: Place::Linear(module.to_string()), part: Arc::new(part), params });
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn wants_first_pass(&self) -> bool {
        true
    }
}

/// What an expert adds to each map it changes. Fails if it is no plain LoRA adapter.
fn pairs(expert: &Edit) -> Result<Vec<(String, LowRankPair)>, EditError> {
    let pair = |placed: &Placed| {
        let values: Vec<Tensor> = placed.params.iter().map(|&p| expert.params[p].value.clone()).collect();
        match (&placed.place, placed.part.low_rank(&values, None)) {
            (Place::Linear(module), Some(term)) => Ok((module.clone(), term)),
            (place, _) => {
                let found = format!("an adapter of `{}` that acts at `{place}`", expert.method.info().name);
                Err(wrong(NAME, "adapters", found, "LoRA adapters with nothing but low-rank pairs on linear maps"))
            }
        }
    };
    expert.placed.iter().map(pair).collect()
}

/// The experts at one map. Parameters: the classifier's (weight and bias in turn), then `A` `[r, in]` and `B` `[out, r]` of each
/// expert present.
struct Mixture {
    config: XLoraConfig,
    /// Which `E` columns of the classifier's output are this map's.
    mixture: usize,
    /// `E`.
    count: usize,
    /// The experts that change this map, with their scales.
    present: Vec<(usize, f32)>,
}

impl Mixture {
    /// The classifier's output `[tokens, E (L)]` in `f32`, made once a block of layers.
    fn scalings(&self, at: &At, rows: usize) -> Var {
        let name = format!("{NAME} {}", at.name.split('/').next().unwrap_or_default());
        if let Some(made) = at.cx.noted(&name) {
            return made;
        }
        let tape = &at.cx.tape;
        let first = at.cx.first_pass.clone().unwrap_or_else(|| panic!("X-LoRA without its first pass"));
        let mut h = ops::convert(tape, &first, DType::F32);
        let (have, width) = h.value.rows_cols();
        if have < rows {
            // Virtual tokens of other edits, which the first pass knows nothing of.
            h = ops::concat_rows(tape, &[h, Var::constant(Tensor::zeros([rows - have, width], DType::F32))]);
        }
        let depth = self.config.xlora_depth;
        for (layer, map) in at.values[..2 * depth].chunks_exact(2).enumerate() {
            h = ops::linear(tape, &h, &WeightRef::Trained(map[0].clone()), Some(&map[1]), &[]);
            if layer + 1 < depth {
                h = ops::pointwise(tape, &h, Pointwise::Relu);
                let p = self.config.xlora_dropout_p as f32;
                if at.cx.training && at.is_trained() && p > 0.0 {
                    h = ops::dropout(tape, &h, Dropout { p, key: at.cx.key.named(&name).index(layer as u64) });
                }
            }
        }
        at.cx.note(&name, h.clone());
        h
    }

    /// `g` `[tokens, E]`.
    fn gates(&self, at: &At, rows: usize) -> Var {
        let tape = &at.cx.tape;
        let own = self.mixture * self.count..(self.mixture + 1) * self.count;
        let mut g = ops::columns(tape, &self.scalings(at, rows), own);
        if self.config.enable_softmax {
            g = ops::softmax_rows(tape, &ops::scale(tape, &g, 1.0 / self.config.softmax_temperature as f32));
        }
        let kept = self.config.top_k_lora.map(|k| highest(&g.value, k));
        if let Some(kept) = &kept {
            g = ops::multiply(tape, &g, &Var::constant(kept.clone()));
        }
        if self.config.enable_softmax_topk {
            // Zeros are left out.
            let shut: Vec<f32> =
                g.value.as_slice::<f32>().iter().map(|g| if *g == 0.0 { -1e30 } else { 0.0 }).collect();
            let shut = Var::constant(Tensor::from_slice(g.value.shape(), &shut));
            g = ops::softmax_rows(tape, &ops::add(tape, &g, &shut));
        }
        g
    }
}

impl Part for Mixture {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let gates = self.gates(at, x.value.rows_cols().0);
        let factor = self.config.global_scaling_weight as f32 * at.strength;
        let experts = at.values[2 * self.config.xlora_depth..].chunks_exact(2);
        let (a, b): (Vec<Var>, Vec<Var>) = experts.map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
        // [E, Σ r]: an expert's scale in its row, over the columns of its pair.
        let ranks: Vec<usize> = a.iter().map(|a| a.value.dim(0)).collect();
        let all: usize = ranks.iter().sum();
        let mut spread = vec![0f32; self.count * all];
        let mut column = 0;
        for ((expert, scale), rank) in self.present.iter().zip(ranks) {
            spread[expert * all + column..expert * all + column + rank].fill(*scale);
            column += rank;
        }
        let gates = ops::product(tape, &gates, &Var::constant(Tensor::from_slice([self.count, all], &spread)));
        let off = Tape::off();
        let made = at.once_a_group(0, || vec![ops::concat_rows(&off, &a), ops::concat_columns(&off, &b)]);
        gated_pair(tape, x, &next(x), &gates, [&made[0], &made[1]], factor)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(BY_TOKEN.into())
    }
}
