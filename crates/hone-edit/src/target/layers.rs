//! `layers_to_transform` and `layers_pattern`: which layers' modules are meant. A module's layer is the first number in its path,
//! or the number after the pattern.

use std::collections::BTreeSet;

use regex::Regex;

use super::{OneOrMany, Targets, pattern};
use crate::base::{Base, BaseWeight};
use crate::error::EditError;
use crate::planning::wrong;

/// The layers that are meant; all, where none are named.
pub(super) struct Layers {
    wanted: Option<Vec<usize>>,
    patterns: Vec<Regex>,
    /// `layers_pattern` as it was given.
    given: Vec<String>,
}

impl Targets {
    /// What the fields say of layers. They hold for the names of a list only (`targets`).
    pub(super) fn layers(&self, method: &'static str, targets: &OneOrMany<String>) -> Result<Layers, EditError> {
        let layers = self.named_layers(method)?;
        match (&layers.wanted, targets) {
            (Some(wanted), OneOrMany::One(_)) => Err(EditError::Unsupported {
                method,
                field: "layers_to_transform".into(),
                found: format!("{wanted:?}"),
                reason: "PEFT honours it only with a list in `target_modules`; name the layers in the pattern".into(),
            }),
            _ => Ok(layers),
        }
    }

    /// The error for the layers that are named and that `base` lacks; `None` if it has them all.
    pub(crate) fn layers_not_there(&self, method: &'static str, base: &Base) -> Result<Option<EditError>, EditError> {
        let layers = self.named_layers(method)?;
        Ok(layers.missing(method, &layers.of(&mut base.weights.iter())))
    }

    fn named_layers(&self, method: &'static str) -> Result<Layers, EditError> {
        let given = self.layers_pattern.as_ref().map(|p| p.as_slice().to_vec()).unwrap_or_default();
        let given: Vec<String> = given.into_iter().filter(|p| !p.is_empty()).collect();
        let wanted = self.layers_to_transform.as_ref().map(|l| l.as_slice().to_vec()).filter(|l| !l.is_empty());
        if wanted.is_none() && !given.is_empty() {
            let what = "`layers_pattern` only says what stands before a layer's number";
            return Err(EditError::Needs { method, field: "layers_to_transform", what });
        }
        let compile = |p: &String| pattern(method, "layers_pattern", &format!(r"^(?:.*?\.)??(?:{p})\.(\d+)\."), p);
        let mut patterns = given.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() {
            patterns.push(pattern(method, "layers_pattern", r"^.*?\.[^.]*\.(\d+)\.", "")?);
        }
        Ok(Layers { wanted, patterns, given })
    }
}

impl Layers {
    /// Whether `module` is in one of the layers.
    pub(super) fn matches(&self, module: &str) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        self.number(module).is_some_and(|layer| wanted.contains(&layer))
    }

    fn number(&self, module: &str) -> Option<usize> {
        self.patterns.iter().find_map(|p| p.captures(module)?.get(1)?.as_str().parse().ok())
    }

    fn of(&self, weights: &mut dyn Iterator<Item = &BaseWeight>) -> BTreeSet<usize> {
        weights.filter_map(|w| self.number(w.module())).collect()
    }

    /// The error for layers that are not among `there`, the model's.
    fn missing(&self, method: &'static str, there: &BTreeSet<usize>) -> Option<EditError> {
        let missing: Vec<usize> =
            self.wanted.iter().flatten().copied().filter(|layer| !there.contains(layer)).collect();
        let expected = match there.last() {
            Some(last) if last + 1 == there.len() => format!("layers from 0 to {last} (the model has {})", there.len()),
            _ => format!("layers that the model has: {}", listed(there)),
        };
        (!missing.is_empty()).then(|| wrong(method, "layers_to_transform", listed(&missing), expected))
    }

    /// The error where none of `named`, the modules of `target_modules` in `base`, is in the layers.
    pub(super) fn nothing_left(&self, method: &'static str, named: &[&BaseWeight], base: &Base) -> EditError {
        let there = self.of(&mut base.weights.iter());
        if there.is_empty() && !self.given.is_empty() {
            let example = base.linears().last().map_or("", |w| w.module());
            let expected = format!("what stands before the layer's number in paths such as `{example}`");
            return wrong(method, "layers_pattern", self.given.join(", "), expected);
        }
        self.missing(method, &there).unwrap_or_else(|| {
            let expected = match self.of(&mut named.iter().copied()) {
                there if there.is_empty() => "none: the modules of `target_modules` are in no layer".to_string(),
                there => format!("layers with modules of `target_modules`: {}", listed(&there)),
            };
            wrong(method, "layers_to_transform", listed(self.wanted.iter().flatten()), expected)
        })
    }
}

fn listed<'a>(layers: impl IntoIterator<Item = &'a usize>) -> String {
    layers.into_iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
