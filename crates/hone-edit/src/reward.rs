//! Adapters of reward models: an edit with a head for numbers beside it, as PEFT saves them with `task_type: SEQ_CLS` (TRL's
//! reward trainer, for one).
//!
//! The head is the tensor `base_model.model.score.weight` `[1, hidden]`; the configuration lists it in `modules_to_save` as
//! `score` (and `classifier`, which decoders do not have). What is left is an adapter like any other.

use std::path::Path;

use hone_model::Model;
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::error::EditError;
use crate::files::{CONFIG, TensorFile, adapter_directory, read_beside, read_config};
use crate::stack::EditStack;

/// PEFT's word for such adapters.
const TASK: &str = "SEQ_CLS";
/// The head's name.
const HEAD: &str = "base_model.model.score.weight";
/// Modules that PEFT lists as saved whole where the task is [`TASK`].
const MODULES: [&str; 2] = ["score", "classifier"];

/// Whether the adapter in `dir` is a reward model's.
///
/// # Errors
/// No adapter there.
pub fn is_reward_adapter(dir: &Path) -> Result<bool, EditError> {
    Ok(is_of_task(&read_config(&adapter_directory(dir).join(CONFIG))?))
}

/// The edit in `dir` as a stack of one, and the head, `[hidden]`.
///
/// # Errors
/// What [`crate::load_edit`] says; a head of several labels, or none.
pub fn load_reward_edit(dir: &Path, model: &Model) -> Result<(EditStack, Vec<f32>), EditError> {
    let hidden = model.spec.hidden_size;
    let (edit, head) = read_beside(dir, &Base::of(model), |config, file| {
        without_head(config);
        head_of(file, hidden)
    })?;
    Ok((EditStack::of(edit), head))
}

fn is_of_task(config: &Map<String, Value>) -> bool {
    config.get("task_type").and_then(Value::as_str) == Some(TASK)
}

/// The configuration of the edit alone.
fn without_head(config: &mut Map<String, Value>) {
    config.insert("task_type".into(), json!("CAUSAL_LM"));
    if let Some(Value::Array(saved)) = config.get_mut("modules_to_save") {
        saved.retain(|module| module.as_str().is_none_or(|name| !MODULES.contains(&name)));
        if saved.is_empty() {
            config.insert("modules_to_save".into(), Value::Null);
        }
    }
}

fn head_of(file: &mut TensorFile, hidden: usize) -> Result<Vec<f32>, EditError> {
    Ok(file.tensor(HEAD, &[1, hidden])?.to_vec_f32())
}
