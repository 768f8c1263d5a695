//! Edits folded into the weights, and taken out again, with the difference it makes to the logits measured.
//!
//! Products are made in `f32`. What remains is the rounding of the weights to the type they are kept in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hone_engine::ops::head_logits;
use hone_engine::{DType, Tensor, Var, Weight, WeightRef};
use hone_model::{Context, Hooks, Linear, Model, TokenBatch};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::error::EditError;
use crate::method::{Direction, Merge, Place};
use crate::stack::EditStack;

/// Tensors by Hugging Face name, `f32`: those that differ from the base model's.
pub type Weights = BTreeMap<String, Tensor>;

/// The weights the enabled edits of the stack change, with the edits folded in.
pub fn merged_weights(stack: &EditStack, base: &Base) -> Result<Weights, EditError> {
    let mut weights = Weights::new();
    fold(stack, base, Direction::Merge, &mut weights)?;
    Ok(weights)
}

/// Takes the edits out of merged weights again.
pub fn unmerge(stack: &EditStack, base: &Base, weights: &mut Weights) -> Result<(), EditError> {
    fold(stack, base, Direction::Unmerge, weights)
}

fn fold(stack: &EditStack, base: &Base, direction: Direction, weights: &mut Weights) -> Result<(), EditError> {
    let mut entries: Vec<_> = stack.entries.iter().filter(|e| e.enabled && e.strength != 0.0).collect();
    if direction == Direction::Unmerge {
        entries.reverse();
    }
    for entry in entries {
        for placed in &entry.edit.placed {
            let failed = |reason: String| EditError::CannotMerge {
                method: entry.edit.method.info().name,
                place: placed.place.to_string(),
                reason,
            };
            let name = match &placed.place {
                Place::Linear(module) => format!("{module}.weight"),
                Place::Weight(name) => name.clone(),
                Place::Activation(_) => return Err(failed("it acts on an activation, not on a weight".into())),
            };
            let own = base.weight(&name).ok_or_else(|| failed("the model has no such weight".into()))?.to_f32();
            let weight = weights.remove(&name).unwrap_or_else(|| own.clone());
            let values: Vec<Tensor> = placed.params.iter().map(|&p| entry.edit.params[p].value.clone()).collect();
            let merge = Merge { weight: &weight, base: &own, values: &values, strength: entry.strength, direction };
            weights.insert(name, placed.part.merge(&merge).map_err(failed)?);
        }
    }
    Ok(())
}

/// Hooks that put merged weights in the place of the model's own, in the compute type: the merged model.
pub struct MergedModel {
    matrices: HashMap<String, WeightRef>,
    vectors: HashMap<String, Tensor>,
}

impl MergedModel {
    /// The merged model in the given compute type.
    pub fn new(weights: &Weights, dtype: DType) -> MergedModel {
        let (matrices, vectors): (Vec<_>, Vec<_>) = weights.iter().partition(|(_, w)| w.dims().len() == 2);
        let matrix = |w: &Tensor| WeightRef::Frozen(Arc::new(Weight::dense(w.to_dtype(dtype))));
        MergedModel {
            matrices: matrices.into_iter().map(|(n, w)| (n.clone(), matrix(w))).collect(),
            vectors: vectors.into_iter().map(|(n, w)| (n.clone(), w.to_dtype(dtype))).collect(),
        }
    }
}

impl Hooks for MergedModel {
    fn linears(&self, cx: &Context, linears: &[&Linear], x: &Var) -> Vec<Var> {
        let merged = |l: &&Linear| {
            let weight = self.matrices.get(&format!("{}.weight", l.name)).unwrap_or(&l.weight).clone();
            Linear { name: l.name.clone(), weight, bias: l.bias.clone() }
        };
        let merged: Vec<Linear> = linears.iter().map(merged).collect();
        cx.base_linears(&merged.iter().collect::<Vec<_>>(), x)
    }

    fn weight(&self, _cx: &Context, name: &str, base: &WeightRef) -> WeightRef {
        self.matrices.get(name).unwrap_or(base).clone()
    }

    fn vector(&self, _cx: &Context, name: &str, base: &Tensor) -> Var {
        Var::constant(self.vectors.get(name).unwrap_or(base).clone())
    }
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

/// Runs both hooks over every batch and compares all logits.
pub fn logit_difference(
    model: &Model,
    first: &Arc<dyn Hooks>,
    second: &Arc<dyn Hooks>,
    dtype: DType,
    batches: &[TokenBatch],
) -> LogitDifference {
    let mut result = LogitDifference::default();
    let (mut sum, mut count) = (0.0, 0usize);
    for batch in batches {
        let (a, b) = (logits(model, first, dtype, batch), logits(model, second, dtype, batch));
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
pub fn logits(model: &Model, hooks: &Arc<dyn Hooks>, dtype: DType, batch: &TokenBatch) -> Tensor {
    let cx = Context::inference(hooks.clone(), dtype);
    let hidden = model.decoder.hidden(&cx, batch).value;
    let rows: Vec<u32> = (0..batch.len() as u32).collect();
    head_logits(&hidden, &model.decoder.head(&cx), &rows, model.spec.logit_soft_cap)
}
