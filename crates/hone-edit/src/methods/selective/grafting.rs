//! Grafting (Panigrahi et al. 2023, arXiv 2302.06600): which few weights of a tuned model carry its skill? A mask `γ` is learned over
//! the change `Δ = θ_tuned − θ_base` of a finished run; what is written is `θ_base + γ ⊙ Δ`, a sparse change without retraining.
//!
//! - Patch: the `share` of all selected weights with the largest `|Δ|`, one threshold over all tensors, ties left out.
//! - Relaxation: `frac(S) = p + (1 − 2 p) σ(S − bias)` with the patch `p` (0 or 1) and a score `S ~ U[0, 1)` for each weight, so that
//!   at the start `frac` is nearly the patch, and learning may flip either way.
//! - Training runs at the soft `θ_base + frac(S) ⊙ Δ`; everything else (validation, the written edit) at `round(frac(S))`.
//! - `optimise: false` writes the patch itself: the baseline.
//!
//! The paper uses plain SGD with a rate of 1e7 on `S` (the slope of `σ` at the bias is 1e-4, and `Δ` is small): `optimizer: sgd`,
//! `momentum: 0`, `max_grad_norm: 0`. With Adam, rates of 0.1 to 1 do. A run keeps the best validation's mask. Shares are of the
//! selected weights, embeddings and head left out. It needs the tuned run when it is made, never afterwards.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use hone_engine::{DType, RandomKey, Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{Change, ChangeFields, ChangeOf, change_param, share_of, threshold_of_largest};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::files::read_edit;
use crate::merge::Merger;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Role,
};
use crate::planning::wrong;
use crate::sparse::SparseDelta;
use crate::stack::EditStack;

const NAME: &str = "grafting";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_GRAFTING",
    family: "selective",
    summary: "the few weights of a tuned model that carry its skill, found by a learned mask",
    paper: "arXiv 2302.06600",
    formula: "W + γ ⊙ Δ, γ learned",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<GraftingConfig>(),
};

/// What is grafted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GraftingConfig {
    /// Directory of the tuned run or adapter whose change is looked into. Only a recipe needs it.
    #[schemars(extend("format" = "path"))]
    pub tuned: Option<String>,
    /// Share of the selected weights in the patch.
    pub share: f64,
    /// Learn the mask; `false` keeps the patch of the largest changes.
    pub optimise: bool,
    /// What is taken off the scores.
    pub bias: f64,
    /// Where.
    #[serde(flatten)]
    pub weights: ChangeFields,
}

impl Default for GraftingConfig {
    fn default() -> Self {
        GraftingConfig { tuned: None, share: 1e-4, optimise: true, bias: 10.0, weights: ChangeFields::default() }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let config: GraftingConfig = config::read(NAME, fields, &[], origin, warnings)?;
    if origin == Origin::Recipe && config.tuned.is_none() {
        let what = "the directory of a finished run (or of its adapter) of the same model";
        return Err(EditError::Needs { method: NAME, field: "tuned", what });
    }
    if !(config.share > 0.0 && config.share <= 1.0) {
        return Err(wrong(NAME, "share", config.share.to_string(), "a share above 0, up to 1"));
    }
    if !config.bias.is_finite() {
        return Err(wrong(NAME, "bias", config.bias.to_string(), "a finite number (10)"));
    }
    Ok(Arc::new(config))
}

/// The changes that the edit in `directory` makes to the tensors of the base, by name.
pub(super) fn read_changes(directory: &Path, base: &Base) -> Result<HashMap<String, Tensor>, EditError> {
    let stack = EditStack::of(read_edit(directory, base)?);
    let merger = Merger::new(&stack, base)?;
    let change = |name: &str| Ok(merger.change(name)?.map(|change| (name.to_string(), change)));
    merger.names().filter_map(|name| change(name).transpose()).collect()
}

/// An edit of `method` with the values of those parameters of `trained` that it has as well.
pub(super) fn with_saved_values(method: Arc<dyn Method>, trained: &Edit, base: &Base) -> Result<Edit, EditError> {
    let mut written =
        Edit::with_values(method, base, |plan| match trained.params.iter().find(|param| param.key == plan.key) {
            Some(param) => Ok(param.value.clone()),
            None => plan.first_value(RandomKey::new(0), base),
        })?;
    written.warnings = trained.warnings.clone();
    Ok(written)
}

impl Method for GraftingConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    /// Read from a file: the change `γ ⊙ Δ` alone. In a recipe: `Δ` (fixed), the scores, and the threshold of the patch.
    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut config = config::to_map(self);
        config.insert("tuned".into(), Value::Null);
        let Some(tuned) = &self.tuned else {
            return self.weights.plan_plain(NAME, base, config);
        };
        let changes = read_changes(Path::new(tuned), base)?;
        let (selected, _) = self.weights.select(NAME, base)?;
        let total: usize = selected.iter().map(|w| w.shape.iter().product::<usize>()).sum();
        let of_selected = selected.iter().filter_map(|w| changes.get(&w.name)).map(|change| change.as_slice::<f32>());
        // Weights that the run did not change count among the total, and are never chosen.
        let threshold = threshold_of_largest(of_selected, share_of(total, self.share)).max(0.0);
        let changes = Arc::new(changes);
        let part = Arc::new(Change(Graft { bias: self.bias as f32, threshold, learned: self.optimise }));
        self.weights.plan(NAME, base, config, part, |weight| {
            let (changes, name, shape) = (changes.clone(), weight.name.clone(), weight.shape.clone());
            let change = move |_: &Base| {
                changes.get(&name).cloned().unwrap_or_else(|| Tensor::zeros(shape.as_slice(), DType::F32))
            };
            let (key, shape) = (RandomKey::new(0).named(&weight.name), weight.shape.clone());
            let scores = move |_: &Base| {
                let count = shape.iter().product::<usize>() as u64;
                Tensor::from_slice(shape.as_slice(), &(0..count).map(|i| key.uniform(i)).collect::<Vec<f32>>())
            };
            let mut change = change_param(weight, Init::Computed(Box::new(change))).full_precision();
            change.traits.role = Role::Fixed;
            let scores =
                ParamPlan::new(format!("{}.score", weight.name), &weight.shape, Init::Computed(Box::new(scores)));
            vec![change, scores.not_saved().full_precision().without_decay()]
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn finished(&self, mut edit: Edit, base: &Base) -> Result<Edit, EditError> {
        for placed in edit.placed.clone() {
            let values: Vec<Tensor> = placed.params.iter().map(|&p| edit.params[p].value.clone()).collect();
            if let [change, scores] = &values[..] {
                let graft = Graft { bias: self.bias as f32, threshold: self.threshold(&edit), learned: self.optimise };
                edit.params[placed.params[0]].value = graft.rounded(change, scores);
            }
        }
        with_saved_values(Arc::new(GraftingConfig { tuned: None, ..self.clone() }), &edit, base)
    }
}

impl GraftingConfig {
    fn threshold(&self, edit: &Edit) -> f32 {
        let changes = || edit.params.iter().step_by(2).map(|param| param.value.as_slice::<f32>());
        let total = changes().map(<[f32]>::len).sum();
        threshold_of_largest(changes(), share_of(total, self.share)).max(0.0)
    }
}

/// `frac(S) ⊙ Δ`. Parameters: `Δ`, `S`.
struct Graft {
    bias: f32,
    /// `|Δ|` above this is the patch.
    threshold: f32,
    learned: bool,
}

impl Graft {
    /// `γ ⊙ Δ` with `γ = round(frac(S))`.
    fn rounded(&self, change: &Tensor, scores: &Tensor) -> Tensor {
        let mut out = change.clone();
        for (change, score) in out.as_mut_slice::<f32>().iter_mut().zip(scores.as_slice::<f32>()) {
            let patch = change.abs() > self.threshold;
            // σ(S − bias) is above a half where S is above the bias: the patch is flipped there.
            let flipped = self.learned && *score > self.bias;
            if patch == flipped {
                *change = 0.0;
            }
        }
        out
    }

    /// `frac(S) ⊙ Δ = p ⊙ Δ + σ(S − bias) ⊙ (1 − 2 p) ⊙ Δ`.
    fn soft(&self, tape: &Tape, change: &Tensor, scores: &Var) -> Var {
        let (mut kept, mut signed) = (change.clone(), change.clone());
        kept.as_mut_slice::<f32>().iter_mut().filter(|c| c.abs() <= self.threshold).for_each(|c| *c = 0.0);
        signed.as_mut_slice::<f32>().iter_mut().filter(|c| c.abs() > self.threshold).for_each(|c| *c = -*c);
        let shifted = ops::pointwise(tape, scores, ops::Pointwise::Shift { by: -self.bias });
        let open = ops::pointwise(tape, &shifted, ops::Pointwise::Sigmoid);
        ops::add(tape, &Var::constant(kept), &ops::multiply(tape, &open, &Var::constant(signed)))
    }
}

impl ChangeOf for Graft {
    fn change(&self, at: &At, _weight: &dyn Fn() -> Tensor) -> Var {
        let (change, scores) = (&at.values[0].value, &at.values[1]);
        match at.cx.training && self.learned {
            true => self.soft(&at.cx.tape, change, scores),
            false => Var::constant(self.rounded(change, &scores.value)),
        }
    }

    fn settled(&self, merge: &Merge) -> Result<SparseDelta, String> {
        Ok(SparseDelta::of(&self.rounded(&merge.values[0], &merge.values[1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_zero_are_the_patch_and_a_large_score_flips_it() {
        let graft = Graft { bias: 10.0, threshold: 0.5, learned: true };
        let change = Tensor::from_slice([4], &[0.1f32, -0.9, 0.6, 0.2]);
        let patch = graft.rounded(&change, &Tensor::zeros([4], DType::F32));
        assert_eq!(patch.to_vec_f32(), [0.0, -0.9, 0.6, 0.0]);
        let flipped = graft.rounded(&change, &Tensor::from_slice([4], &[11.0f32, 11.0, 0.0, 0.0]));
        assert_eq!(flipped.to_vec_f32(), [0.1, 0.0, 0.6, 0.0]);
        // The soft form at scores of 0 is the patch up to σ(−10).
        let soft = graft.soft(&Tape::off(), &change, &Var::constant(Tensor::zeros([4], DType::F32)));
        let far =
            soft.value.to_vec_f32().iter().zip(patch.to_vec_f32()).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(far < 5e-5, "{far}");
    }
}
