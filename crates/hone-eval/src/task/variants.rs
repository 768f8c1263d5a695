//! One task asked in several ways: other wordings, with and without a passage, with reasoning first.
//!
//! `variants` of a task file is a list. Each entry has a `name`, perhaps a `set` that measures group by (`observed`,
//! `unobserved` …), and keys that go over the task's own. Every variant is a task called `TASK@NAME`, with the same examples
//! under the same ids, so that measures can follow an example through all of them. The first variant stands for the task where
//! one number is wanted.
//!
//! ```yaml
//! task: sentiment
//! doc_to_text: "{{text}}\nSentiment:"
//! variants:
//!   - {name: plain, set: observed}
//!   - {name: asked, set: unobserved, doc_to_text: "Is this review good or bad?\n{{text}}\nAnswer:"}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{EvalError, did_you_mean};

/// Between a task's name and a variant's.
pub const SEPARATOR: char = '@';

/// Keys that variants share, because they say what the examples are or what the file is.
const SHARED: [&str; 4] = ["task", "variants", "dataset_path", "group"];

/// Which way of asking a task is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// The task that is asked.
    pub of: String,
    /// This way's name.
    pub name: String,
    /// The set of ways it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Its place among the ways, from 0; the first stands for the task.
    pub index: usize,
}

/// The keys of each variant's task, or `None` for a task that is asked in one way. `only` is the variant wanted.
///
/// # Errors
/// Entries without a name, with a name twice, with a key that variants share, or no variant called `only`.
pub fn expand(
    file: &str,
    keys: &Map<String, Value>,
    only: Option<&str>,
) -> Result<Option<Vec<(Variant, Map<String, Value>)>>, EvalError> {
    let problem = |place: String, problem: String| EvalError::TaskFile { file: file.into(), place, problem };
    let Some(value) = keys.get("variants").filter(|value| !value.is_null()) else {
        return match only {
            None => Ok(None),
            Some(name) => Err(problem("variants".into(), format!("none; the task has no variant `{name}`"))),
        };
    };
    let of = keys.get("task").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(entries) = value.as_array().filter(|entries| !entries.is_empty()) else {
        return Err(problem("variants".into(), "expected a list of mappings with a `name` each".into()));
    };
    let mut all: Vec<(Variant, Map<String, Value>)> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let place = |key: &str| format!("variants[{index}]{key}");
        let Value::Object(entry) = entry else {
            return Err(problem(place(""), format!("found {entry}, expected a mapping with a `name`")));
        };
        let mut own = entry.clone();
        let name = match own.remove("name") {
            Some(Value::String(name)) if is_name(&name) => name,
            Some(other) => {
                let what =
                    format!("found {other}, expected letters, digits, `-`, `_` or `.`: scorecards are named after it");
                return Err(problem(place(".name"), what));
            }
            None => return Err(problem(place(".name"), "missing".into())),
        };
        if all.iter().any(|(known, _)| known.name == name) {
            return Err(problem(place(".name"), format!("`{name}` is there twice")));
        }
        let set = match own.remove("set") {
            None | Some(Value::Null) => None,
            Some(Value::String(set)) => Some(set),
            Some(other) => return Err(problem(place(".set"), format!("found {other}, expected text"))),
        };
        if let Some(key) = own.keys().find(|key| SHARED.contains(&key.as_str())) {
            return Err(problem(place(&format!(".{key}")), "is the same for all variants; set it for the task".into()));
        }
        let mut whole = keys.clone();
        whole.remove("variants");
        whole.extend(own);
        whole.insert("task".into(), format!("{of}{SEPARATOR}{name}").into());
        all.push((Variant { of: of.clone(), name, set, index }, whole));
    }
    let Some(only) = only else { return Ok(Some(all)) };
    let names: Vec<String> = all.iter().map(|(variant, _)| variant.name.clone()).collect();
    all.retain(|(variant, _)| variant.name == only);
    if all.is_empty() {
        let hint = did_you_mean(only, names.iter().map(String::as_str));
        return Err(problem("variants".into(), format!("no variant `{only}`{hint}; there are {}", names.join(", "))));
    }
    Ok(Some(all))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A reference to a task, and the variant after the separator.
pub fn split(reference: &str) -> (&str, Option<&str>) {
    match reference.rsplit_once(SEPARATOR) {
        // A path may have the sign in a directory's name.
        Some((task, variant)) if !variant.contains(['/', '\\']) && !task.is_empty() => (task, Some(variant)),
        _ => (reference, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(variants: Value) -> Map<String, Value> {
        let Value::Object(keys) = json!({"task": "t", "doc_to_text": "q", "num_fewshot": 2, "variants": variants})
        else {
            return Map::new();
        };
        keys
    }

    #[test]
    fn every_variant_is_a_task_with_keys_over_the_tasks_own() {
        let keys = keys(json!([{"name": "a", "set": "seen"}, {"name": "b", "doc_to_text": "r"}]));
        let all = expand("t.yaml", &keys, None).unwrap().unwrap();
        assert_eq!(all[0].0, Variant { of: "t".into(), name: "a".into(), set: Some("seen".into()), index: 0 });
        let plain = json!({"task": "t@a", "doc_to_text": "q", "num_fewshot": 2});
        let other = json!({"task": "t@b", "doc_to_text": "r", "num_fewshot": 2});
        assert_eq!((Value::from(all[0].1.clone()), Value::from(all[1].1.clone())), (plain, other));
        let one = expand("t.yaml", &keys, Some("b")).unwrap().unwrap();
        assert_eq!((one.len(), one[0].0.index), (1, 1));
        let mut none = keys.clone();
        none.remove("variants");
        assert_eq!(expand("t.yaml", &none, None).unwrap(), None);
        assert!(expand("t.yaml", &none, Some("a")).is_err());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let message = |variants: Value| expand("t.yaml", &keys(variants), Some("abc")).unwrap_err().to_string();
        assert!(message(json!("a")).contains("variants: expected a list"));
        assert!(message(json!([{"set": "x"}])).contains("variants[0].name: missing"));
        assert!(message(json!([{"name": "a/b"}])).contains("variants[0].name: found"));
        assert!(message(json!([{"name": "a"}, {"name": "a"}])).contains("variants[1].name: `a` is there twice"));
        assert!(message(json!([{"name": "a", "task": "u"}])).contains("variants[0].task: is the same"));
        assert!(message(json!([{"name": "abd"}])).contains("did you mean `abd`?"));
    }

    #[test]
    fn a_reference_may_name_a_variant() {
        assert_eq!(split("sst2"), ("sst2", None));
        assert_eq!(split("sst2@a"), ("sst2", Some("a")));
        assert_eq!(split("my@dir/sst2.yaml"), ("my@dir/sst2.yaml", None));
        assert_eq!(split("dir/sst2.yaml@b"), ("dir/sst2.yaml", Some("b")));
    }
}
