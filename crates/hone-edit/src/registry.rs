//! Every method, one line each.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{EditError, did_you_mean};
use crate::method::{Method, MethodInfo, Origin};
use crate::methods;

/// The methods, in the order they are listed.
pub const METHODS: &[MethodInfo] = &[
    methods::lora::METHOD,
    methods::adalora::METHOD,
    methods::vera::METHOD,
    methods::lycoris::loha::METHOD,
    methods::lycoris::lokr::METHOD,
    methods::hira::METHOD,
    methods::miss::METHOD,
    methods::randlora::METHOD,
    methods::delora::METHOD,
    methods::gralora::METHOD,
    methods::vblora::METHOD,
    methods::c3a::METHOD,
    methods::waveft::METHOD,
    methods::trainable_tokens::METHOD,
    methods::oft::METHOD,
    methods::boft::METHOD,
    methods::hra::METHOD,
    methods::road::METHOD,
    methods::fourierft::METHOD,
    methods::ia3::METHOD,
    methods::adapters::bottleneck::HOULSBY,
    methods::adapters::bottleneck::PFEIFFER,
    methods::adapters::bottleneck::PARALLEL,
    methods::adapters::conformer::METHOD,
    methods::adapters::compacter::METHOD,
    methods::adapters::fusion::METHOD,
    methods::full::METHOD,
    methods::selective::bitfit::METHOD,
    methods::selective::norms::METHOD,
    methods::selective::layers::LAST_LAYERS,
    methods::selective::layers::HEAD_ONLY,
    methods::selective::shira::METHOD,
    methods::selective::masked::FISH_MASK,
    methods::selective::masked::CHILD_TUNING,
    methods::selective::masked::SUBNETWORK,
    methods::selective::diff_pruning::METHOD,
    methods::selective::mask_tuning::METHOD,
    methods::selective::grafting::METHOD,
    methods::selective::lisa::METHOD,
    methods::selective::galore::METHOD,
    methods::routed::poly::METHOD,
    methods::routed::poly_ia3::METHOD,
    methods::routed::moe_lora::METHOD,
    methods::routed::adamix::METHOD,
    methods::routed::xlora::METHOD,
    methods::prompts::prompt_tuning::METHOD,
    methods::prompts::p_tuning::METHOD,
    methods::prompts::prefix_tuning::METHOD,
    methods::prompts::multitask_prompt_tuning::METHOD,
    methods::prompts::adaption_prompt::METHOD,
    methods::prompts::dept::METHOD,
    methods::prompts::ept::METHOD,
    methods::prompts::attempt::METHOD,
    methods::hybrid::mam::METHOD,
    methods::hybrid::unipelt::METHOD,
];

/// A method from a recipe's `method`: its `type` is the word, the rest its fields.
pub fn from_recipe(fields: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Arc<dyn Method>, EditError> {
    let word = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    let Some(info) = METHODS.iter().find(|m| m.name == word) else {
        return Err(unknown(word, METHODS.iter().map(|m| m.name)));
    };
    let mut own = fields.clone();
    own.shift_remove("type");
    (info.parse)(&own, Origin::Recipe, warnings)
}

/// A method from an `adapter_config.json`.
pub fn from_peft(config: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Arc<dyn Method>, EditError> {
    let word = config.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    let Some(info) = METHODS.iter().find(|m| m.peft_type == word) else {
        return Err(unknown(word, METHODS.iter().map(|m| m.peft_type)));
    };
    (info.parse)(config, Origin::File, warnings)
}

fn unknown<'a>(found: &str, known: impl Iterator<Item = &'a str> + Clone) -> EditError {
    let hint = did_you_mean(found, known.clone());
    EditError::UnknownMethod { found: found.into(), hint, known: known.collect::<Vec<_>>().join(", ") }
}
