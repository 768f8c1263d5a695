//! Which modules a method acts on, by Hugging Face PEFT's rules:
//!
//! - `target_modules`: a list matches a module whose path equals an entry or ends in `.entry`; a string is a regular
//!   expression over the whole path; `all-linear` is every linear map but the LM head.
//! - `exclude_modules`: the same rules, taken away. Modules under `modules_to_save` are taken away too.
//! - `layers_to_transform`, `layers_pattern`: with a list of targets, only these layers; the layer is the first number in
//!   the path, or the number after the pattern.
//! - `rank_pattern`, `alpha_pattern`: the first key that, as a regular expression, ends the path.
//!
//! Beyond PEFT: an entry that matches nothing is an error that shows near matches.

use std::collections::BTreeSet;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight, WeightKind};
use crate::error::EditError;

/// One or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value; for names, a regular expression.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
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
        let exclude = self.excluded(method)?;
        let layers = self.layers(method, &wanted)?;
        let weights: Vec<&BaseWeight> = candidates
            .into_iter()
            .filter(|w| !exclude.matches(w.module()) && !self.is_saved(w.module()))
            .filter(|w| match (&pattern, &wanted) {
                (Some(pattern), _) => pattern.is_match(w.module()),
                (None, names) => {
                    names.as_slice().iter().any(|name| ends_in(w.module(), name)) && layers.matches(w.module())
                }
            })
            .collect();
        if weights.is_empty() {
            return Err(self.nothing_matched(&wanted, base));
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

    fn layers(&self, method: &'static str, targets: &OneOrMany<String>) -> Result<Layers, EditError> {
        let wanted = self.layers_to_transform.as_ref().map(|l| l.as_slice().to_vec()).filter(|l| !l.is_empty());
        let Some(wanted) = wanted else { return Ok(Layers { wanted: None, patterns: Vec::new() }) };
        if let OneOrMany::One(_) = targets {
            return Err(EditError::Unsupported {
                method,
                field: "layers_to_transform".into(),
                found: format!("{wanted:?}"),
                reason: "PEFT honours it only with a list in `target_modules`; name the layers in the pattern".into(),
            });
        }
        let given = self.layers_pattern.as_ref().map(|p| p.as_slice().to_vec()).unwrap_or_default();
        let compile = |p: &String| pattern(method, "layers_pattern", &format!(r"^(?:.*?\.)??(?:{p})\.(\d+)\."), p);
        let mut patterns = given.iter().filter(|p| !p.is_empty()).map(compile).collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() {
            patterns.push(pattern(method, "layers_pattern", r"^.*?\.[^.]*\.(\d+)\.", "")?);
        }
        Ok(Layers { wanted: Some(wanted), patterns })
    }

    fn is_saved(&self, module: &str) -> bool {
        let under = |m: &String| module.split('.').any(|part| part == m) || module == m || ends_in(module, m);
        self.modules_to_save.iter().any(under)
    }

    fn nothing_matched(&self, wanted: &OneOrMany<String>, base: &Base) -> EditError {
        let target = match wanted {
            OneOrMany::One(text) => text.clone(),
            OneOrMany::Many(names) => names.join(", "),
        };
        let last = base.linears().last().map_or("", |w| w.module());
        let near = format!(
            "with `exclude_modules`, `layers_to_transform` and `modules_to_save` applied nothing is left; \
             module paths look like `{last}`"
        );
        EditError::NoTarget { field: "target_modules", target, what: "linear map", near }
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

struct Layers {
    wanted: Option<Vec<usize>>,
    patterns: Vec<Regex>,
}

impl Layers {
    fn matches(&self, module: &str) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        let number = self.patterns.iter().find_map(|p| p.captures(module)?.get(1)?.as_str().parse().ok());
        number.is_some_and(|layer: usize| wanted.contains(&layer))
    }
}

/// The modules of `modules_to_save`: PEFT takes every module whose path *ends in the text* (so `norm` means every norm).
pub fn saved_modules<'a>(names: &[String], base: &'a Base) -> Result<Vec<&'a BaseWeight>, EditError> {
    for name in names {
        if !base.weights.iter().any(|w| w.module().ends_with(name.as_str())) {
            let near = near_matches(name, base.weights.iter());
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
        if pattern(method, field, &format!(r"^(?:.*\.)?(?:{key})$"), key)?.is_match(module) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn ends_in(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn full_match(method: &'static str, field: &'static str, text: &str) -> Result<Regex, EditError> {
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

/// "did you mean …" over last parts of module paths, best first.
fn near_matches<'a>(name: &str, weights: impl Iterator<Item = &'a BaseWeight>) -> String {
    let lasts: BTreeSet<&str> = weights.filter_map(|w| w.module().rsplit('.').next()).collect();
    let wanted = name.rsplit('.').next().unwrap_or(name);
    let mut scored: Vec<(f64, &str)> = lasts.iter().map(|l| (strsim::jaro_winkler(wanted, l), *l)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<String> = scored.iter().filter(|s| s.0 > 0.7).take(3).map(|s| format!("`{}`", s.1)).collect();
    match near.is_empty() {
        true => format!("modules are {}", lasts.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ")),
        false => format!("did you mean {}?", near.join(" or ")),
    }
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
