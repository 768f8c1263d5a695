//! What a configuration says that fits nothing in the model: entries of `exclude_modules`, keys of the patterns by module
//! (`rank_pattern` …), layers of `layers_to_transform` that are not there.
//!
//! Such an entry changes nothing, so whoever wrote it meant another. A recipe is refused for it; an adapter's file, which may have
//! been written for several models, gets a warning. (PEFT warns of an `exclude_modules` of which no entry matches, and says
//! nothing of the others.)
//!
//! `exclude_modules` may name what is no target anyway: that is left out, as asked.

use regex::Regex;
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::error::EditError;
use crate::method::{Method, Place, Plan};
use crate::planning::TargetFields;
use crate::target::{OneOrMany, Targets, ends_in, full_match, key_pattern, near_expression, near_matches};

/// Fields that give modules values of their own, by name or regular expression.
const PATTERNS: [&str; 5] =
    ["rank_pattern", "alpha_pattern", "lambda_pattern", "block_size_pattern", "n_frequency_pattern"];

/// One error for each entry of the method's fields that fits nothing in `base`, as `plan` has it.
pub(crate) fn unmatched(method: &dyn Method, plan: &Plan, base: &Base) -> Result<Vec<EditError>, EditError> {
    let (fields, name) = (method.fields(), method.info().name);
    let targets = targets(&fields);
    let mut found = excluded(&targets, name, base)?;
    found.extend(targets.layers_not_there(name, base)?);
    let planned = |w: &&BaseWeight| w.kind != WeightKind::Bias && plan.placed.iter().any(|p| is_at(&p.place, w));
    let planned: Vec<&BaseWeight> = base.weights.iter().filter(planned).collect();
    for field in PATTERNS {
        for (key, value) in fields.get(field).and_then(Value::as_object).into_iter().flatten() {
            // AdaLoRA's ranks are what its budget left, not what was asked for.
            if value.is_array() {
                continue;
            }
            let pattern = match method.info().peft_type {
                "OSF" => compiled_anywhere(key),
                _ => Some(key_pattern(name, field, key)?),
            };
            if let Some(pattern) = pattern.filter(|p| !planned.iter().any(|w| p.is_match(w.module()))) {
                let elsewhere = base.weights.iter().any(|w| pattern.is_match(w.module()));
                let near = match elsewhere {
                    true => "the model has such modules, but they are no targets; see `target_modules`".to_string(),
                    false => near_matches(key, planned.iter().copied()),
                };
                found.push(EditError::NoTarget { field, target: key.clone(), what: "targeted module", near });
            }
        }
    }
    Ok(found)
}

/// The fields that say where a method acts, as far as it has them.
fn targets(fields: &Map<String, Value>) -> Targets {
    let shared = ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"];
    let own = fields.iter().filter(|(field, _)| shared.contains(&field.as_str()));
    let own: Map<String, Value> = own.map(|(field, value)| (field.clone(), value.clone())).collect();
    serde_json::from_value::<TargetFields>(Value::Object(own)).unwrap_or_default().targets()
}

/// An error for each entry of `exclude_modules` that matches no module.
fn excluded(targets: &Targets, method: &'static str, base: &Base) -> Result<Vec<EditError>, EditError> {
    let modules: Vec<&BaseWeight> = base.weights.iter().collect();
    let error = |target: &String, near| EditError::NoTarget {
        field: "exclude_modules",
        target: target.clone(),
        what: "module",
        near,
    };
    Ok(match &targets.exclude_modules {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => {
            let pattern = full_match(method, "exclude_modules", text)?;
            match text.is_empty() || modules.iter().any(|w| pattern.is_match(w.module())) {
                true => Vec::new(),
                false => vec![error(text, near_expression(text, &modules))],
            }
        }
        Some(OneOrMany::Many(names)) => {
            let matches = |name: &&String| modules.iter().any(|w| ends_in(w.module(), name));
            let others = names.iter().filter(|name| !matches(name));
            others.map(|name| error(name, near_matches(name, modules.iter().copied()))).collect()
        }
    })
}

fn is_at(place: &Place, weight: &BaseWeight) -> bool {
    match place {
        Place::Linear(module) => module == weight.module(),
        Place::Weight(name) => *name == weight.name,
        _ => false,
    }
}

/// OSF looks for its keys anywhere in a path. It compiled them when its fields were read.
fn compiled_anywhere(key: &str) -> Option<Regex> {
    Regex::new(key).ok()
}
