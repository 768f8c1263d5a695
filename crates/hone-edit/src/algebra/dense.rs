//! Task arithmetic (Ilharco et al. 2022, "Editing models with task arithmetic", arXiv 2212.04089): `W + Σ λᵢ (Wᵢ − W)`,
//! where `Wᵢ` is the weight with edit `i` alone merged in. `λ = −1` forgets a task; what edit it was made by (low-rank,
//! masked, whole) does not matter, as long as it can be merged.
//!
//! Differences of whole weights are taken in `f32`: a change below `2⁻²⁴` of a weight is lost, as it is when that edit
//! alone is merged.

use std::collections::BTreeMap;

use hone_engine::Tensor;

use super::Operand;
use crate::base::Base;
use crate::error::EditError;
use crate::merge::Merger;
use crate::stack::EditStack;

/// Every weight that an edit changes, by tensor name, `f32`.
pub fn task_arithmetic(operands: &[Operand], base: &Base) -> Result<BTreeMap<String, Tensor>, EditError> {
    let stacks: Vec<EditStack> = operands.iter().map(|o| EditStack::of(o.edit.clone())).collect();
    let mergers = stacks.iter().map(|s| Merger::new(s, base)).collect::<Result<Vec<_>, _>>()?;
    let mut weights: BTreeMap<String, Tensor> = BTreeMap::new();
    for (merger, operand) in mergers.iter().zip(operands) {
        for name in merger.names() {
            let (Some(change), Some(own)) = (merger.change(name)?, base.weight(name)) else { continue };
            let total = weights.entry(name.to_string()).or_insert_with(|| own.to_f32());
            let elements = total.as_mut_slice::<f32>().iter_mut().zip(change.as_slice::<f32>());
            elements.for_each(|(total, change)| *total += operand.weight * change);
        }
    }
    Ok(weights)
}
