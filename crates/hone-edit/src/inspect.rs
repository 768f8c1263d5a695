//! What an edit does to the weights, place by place: how large its change is, and how many directions it uses.
//!
//! `‖ΔW‖` is the Frobenius norm, in the weight's own units and as a share of `‖W‖`. Ranks: [`crate::decompose`]. A
//! low-rank pair's change is decomposed as the pair it is; any other mergeable edit's is the difference of the merged
//! weight and the weight, taken in `f32`, so singular values below `ε ‖W‖` are rounding there and are not counted.

use hone_engine::{DType, Tensor};
use serde::Serialize;

use crate::base::{Base, WeightKind};
use crate::decompose;
use crate::error::EditError;
use crate::merge::Merger;
use crate::method::{Edit, Place};
use crate::stack::EditStack;

/// A tensor of the adapter's file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Its key.
    pub key: String,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Frobenius norm.
    pub norm: f64,
    /// Largest magnitude.
    pub largest: f32,
}

/// What happens to one weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Tensor name: `model.layers.3.self_attn.q_proj.weight`.
    pub weight: String,
    /// Its layer, for weights that are in one.
    pub layer: Option<usize>,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Elements that are not as they were. Absent for a low-rank pair, which leaves none as it was.
    pub changed: Option<usize>,
    /// `‖ΔW‖`.
    pub norm: f64,
    /// `‖ΔW‖ / ‖W‖`.
    pub relative: f64,
    /// `exp` of the entropy of the singular values' shares; absent for vectors.
    pub effective_rank: Option<f64>,
    /// Singular values that are more than rounding; absent for vectors.
    pub rank: Option<usize>,
}

/// Every tensor of the edit.
pub fn tensors(edit: &Edit) -> Vec<TensorSummary> {
    let summary = |param: &crate::method::Param| TensorSummary {
        key: param.key.clone(),
        shape: param.value.dims().to_vec(),
        norm: norm(&param.value),
        largest: param.value.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs())),
    };
    edit.params.iter().map(summary).collect()
}

/// What the edit does to every weight it changes, in order of the forward pass. Fails where it cannot be merged, with
/// the reason.
pub fn changes(edit: &Edit, base: &Base) -> Result<Vec<Change>, EditError> {
    let stack = EditStack::of(edit.clone());
    let merger = Merger::new(&stack, base)?;
    let names: Vec<&str> = merger.names().collect();
    let mut changes = Vec::with_capacity(names.len());
    for weight in base.weights.iter().filter(|w| names.contains(&w.name.as_str())) {
        let own = weight.to_f32();
        let scale = norm(&own);
        let (norm, spectrum, changed, floor) =
            match (weight.kind == WeightKind::Linear).then(|| pair(edit, weight.module())).flatten() {
                Some(pair) => {
                    let values = decompose::svd_of_product(&pair.b, &pair.a)?.s;
                    let values: Vec<f32> = values.iter().map(|s| s * pair.scale.abs()).collect();
                    (values.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt(), Some(values), None, 0.0)
                }
                None => {
                    let change = merger.change(&weight.name)?;
                    let change = change.unwrap_or_else(|| Tensor::zeros(own.shape(), DType::F32));
                    let spectrum = (own.dims().len() == 2).then(|| decompose::singular_values(&change)).transpose()?;
                    let changed = change.as_slice::<f32>().iter().filter(|c| **c != 0.0).count();
                    (norm(&change), spectrum, Some(changed), f64::from(f32::EPSILON) * scale)
                }
            };
        let above = |values: &[f32]| {
            let counted: Vec<f32> = values.iter().copied().filter(|s| f64::from(*s) > floor).collect();
            decompose::numerical_rank(&counted, own.dim(0), own.dim(own.dims().len() - 1))
        };
        changes.push(Change {
            layer: layer(&weight.name),
            shape: weight.shape.clone(),
            changed,
            relative: if scale > 0.0 { norm / scale } else { 0.0 },
            effective_rank: spectrum.as_deref().map(decompose::effective_rank),
            rank: spectrum.as_deref().map(above),
            weight: weight.name.clone(),
            norm,
        });
    }
    Ok(changes)
}

/// How many elements of the changed weights are not as they were, and of how many; a low-rank pair changes all of its weight's.
pub fn changed_elements(changes: &[Change]) -> (usize, usize) {
    let size = |change: &Change| change.shape.iter().product::<usize>();
    let changed = changes.iter().map(|change| change.changed.unwrap_or(size(change))).sum();
    (changed, changes.iter().map(size).sum())
}

/// `‖ΔW‖` of each layer, all its weights together; by layer number.
pub fn norms_by_layer(changes: &[Change]) -> Vec<(usize, f64)> {
    let mut squares = std::collections::BTreeMap::new();
    for change in changes {
        if let Some(layer) = change.layer {
            *squares.entry(layer).or_insert(0.0) += change.norm.powi(2);
        }
    }
    squares.into_iter().map(|(layer, square): (usize, f64)| (layer, square.sqrt())).collect()
}

/// The edit's change of a module's weight as one pair, where it is that alone.
fn pair(edit: &Edit, module: &str) -> Option<crate::method::LowRankPair> {
    let mut at = edit.placed.iter().filter(|p| p.place == Place::Linear(module.to_string()));
    let (placed, None) = (at.next()?, at.next()) else { return None };
    let values: Vec<Tensor> = placed.params.iter().map(|&p| edit.params[p].value.clone()).collect();
    placed.part.low_rank(&values, None)
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.as_slice::<f32>().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// The number behind `layers.` in a name.
fn layer(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}
