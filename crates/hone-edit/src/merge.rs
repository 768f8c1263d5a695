//! Edits folded into the weights, and taken out again, with the difference it makes to the logits measured.
//!
//! Products are made in `f32`, weight by weight. What remains is the rounding of the weights to the type they are kept in.

use std::collections::BTreeMap;
use std::sync::Arc;

use hone_engine::ops::head_logits;
use hone_engine::{DType, Tensor};
use hone_model::decoder::NamedWeight;
use hone_model::{Context, Decoder, Hooks, TokenBatch};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::error::EditError;
use crate::method::{Direction, Merge, Mergeable, NEEDS_BASE, Place, Placed};
use crate::stack::{EditStack, StackEntry};

/// What a stack of edits does to the weights of a model.
pub struct Merger<'a> {
    base: &'a Base,
    /// By tensor name: the edits that change it, in the order they apply.
    changes: BTreeMap<String, Vec<(&'a StackEntry, &'a Placed)>>,
}

impl<'a> Merger<'a> {
    /// Sorts the enabled edits by weight. Fails where one acts on anything else.
    pub fn new(stack: &'a EditStack, base: &'a Base) -> Result<Merger<'a>, EditError> {
        let mut changes: BTreeMap<String, Vec<(&StackEntry, &Placed)>> = BTreeMap::new();
        for entry in stack.entries.iter().filter(|e| e.is_applied()) {
            if let Mergeable::No(reason) = entry.edit.method.mergeable()
                && let Some(placed) = entry.edit.placed.first()
            {
                return Err(cannot(entry, placed, reason));
            }
            for placed in &entry.edit.placed {
                let name = match &placed.place {
                    Place::Linear(module) => format!("{module}.weight"),
                    Place::Weight(name) => name.clone(),
                    // What also stands at a weight is merged there.
                    Place::Activation(_) if stands_at_a_weight(entry, placed) => continue,
                    Place::Activation(_) => {
                        return Err(cannot(entry, placed, "it acts on an activation, not on a weight"));
                    }
                    Place::VirtualTokens => return Err(cannot(entry, placed, "virtual tokens are no weights")),
                };
                let at = changes.entry(name).or_default();
                // Replacements come first, as in the forward pass.
                let before = at.iter().take_while(|(_, p)| p.part.replaces()).count();
                at.insert(if placed.part.replaces() { before } else { at.len() }, (entry, placed));
            }
        }
        Ok(Merger { base, changes })
    }

    /// The tensors that change, by Hugging Face name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.changes.keys().map(String::as_str)
    }

    /// A weight with the edits folded in, `f32`; `None` if nothing changes it.
    pub fn merged(&self, name: &str) -> Result<Option<Tensor>, EditError> {
        Ok(self.before_and_after(name)?.map(|(_, merged)| merged))
    }

    /// What that adds to the weight, `f32`: a change that rounding swallows is none.
    pub fn change(&self, name: &str) -> Result<Option<Tensor>, EditError> {
        let difference = |(own, mut merged): (Tensor, Tensor)| {
            let elements = merged.as_mut_slice::<f32>().iter_mut().zip(own.as_slice::<f32>());
            elements.for_each(|(merged, own)| *merged -= own);
            merged
        };
        Ok(self.before_and_after(name)?.map(difference))
    }

    fn before_and_after(&self, name: &str) -> Result<Option<(Tensor, Tensor)>, EditError> {
        let Some(changes) = self.changes.get(name) else { return Ok(None) };
        let own = self.own(name, changes)?.ok_or_else(|| EditError::UnknownBase { place: name.into() })?;
        let add = |weight: Tensor, change| apply(change, &weight, Some(&own), Direction::Merge);
        let merged = changes.iter().try_fold(own.clone(), add)?;
        Ok(Some((own, merged)))
    }

    /// A merged weight with the edits taken out again. What is made of the base's weight cannot be where that is not known
    /// ([`Base::before`]).
    pub fn unmerged(&self, name: &str, merged: &Tensor) -> Result<Tensor, EditError> {
        let Some(changes) = self.changes.get(name) else { return Ok(merged.clone()) };
        let own = self.own(name, changes)?;
        let undo = |weight: Tensor, change| apply(change, &weight, own.as_ref(), Direction::Unmerge);
        changes.iter().rev().try_fold(merged.clone(), undo)
    }

    /// The whole model with the edits folded in, kept in `dtype`.
    pub fn decoder(&self, decoder: &Decoder, dtype: DType) -> Result<Decoder, EditError> {
        replaced(decoder, dtype, |name, _| self.merged(name))
    }

    /// A model that the edits were folded into, kept in `dtype`, with them taken out again.
    pub fn taken_out(&self, merged: &Decoder, dtype: DType) -> Result<Decoder, EditError> {
        replaced(merged, dtype, |name, weight| {
            let changed = self.changes.contains_key(name);
            changed.then(|| self.unmerged(name, &weight.to_dense(DType::F32))).transpose()
        })
    }

    /// The base's weight, where its numbers are known.
    fn own(&self, name: &str, changes: &[(&StackEntry, &Placed)]) -> Result<Option<Tensor>, EditError> {
        match self.base.weight(name) {
            Some(weight) => Ok(weight.is_known().then(|| weight.to_f32())),
            None => Err(cannot_at(name, changes, "the model has no such weight")),
        }
    }
}

/// `decoder` with the weights that `weight` makes in place of its own, kept in `dtype`; or the first error.
fn replaced(
    decoder: &Decoder,
    dtype: DType,
    weight: impl Fn(&str, NamedWeight<'_>) -> Result<Option<Tensor>, EditError>,
) -> Result<Decoder, EditError> {
    let mut failure = None;
    let replaced = decoder.replaced(|name, old| match weight(name, old) {
        Ok(new) => new.map(|new| new.to_dtype(dtype)),
        Err(error) => {
            failure.get_or_insert(error);
            None
        }
    });
    failure.map_or(Ok(replaced), Err)
}

/// Whether the same part is placed at a weight as well.
fn stands_at_a_weight(entry: &StackEntry, placed: &Placed) -> bool {
    let same = |other: &&Placed| Arc::ptr_eq(&other.part, &placed.part);
    entry.edit.placed.iter().filter(same).any(|other| matches!(other.place, Place::Weight(_)))
}

fn apply(
    (entry, placed): &(&StackEntry, &Placed),
    weight: &Tensor,
    own: Option<&Tensor>,
    direction: Direction,
) -> Result<Tensor, EditError> {
    let values: Vec<Tensor> = placed.params.iter().map(|&p| entry.edit.params[p].value.clone()).collect();
    let merge = Merge { weight, own, values: &values, strength: entry.strength, direction };
    placed.part.merge(&merge).map_err(|reason| match own {
        None if reason == NEEDS_BASE => EditError::UnknownBase { place: placed.place.to_string() },
        _ => cannot(entry, placed, &reason),
    })
}

/// The error of the first of the edits that change the weight `name`.
fn cannot_at(name: &str, changes: &[(&StackEntry, &Placed)], reason: &str) -> EditError {
    match changes.first() {
        Some((entry, placed)) => cannot(entry, placed, reason),
        None => EditError::CannotMerge { method: "-", place: name.into(), reason: reason.into() },
    }
}

fn cannot(entry: &StackEntry, placed: &Placed, reason: &str) -> EditError {
    let method = entry.edit.method.info().name;
    EditError::CannotMerge { method, place: placed.place.to_string(), reason: reason.into() }
}

/// How far two models' logits are apart over some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogitDifference {
    /// Largest |Δlogit|.
    pub max: f64,
    /// Mean |Δlogit|.
    pub mean: f64,
    /// Largest |logit| of the first model, to measure the others by.
    pub largest_logit: f64,
    /// Tokens compared.
    pub tokens: usize,
}

/// A model to be compared: weights, and what is put on them.
pub type Hooked<'a> = (&'a Arc<Decoder>, Arc<dyn Hooks>);

/// Runs both models over every batch and compares all logits.
pub fn logit_difference(first: &Hooked, second: &Hooked, dtype: DType, batches: &[TokenBatch]) -> LogitDifference {
    let mut result = LogitDifference::default();
    let (mut sum, mut count) = (0.0, 0usize);
    for batch in batches {
        let (a, b) = (logits(first, dtype, batch), logits(second, dtype, batch));
        for (a, b) in a.as_slice::<f32>().iter().zip(b.as_slice::<f32>()) {
            let difference = f64::from((a - b).abs());
            // Not `max`, which would pass over NaN.
            if difference.is_nan() || difference > result.max {
                result.max = difference;
            }
            result.largest_logit = result.largest_logit.max(f64::from(a.abs()));
            sum += difference;
        }
        count += a.elements();
        result.tokens += batch.len();
    }
    result.mean = if count == 0 { 0.0 } else { sum / count as f64 };
    result
}

/// Logits of every token, `[tokens, vocabulary]` in `f32`.
pub fn logits((decoder, hooks): &Hooked, dtype: DType, batch: &TokenBatch) -> Tensor {
    let cx = Context::inference(hooks.clone(), dtype);
    let hidden = decoder.hidden(&cx, batch).value;
    let rows: Vec<u32> = (0..batch.len() as u32).collect();
    head_logits(&hidden, &decoder.head(&cx), &rows, decoder.spec.logit_soft_cap)
}
