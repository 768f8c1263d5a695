//! MAM, "mix and match" (He et al. 2022, arXiv 2110.04366): a short prefix at attention and a wide parallel adapter at the MLP,
//! `attention(q, [K_p; k], [V_p; v])` and `h + f(u) + s W_up relu(W_down u)`. Its two halves are
//! [`prefix_tuning`](crate::methods::prompts::prefix_tuning) and
//! [`parallel_adapter`](crate::methods::adapters::bottleneck); here is only how they are one edit.
//!
//! Defaults are the paper's where it has them: 30 virtual tokens, a bottleneck of 512, `scaling` 4. The prefix comes out of a map
//! (`prefix_projection`) only if asked for, and starts at zero keys and values.
//!
//! Parameters: `p · layers · 2 · kv` and `layers (2 b d + b + d)`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Edit, Mergeable, Method, MethodInfo, Origin, Placed, Plan, QuantisedBase};
use crate::methods::adapters::NonLinearity;
use crate::methods::adapters::parallel::METHOD as PARALLEL;
use crate::methods::prompts::prefix_tuning;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "mam",
    peft_type: "HONE_MAM",
    family: "hybrid",
    summary: "a prefix at attention and a parallel adapter at the MLP",
    paper: "arXiv 2110.04366",
    formula: "attention(q, [K_p; k], [V_p; v]); o + s W_up f(W_down u)",
    mergeable: Mergeable::No("it is virtual tokens and a network beside the weights, not a change of weights"),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<MamConfig>(),
};

/// The fields of both halves; everything else about them is as their own methods have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MamConfig {
    /// Virtual tokens of the prefix.
    pub num_virtual_tokens: usize,
    /// Whether keys and values come out of a map while they are trained.
    pub prefix_projection: bool,
    /// Width inside that map; by default that of keys.
    pub encoder_hidden_size: Option<usize>,
    /// The width of the adapter's bottleneck.
    pub bottleneck: usize,
    /// The function inside the bottleneck.
    pub non_linearity: NonLinearity,
    /// Factor on the adapter's output.
    #[serde(serialize_with = "config::number")]
    pub scaling: f64,
    /// Dropout on the adapter's output.
    pub dropout: f64,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for MamConfig {
    fn default() -> Self {
        MamConfig {
            num_virtual_tokens: 30,
            prefix_projection: false,
            encoder_hidden_size: None,
            bottleneck: 512,
            non_linearity: NonLinearity::Relu,
            scaling: 4.0,
            dropout: 0.0,
            task_type: Some("CAUSAL_LM".into()),
        }
    }
}

/// The method: its fields and its halves.
struct Mam {
    config: MamConfig,
    prefix: Arc<dyn Method>,
    adapter: Arc<dyn Method>,
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let config: MamConfig = config::read(METHOD.name, fields, &[], origin, warnings)?;
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    let prefix = object(json!({
        "num_virtual_tokens": config.num_virtual_tokens,
        "prefix_projection": config.prefix_projection,
        "encoder_hidden_size": config.encoder_hidden_size,
        "init_weights": "zero",
        "task_type": config.task_type,
    }));
    let adapter = object(json!({
        "bottleneck": config.bottleneck,
        "non_linearity": config.non_linearity,
        "scaling": config.scaling,
        "dropout": config.dropout,
        "task_type": config.task_type,
    }));
    let prefix = (prefix_tuning::METHOD.parse)(&prefix, origin, warnings)?;
    let adapter = (PARALLEL.parse)(&adapter, origin, warnings)?;
    Ok(Arc::new(Mam { config, prefix, adapter }))
}

impl Method for Mam {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (mut plan, adapter) = (self.prefix.plan(base)?, self.adapter.plan(base)?);
        plan.config = config::to_map(&self.config);
        let first = plan.params.len();
        plan.params.extend(adapter.params);
        plan.placed.extend(adapter.placed.into_iter().map(|placed| renumbered(placed, |param| param + first)));
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(&self.config)
    }

    fn default_learning_rate(&self) -> f64 {
        // Between the prefix's and the adapter's own: both learn at it.
        1e-3
    }

    fn virtual_tokens(&self) -> usize {
        self.config.num_virtual_tokens
    }

    /// The prefix without its map; the adapter as it is.
    fn finished(&self, edit: Edit, base: &Base) -> Result<Edit, EditError> {
        let plan = self.prefix.plan(base)?;
        let (params, parts) = (plan.params.len(), plan.placed.len());
        let prefix = Edit {
            method: self.prefix.clone(),
            config: plan.config,
            params: edit.params[..params].to_vec(),
            placed: edit.placed[..parts].to_vec(),
            ..edit.clone()
        };
        let prefix = self.prefix.finished(prefix, base)?;
        let kept = prefix.params.len();
        let adapter = edit.placed[parts..].iter().cloned();
        let adapter = adapter.map(|placed| renumbered(placed, |param| param - params + kept));
        let placed = prefix.placed.into_iter().chain(adapter).collect();
        let params = prefix.params.into_iter().chain(edit.params[params..].iter().cloned()).collect();
        let method =
            Arc::new(Mam { config: self.config.clone(), prefix: prefix.method, adapter: self.adapter.clone() });
        Ok(Edit { method, params, placed, ..edit })
    }
}

fn renumbered(placed: Placed, number: impl Fn(usize) -> usize) -> Placed {
    Placed { params: placed.params.iter().map(|param| number(*param)).collect(), ..placed }
}
