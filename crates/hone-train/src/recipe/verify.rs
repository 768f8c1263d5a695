//! Checks of a recipe: every key against the JSON Schema, every value against what it can mean.

use hone_edit::error::did_you_mean;
use hone_edit::warm_start;
use serde_json::Value;

use super::{Optimizer, Recipe};

/// A fault: the path of keys that leads to it, and what is wrong.
pub type Fault = (Vec<String>, String);

/// Keys people write out of habit, and what they are called here.
const OTHER_NAMES: [(&str, &str); 16] = [
    ("num_train_epochs", "train.epochs"),
    ("num_epochs", "train.epochs"),
    ("max_steps", "train.steps"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("micro_batch_size", "train.batch_size"),
    ("gradient_accumulation_steps", "train.gradient_accumulation"),
    ("lr_scheduler", "train.schedule"),
    ("lr_scheduler_type", "train.schedule"),
    ("gradient_checkpointing", "train.recompute"),
    ("sequence_length", "data.max_length"),
    ("sequence_len", "data.max_length"),
    ("max_seq_length", "data.max_length"),
    ("base_model", "model"),
    ("adapter", "method.type"),
    ("val_set_size", "data.validation_fraction"),
    ("eval_steps", "train.validation_every"),
];

/// The first key the schema does not have. `method` is left to the method itself.
pub fn unknown_keys(value: &Value, schema: &Value) -> Result<(), Fault> {
    walk(value, schema, schema, &mut Vec::new())
}

fn walk(value: &Value, node: &Value, root: &Value, path: &mut Vec<String>) -> Result<(), Fault> {
    let node = resolve(node, root);
    match value {
        Value::Object(fields) => {
            let Some(known) = node.get("properties").and_then(Value::as_object) else {
                // A map with free keys (`fail_if`): each value has the same schema.
                let inner = node.get("additionalProperties").filter(|v| v.is_object());
                return inner.map_or(Ok(()), |inner| each(fields.iter(), inner, root, path));
            };
            for (key, value) in fields {
                path.push(key.clone());
                match known.get(key) {
                    Some(inner) => walk(value, inner, root, path)?,
                    None => return Err((path.clone(), unknown(path, known.keys().map(String::as_str)))),
                }
                path.pop();
            }
            Ok(())
        }
        Value::Array(list) => match node.get("items") {
            Some(items) => {
                let numbered: Vec<(String, &Value)> =
                    list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect();
                each(numbered.iter().map(|(i, v)| (i, *v)), items, root, path)
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn each<'a>(
    entries: impl Iterator<Item = (&'a String, &'a Value)>,
    inner: &Value,
    root: &Value,
    path: &mut Vec<String>,
) -> Result<(), Fault> {
    for (key, value) in entries {
        path.push(key.clone());
        walk(value, inner, root, path)?;
        path.pop();
    }
    Ok(())
}

fn unknown<'a>(path: &[String], known: impl Iterator<Item = &'a str> + Clone) -> String {
    let key = path.last().map_or("", String::as_str);
    let hint = match OTHER_NAMES.iter().find(|(other, ours)| *other == key && *ours != path.join(".")) {
        Some((_, ours)) => format!("; here it is called `{ours}`"),
        None => did_you_mean(key, known.clone()),
    };
    let place = match path.len() {
        1 => "at the top of a recipe".to_string(),
        n => format!("in `{}`", path[..n - 1].join(".")),
    };
    format!("unknown key `{key}` {place}{hint}; known keys: {}", known.collect::<Vec<_>>().join(", "))
}

/// Follows references and takes the schema out of "this or null".
fn resolve<'a>(node: &'a Value, root: &'a Value) -> &'a Value {
    let mut node = node;
    for _ in 0..16 {
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            let Some(target) = root.pointer(reference.trim_start_matches('#')) else { return node };
            node = target;
        } else if let Some(some) = node.get("anyOf").and_then(Value::as_array).and_then(|all| not_null(all)) {
            node = some;
        } else {
            return node;
        }
    }
    node
}

fn not_null(alternatives: &[Value]) -> Option<&Value> {
    let mut others = alternatives.iter().filter(|a| a.get("type").and_then(Value::as_str) != Some("null"));
    let first = others.next()?;
    others.next().is_none().then_some(first)
}

/// Whether the key at `path` holds text, so that a value given for it is not read as YAML.
pub fn holds_text(path: &[String], schema: &Value) -> bool {
    let mut node = resolve(schema, schema);
    for key in path {
        let next = match key.parse::<usize>() {
            Ok(_) => node.get("items"),
            Err(_) => node.get("properties").and_then(|p| p.get(key)),
        };
        let Some(next) = next else { return false };
        node = resolve(next, schema);
    }
    match node.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => {
            kinds.iter().any(|k| k == "string") && kinds.iter().all(|k| k == "string" || k == "null")
        }
        _ => false,
    }
}

/// The first value that cannot be meant.
pub fn values(recipe: &Recipe) -> Result<(), Fault> {
    let train = &recipe.train;
    let fault = |key: &str, found: String, expected: &str| -> Result<(), Fault> {
        let what = format!("`train.{key}`: found {found}, expected {expected}");
        Err((vec!["train".into(), key.into()], what))
    };
    let positive = |x: f64| x.is_finite() && x > 0.0;
    if let Some(rate) = train.learning_rate.filter(|r| !positive(*r)) {
        return fault("learning_rate", rate.to_string(), "a number above 0");
    }
    if let Some(epochs) = train.epochs.filter(|e| !positive(*e)) {
        return fault("epochs", epochs.to_string(), "a number above 0");
    }
    if train.steps == Some(0) {
        return fault("steps", "0".into(), "1 or more");
    }
    if train.steps.is_some() && train.epochs.is_some() {
        return fault("steps", "both `steps` and `epochs`".into(), "one of them");
    }
    if train.warmup_steps.is_none() && !(0.0..=1.0).contains(&train.warmup_ratio) {
        return fault("warmup_ratio", train.warmup_ratio.to_string(), "a share from 0 to 1");
    }
    let whole = [
        ("batch_size", train.batch_size),
        ("gradient_accumulation", train.gradient_accumulation),
        ("log_every", train.log_every),
    ];
    for (key, value) in whole {
        if value == 0 || value > 1 << 20 {
            return fault(key, value.to_string(), "1 or more (at most 1048576)");
        }
    }
    if train.early_stop_patience == Some(0) {
        return fault("early_stop_patience", "0".into(), "1 or more, or nothing to never stop early");
    }
    let decays = [("betas", train.betas.0), ("betas", train.betas.1), ("momentum", train.momentum)];
    for (key, value) in decays {
        if !(0.0..1.0).contains(&value) {
            return fault(key, value.to_string(), "a number from 0 up to, but not including, 1");
        }
    }
    if train.optimizer != Optimizer::Sgd && !positive(train.eps) {
        return fault("eps", train.eps.to_string(), "a number above 0");
    }
    for (key, value) in [("weight_decay", train.weight_decay), ("max_grad_norm", train.max_grad_norm)] {
        if !value.is_finite() || value < 0.0 {
            return fault(key, value.to_string(), "0 or more");
        }
    }
    if let Some(compatibility) = &train.compatibility {
        compatibility.check(recipe.method.0.get(warm_start::FIELD).is_some_and(Value::is_string))?;
    }
    if let Some(weight) = train.wording_consistency {
        if !positive(weight) {
            return fault("wording_consistency", weight.to_string(), "a number above 0, or nothing to leave it out");
        }
        if train.compatibility.is_some() {
            let found = format!("{weight} beside `train.compatibility`");
            return fault("wording_consistency", found, "one of them: each is a loss of its own");
        }
    }
    if recipe.eval.limit == Some(0) {
        let what = "`eval.limit`: found 0, expected 1 or more, or nothing for all questions".to_owned();
        return Err((vec!["eval".into(), "limit".into()], what));
    }
    for (task, rule) in &recipe.eval.fail_if {
        let path = |key: &str| vec!["eval".into(), "fail_if".into(), task.clone(), key.into()];
        if let Some(drop) = rule.drop_over.filter(|d| !d.is_finite() || *d < 0.0) {
            let what = format!("`eval.fail_if.{task}.drop_over`: found {drop}, expected 0 or more");
            return Err((path("drop_over"), what));
        }
        if rule.drop_over.is_none() && rule.worse_than.is_none() {
            return Err((path("drop_over"), format!("`eval.fail_if.{task}`: give `drop_over` or `worse_than`")));
        }
    }
    Ok(())
}
