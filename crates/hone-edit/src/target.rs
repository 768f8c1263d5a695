//! Which modules a method acts on, by Hugging Face PEFT's rules:
//!
//! - `target_modules`: a list matches a module whose path equals an entry or ends in `.entry`; a string is a regular
//!   expression over the whole path; `all-linear` is every linear map but the LM head.
//! - `exclude_modules`: the same rules, taken away. Modules under `modules_to_save` are taken away too.
//! - `layers_to_transform`, `layers_pattern`: with a list of targets, only these layers (`target/layers.rs`).
//! - `rank_pattern`, `alpha_pattern`: the first key that, as a regular expression, ends the path.
//!
//! Beyond PEFT: a target that matches nothing is an error that shows near matches; entries of
//! the other fields that match nothing are found by `unmatched.rs`.

mod layers;

use std::collections::BTreeSet;

use regex::Regex;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::config::OR_LIST;
use crate::error::EditError;
use crate::planning::wrong;

/// One or several.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value; for names, a regular expression.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for OneOrMany<T> {
    /// As untagged alternatives are read, but what is wrong says what one of them should be.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            list @ Value::Array(_) => Vec::deserialize(list).map(OneOrMany::Many).map_err(D::Error::custom),
            one => T::deserialize(one).map(OneOrMany::One).map_err(|e| D::Error::custom(format!("{e}{OR_LIST}"))),
        }
    }
}

impl<T> OneOrMany<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(list) => list,
        }
    }
}

/// The fields most methods select their targets with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Names, a regular expression, or `all-linear`; `None` is the architecture's default in PEFT.
    pub target_modules: Option<OneOrMany<String>>,
    /// What to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// What stands before the layer's number.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Modules trained whole; never targets.
    pub modules_to_save: Vec<String>,
}

/// What [`Targets::select`] found.
pub struct Selection<'a> {
    /// The weights of the targeted modules, in order of the forward pass.
    pub weights: Vec<&'a BaseWeight>,
    /// `target_modules` as `adapter_config.json` has it: `all-linear` and defaults spelled out.
    pub resolved: Value,
}

impl Targets {
    /// The linear maps of `base` these fields select.
    pub fn select_linears<'a>(&self, method: &'static str, base: &'a Base) -> Result<Selection<'a>, EditError> {
        // PEFT's table for the architectures we know (llama, mistral, qwen2, qwen3, gemma3_text).
        self.select_linears_or(method, base, OneOrMany::Many(vec!["q_proj".into(), "v_proj".into()]))
    }

    /// The same; `default` stands in for a missing `target_modules`.
    pub fn select_linears_or<'a>(
        &self,
        method: &'static str,
        base: &'a Base,
        default: OneOrMany<String>,
    ) -> Result<Selection<'a>, EditError> {
        let candidates = [WeightKind::Linear, WeightKind::Embedding, WeightKind::Head];
        let selection = self.select(method, base, &candidates, default)?;
        if let Some(other) = selection.weights.iter().find(|w| w.kind != WeightKind::Linear) {
            let reason = format!(
                "`{}` is not a linear map inside the layers; train it whole with `modules_to_save` instead",
                other.module()
            );
            let found = selection.resolved.to_string();
            return Err(EditError::Unsupported { method, field: "target_modules".into(), found, reason });
        }
        Ok(selection)
    }

    /// The weights of `base` these fields select among `kinds`; `default` stands in for a missing `target_modules`.
    pub fn select<'a>(
        &self,
        method: &'static str,
        base: &'a Base,
        kinds: &[WeightKind],
        default: OneOrMany<String>,
    ) -> Result<Selection<'a>, EditError> {
        let wanted = self.wanted(base, default);
        let candidates: Vec<&BaseWeight> = base.weights.iter().filter(|w| kinds.contains(&w.kind)).collect();
        let pattern = match &wanted {
            OneOrMany::One(text) => Some(full_match(method, "target_modules", text)?),
            OneOrMany::Many(names) => {
                check_each_matches(names, &candidates)?;
                None
            }
        };
        let named: Vec<&BaseWeight> = candidates
            .iter()
            .copied()
            .filter(|w| match &pattern {
                Some(pattern) => pattern.is_match(w.module()),
                None => wanted.as_slice().iter().any(|name| ends_in(w.module(), name)),
            })
            .collect();
        if named.is_empty() {
            return Err(nothing_named(&wanted, &candidates));
        }
        let layers = self.layers(method, &wanted)?;
        // A module named by its whole path is in, whatever its layer, as in PEFT.
        let by_path = |w: &BaseWeight| pattern.is_none() && wanted.as_slice().iter().any(|name| name == w.module());
        let is_inside = |w: &&BaseWeight| layers.matches(w.module()) || by_path(w);
        let inside: Vec<&BaseWeight> = named.iter().copied().filter(is_inside).collect();
        if inside.is_empty() {
            return Err(layers.nothing_left(method, &named, base));
        }
        let exclude = self.excluded(method)?;
        let weights: Vec<&BaseWeight> =
            inside.iter().copied().filter(|w| !exclude.matches(w.module()) && !self.is_saved(w.module())).collect();
        if weights.is_empty() {
            let all_saved = inside.iter().all(|w| self.is_saved(w.module()));
            let field = if all_saved { "modules_to_save" } else { "exclude_modules" };
            return Err(self.nothing_left(method, field, &wanted));
        }
        Ok(Selection { weights, resolved: resolved(&wanted) })
    }

    /// `target_modules` with `all-linear` and the architecture's default spelled out.
    fn wanted(&self, base: &Base, default: OneOrMany<String>) -> OneOrMany<String> {
        match &self.target_modules {
            None => default,
            Some(OneOrMany::One(word)) if word.eq_ignore_ascii_case("all-linear") => {
                let last = |w: &BaseWeight| w.module().rsplit('.').next().unwrap_or_default().to_string();
                let names: BTreeSet<String> = base.linears().map(last).collect();
                OneOrMany::Many(names.into_iter().collect())
            }
            Some(other) => other.clone(),
        }
    }

    fn excluded(&self, method: &'static str) -> Result<Excluded, EditError> {
        Ok(match &self.exclude_modules {
            None => Excluded::Names(Vec::new()),
            Some(OneOrMany::One(text)) => Excluded::Pattern(full_match(method, "exclude_modules", text)?),
            Some(OneOrMany::Many(names)) => Excluded::Names(names.clone()),
        })
    }

    fn is_saved(&self, module: &str) -> bool {
        let under = |m: &String| module.split('.').any(|part| part == m) || module == m || ends_in(module, m);
        self.modules_to_save.iter().any(under)
    }

    /// `field` takes away all that `wanted` names.
    fn nothing_left(&self, method: &'static str, field: &str, wanted: &OneOrMany<String>) -> EditError {
        let found = match (field, &self.exclude_modules) {
            ("exclude_modules", Some(exclude)) => quoted(exclude.as_slice()),
            _ => quoted(&self.modules_to_save),
        };
        let targets = quoted(wanted.as_slice());
        wrong(method, field, found, format!("to leave some of the targets ({targets}): it takes all of them away"))
    }
}

enum Excluded {
    Pattern(Regex),
    Names(Vec<String>),
}

impl Excluded {
    fn matches(&self, module: &str) -> bool {
        match self {
            Excluded::Pattern(pattern) => pattern.is_match(module),
            Excluded::Names(names) => names.iter().any(|name| ends_in(module, name)),
        }
    }
}

/// The modules of `modules_to_save`: PEFT takes every module whose path *ends in the text* (so `norm` means every norm).
pub fn saved_modules<'a>(names: &[String], base: &'a Base) -> Result<Vec<&'a BaseWeight>, EditError> {
    for name in names {
        if !base.weights.iter().any(|w| w.module().ends_with(name.as_str())) {
            // Names alone stand here, no expressions.
            let inside = |w: &&BaseWeight| w.module().split('.').rev().skip(1).any(|part| part == name);
            let held: BTreeSet<&str> =
                base.weights.iter().filter(inside).filter_map(|w| w.module().rsplit('.').next()).collect();
            let near = match held.is_empty() {
                true => near_matches(name, base.weights.iter()),
                false => format!("it holds modules and is none itself: name those, which are {}", quoted(&held)),
            };
            return Err(EditError::NoTarget { field: "modules_to_save", target: name.clone(), what: "module", near });
        }
    }
    Ok(base.weights.iter().filter(|w| names.iter().any(|n| w.module().ends_with(n.as_str()))).collect())
}

/// The value a `rank_pattern` or `alpha_pattern` gives `module`.
pub fn pattern_value<'a>(
    method: &'static str,
    field: &'static str,
    patterns: &'a Map<String, Value>,
    module: &str,
) -> Result<Option<&'a Value>, EditError> {
    for (key, value) in patterns {
        if key_pattern(method, field, key)?.is_match(module) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// What a key of a pattern by module matches: the end of a path.
pub(crate) fn key_pattern(method: &'static str, field: &'static str, key: &str) -> Result<Regex, EditError> {
    pattern(method, field, &format!(r"^(?:.*\.)?(?:{key})$"), key)
}

pub(crate) fn ends_in(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

pub(crate) fn full_match(method: &'static str, field: &'static str, text: &str) -> Result<Regex, EditError> {
    pattern(method, field, &format!("^(?:{text})$"), text)
}

fn pattern(method: &'static str, field: &'static str, regex: &str, shown: &str) -> Result<Regex, EditError> {
    // The limit keeps a hostile pattern from taking memory; real ones compile to a few kilobytes.
    regex::RegexBuilder::new(regex).size_limit(1 << 20).build().map_err(|e| EditError::Field {
        method,
        field: field.into(),
        found: format!("`{shown}`"),
        expected: format!(
            "a regular expression without look-around and back-references ({})",
            last_line(&e.to_string())
        ),
    })
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim()
}

fn check_each_matches(names: &[String], candidates: &[&BaseWeight]) -> Result<(), EditError> {
    for name in names {
        if !candidates.iter().any(|w| ends_in(w.module(), name)) {
            let near = near_matches(name, candidates.iter().copied());
            return Err(EditError::NoTarget {
                field: "target_modules",
                target: name.clone(),
                what: "linear map",
                near,
            });
        }
    }
    Ok(())
}

/// The error for targets of which no candidate is one.
fn nothing_named(wanted: &OneOrMany<String>, candidates: &[&BaseWeight]) -> EditError {
    let (target, near) = match wanted {
        OneOrMany::One(text) => (text.clone(), near_expression(text, candidates)),
        OneOrMany::Many(_) => ("[]".into(), "name some modules, or write `all-linear`".into()),
    };
    EditError::NoTarget { field: "target_modules", target, what: "linear map", near }
}

/// What to write instead of the expression `text`, which matches nothing: most often names were meant.
pub(crate) fn near_expression(text: &str, candidates: &[&BaseWeight]) -> String {
    let in_layers = candidates.iter().rev().find(|w| w.kind == WeightKind::Linear);
    let example = in_layers.or(candidates.last()).map_or("", |w| w.module());
    let rule = format!("a single text is a regular expression over whole module paths such as `{example}`");
    let names: Vec<&str> =
        text.trim_matches(['(', ')']).split([',', '|', ' ']).filter(|name| !name.is_empty()).collect();
    let is_name = |name: &&str| candidates.iter().any(|w| ends_in(w.module(), name));
    if !names.is_empty() && names.iter().all(is_name) {
        return format!("{rule}; names go into a list: `[{}]`", names.join(", "));
    }
    if strsim::jaro_winkler(&text.to_lowercase(), "all-linear") > 0.9 {
        return "did you mean `all-linear`?".into();
    }
    match text.chars().all(|c| c.is_alphanumeric() || c == '_') {
        true => format!("{}; {rule}, names go into a list", near_matches(text, candidates.iter().copied())),
        false => rule,
    }
}

/// "did you mean …" over last parts of module paths, best first.
pub(crate) fn near_matches<'a>(name: &str, weights: impl Iterator<Item = &'a BaseWeight>) -> String {
    let modules: Vec<&str> = weights.map(|w| w.module()).collect();
    if modules.iter().any(|module| module.split('.').rev().skip(1).any(|part| part == name)) {
        let name = regex::escape(name);
        let expression = format!(r".*\.{name}\..*");
        return format!(
            "it holds modules and is none itself: the expression `{expression}`, not in a list, matches all that it holds"
        );
    }
    let lasts: BTreeSet<&str> = modules.iter().filter_map(|module| module.rsplit('.').next()).collect();
    let wanted = name.rsplit('.').next().unwrap_or(name);
    let mut scored: Vec<(f64, &str)> = lasts.iter().map(|l| (strsim::jaro_winkler(wanted, l), *l)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<String> = scored.iter().filter(|s| s.0 > 0.7).take(3).map(|s| format!("`{}`", s.1)).collect();
    match near.is_empty() {
        true => format!("modules are {}", quoted(&lasts)),
        false => format!("did you mean {}?", near.join(" or ")),
    }
}

/// Names in back quotes.
fn quoted<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// As PEFT stores it: a sorted list, or the expression.
fn resolved(wanted: &OneOrMany<String>) -> Value {
    match wanted {
        OneOrMany::One(text) => Value::String(text.clone()),
        OneOrMany::Many(names) => {
            let sorted: BTreeSet<&String> = names.iter().collect();
            Value::Array(sorted.into_iter().map(|n| Value::String(n.clone())).collect())
        }
    }
}
