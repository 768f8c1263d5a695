//! Tuning that goes on from a trained adapter: `init_from`, a field that a recipe's method may have whatever the method is.
//!
//! The recipe says the method in full, as ever; the adapter in that directory gives the first values of everything its files
//! hold. It has to be of the same method, for this base, with the same parameters and the same fields. Only fields of training
//! (dropout, factors on the learning rate) may differ; those that say where are told apart by the parameters. So what starts is
//! what was saved, and nothing of it is left out.
//!
//! A method that has a field of this name itself (Poly starts from the skills alone, prompts from one of several) is left to
//! what it says there. This knows nothing of optimisers: their memory starts fresh.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::base::Base;
use crate::edit::Edit;
use crate::error::EditError;
use crate::files::read_edit;
use crate::method::{MethodInfo, Saved};
use crate::planning::wrong;
use crate::registry::{METHODS, path_fields};
use crate::words::spelled_out;

/// The field.
pub const FIELD: &str = "init_from";
/// Fields that say where a method acts.
const WHERE: [&str; 6] =
    ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "task_type"];
/// What fields that only training reads have in their names.
const OF_TRAINING: [&str; 3] = ["dropout", "learning_rate", "lr_ratio"];

/// Whether the method has a field of this name itself.
pub fn is_own(info: &MethodInfo) -> bool {
    path_fields(info).iter().any(|field| field == FIELD)
}

/// The directory that a recipe's `method` goes on from, if its method has no such field itself.
pub fn directory(fields: &Map<String, Value>) -> Option<PathBuf> {
    let fields = spelled_out(fields);
    let path = fields.get(FIELD)?.as_str()?;
    let info = METHODS.iter().find(|method| Some(method.name) == fields.get("type").and_then(Value::as_str))?;
    (!is_own(info)).then(|| path.into())
}

/// Takes the field out of a recipe's, if the method has none of its own.
pub(crate) fn take(info: &MethodInfo, fields: &mut Map<String, Value>) -> Result<(), EditError> {
    if !fields.contains_key(FIELD) || is_own(info) {
        return Ok(());
    }
    match fields.shift_remove(FIELD) {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(other) => Err(wrong(info.name, FIELD, other.to_string(), expected(info.name))),
    }
}

fn expected(method: &str) -> String {
    format!("the directory of a trained adapter of `{method}`, for this model")
}

/// `edit` with the values of the adapter in `dir`.
pub fn start(mut edit: Edit, dir: &Path, base: &Base) -> Result<Edit, EditError> {
    let method = edit.method.info().name;
    let refused = |found: String, expected: String| {
        Err(wrong(method, FIELD, format!("{} ({found})", dir.display()), format!("{expected}; change one of the two")))
    };
    let source = match read_edit(dir, base) {
        Ok(source) => source,
        Err(error) => return Err(wrong(method, FIELD, format!("{} ({error})", dir.display()), expected(method))),
    };
    let other = source.method.info().name;
    if other != method {
        return refused(format!("an adapter of `{other}`"), format!("one of `{method}`, the recipe's method"));
    }
    let compared =
        |field: &&String| !WHERE.contains(&field.as_str()) && !OF_TRAINING.iter().any(|part| field.contains(part));
    let value = |config: &Map<String, Value>, field: &String| config.get(field).cloned().unwrap_or_default();
    let differs = |field: &&String| value(&edit.config, field) != value(&source.config, field);
    if let Some(field) = edit.config.keys().chain(source.config.keys()).filter(compared).find(differs) {
        let [theirs, ours] = [&source.config, &edit.config].map(|config| value(config, field));
        return refused(format!("its `{field}` is {theirs}"), format!("{ours}, as the recipe's method has it"));
    }
    let held = |saved: Saved| saved != Saved::No;
    let planned = |key: &str| edit.params.iter().any(|param| param.key == key);
    if let Some(param) = source.params.iter().find(|param| held(param.traits.saved) && !planned(&param.key)) {
        let expected = "what the recipe's method trains; its `target_modules` and its likes say where";
        return refused(format!("it has `{}`", param.key), expected.into());
    }
    for param in edit.params.iter_mut().filter(|param| held(param.traits.saved)) {
        let (key, shape) = (&param.key, param.value.dims());
        match source.params.iter().find(|other| other.key == *key) {
            Some(other) if other.value.dims() == shape => param.value = other.value.clone(),
            Some(other) => {
                let found = format!("`{key}` has the shape {:?}", other.value.dims());
                return refused(found, format!("{shape:?}, as the recipe's method has it"));
            }
            None => return refused(format!("without `{key}`"), "all that the recipe's method trains".into()),
        }
    }
    edit.warnings.extend(source.warnings.iter().map(|warning| format!("`{FIELD}` {}: {warning}", dir.display())));
    Ok(edit)
}
