//! Diff pruning (Guo et al. 2020, arXiv 2012.07463): `W + z ⊙ D`, with a gate `z` for each element that learns to be 0.
//!
//! Gates are hard-concrete (Louizos et al. 2017, arXiv 1712.01312): `u ~ U(1e-4, 1 − 1e-4)`, `s = σ(ln u − ln(1 − u) + a)`,
//! `z = clamp(s (h − l) + l, 0, 1)` with `l = −1.5`, `h = 1.5`; outside training `s = σ(a)`. The penalty is the expected number of open
//! gates, `λ Σ σ(a − ln(−l / h))`. After `search` of the steps the `share` of the elements with the largest `|z D|` is kept, gates
//! are done with, and what was kept is tuned on with the mask fixed. The file holds `D` where it is not 0.
//!
//! Start: `D = 0`, `a = 5` (open). Parameters: two for each selected weight while searching. The paper's structured gates (one more
//! for each tensor) are the option `structured`.

use std::sync::Arc;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{RandomKey, Tape, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{Change, ChangeFields, ChangeOf, change_param, share_of, threshold_of_largest};
use super::grafting::with_saved_values;
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::wrong;
use crate::sparse::SparseDelta;
use crate::training::{EditGradients, Moment, TrainingRules};

const NAME: &str = "diff_pruning";
const LOW: f32 = -1.5;
const HIGH: f32 = 1.5;
/// A logit at which a gate is open whatever is drawn.
const OPEN: f32 = 1e3;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_DIFF_PRUNING",
    family: "selective",
    summary: "a change whose elements learn to be 0",
    paper: "arXiv 2012.07463",
    formula: "W + z ⊙ D, z hard-concrete",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<DiffPruningConfig>(),
};

/// Diff pruning's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DiffPruningConfig {
    /// Share of the elements that are kept.
    pub share: f64,
    /// Part of the steps in which gates are learned.
    pub search: f64,
    /// λ of the penalty.
    pub sparsity_penalty: f64,
    /// First value of `a`.
    pub gate_init: f64,
    /// Another gate for each tensor as a whole, multiplied to those of its elements.
    pub structured: bool,
    /// Factor on the learning rate of the gates.
    pub gate_learning_rate_factor: f64,
    /// Where.
    #[serde(flatten)]
    pub weights: ChangeFields,
    /// Whether it was read from a file, in which gates have no place.
    #[serde(skip)]
    pub written: bool,
}

impl Default for DiffPruningConfig {
    fn default() -> Self {
        DiffPruningConfig {
            share: 0.005,
            search: 0.5,
            sparsity_penalty: 1.25e-7,
            gate_init: 5.0,
            structured: false,
            gate_learning_rate_factor: 1.0,
            weights: ChangeFields::default(),
            written: false,
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut config: DiffPruningConfig = config::read(NAME, fields, &[], origin, warnings)?;
    config.written = origin == Origin::File;
    for (field, value) in [("share", config.share), ("search", config.search)] {
        if !(value > 0.0 && value <= 1.0) {
            return Err(wrong(NAME, field, value.to_string(), "a share above 0, up to 1"));
        }
    }
    if !(config.sparsity_penalty >= 0.0 && config.sparsity_penalty.is_finite()) {
        return Err(wrong(NAME, "sparsity_penalty", config.sparsity_penalty.to_string(), "0 or more"));
    }
    Ok(Arc::new(config))
}

impl Method for DiffPruningConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = config::to_map(self);
        if self.written {
            return self.weights.plan_plain(NAME, base, config);
        }
        let gate = |name: String, shape: &[usize]| {
            ParamPlan::new(name, shape, Init::Constant(self.gate_init as f32))
                .not_saved()
                .full_precision()
                .without_decay()
                .learning_rate_factor(self.gate_learning_rate_factor)
        };
        self.weights.plan(NAME, base, config, Arc::new(Change(Gated)), |weight| {
            let mut params = vec![
                change_param(weight, Init::Zeros).full_precision(),
                gate(format!("{}.gate", weight.name), &weight.shape),
            ];
            if self.structured {
                params.push(gate(format!("{}.tensor_gate", weight.name), &[1]));
            }
            params
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        if self.written {
            return None;
        }
        let groups = edit.placed.iter().map(|placed| placed.params.clone()).collect();
        Some(Box::new(Search { config: self.clone(), groups, pruned: false }))
    }

    fn finished(&self, mut edit: Edit, base: &Base) -> Result<Edit, EditError> {
        if self.written {
            return Ok(edit);
        }
        let groups: Vec<Vec<usize>> = edit.placed.iter().map(|placed| placed.params.clone()).collect();
        // A run that ended while searching has open gates and a dense change.
        prune(&mut edit, &groups, self.share);
        with_saved_values(Arc::new(DiffPruningConfig { written: true, ..self.clone() }), &edit, base)
    }
}

/// `clamp(σ(a + noise) (h − l) + l, 0, 1)`.
fn gate(tape: &Tape, logits: &Var, noise: Option<RandomKey>) -> Var {
    let logits = match noise {
        None => logits.clone(),
        Some(key) => {
            let draw = |i: u64| {
                let u = 1e-4 + (1.0 - 2e-4) * key.uniform(i);
                u.ln() - (1.0 - u).ln()
            };
            let draws: Vec<f32> = (0..logits.value.elements() as u64).map(draw).collect();
            ops::add(tape, logits, &Var::constant(Tensor::from_slice(logits.value.dims(), &draws)))
        }
    };
    let open = ops::pointwise(tape, &logits, Pointwise::Sigmoid);
    let stretched = ops::pointwise(tape, &ops::scale(tape, &open, HIGH - LOW), Pointwise::Shift { by: LOW });
    ops::pointwise(tape, &stretched, Pointwise::Clamp { low: 0.0, high: 1.0 })
}

/// `z ⊙ D`. Parameters: `D`, `a`, and perhaps the tensor's `a`.
struct Gated;

impl Gated {
    fn product(&self, tape: &Tape, values: &[Var], noise: Option<RandomKey>) -> Var {
        let z = gate(tape, &values[1], noise.map(|key| key.named("gate")));
        let gated = ops::multiply(tape, &values[0], &z);
        let Some(whole) = values.get(2) else { return gated };
        let z = gate(tape, whole, noise.map(|key| key.named("tensor_gate")));
        let elements = gated.value.elements();
        let column = ops::reshape(tape, &gated, &[elements, 1]);
        ops::reshape(tape, &ops::scale_columns(tape, &column, &z), values[0].value.dims())
    }
}

impl ChangeOf for Gated {
    fn change(&self, at: &At, _weight: &dyn Fn() -> Tensor) -> Var {
        let noise = at.cx.training.then(|| at.cx.key.named(at.name));
        self.product(&at.cx.tape, at.values, noise)
    }

    fn settled(&self, merge: &Merge) -> Result<SparseDelta, String> {
        Ok(SparseDelta::of(&self.product(&Tape::off(), &merge.constants(), None).value))
    }
}

/// `D ← z ⊙ D` where that is among the `share` of the largest, 0 elsewhere; gates open for good.
fn prune(edit: &mut Edit, groups: &[Vec<usize>], share: f64) {
    let of_group = |group: &Vec<usize>| {
        let values: Vec<Var> = group.iter().map(|&p| Var::constant(edit.params[p].value.clone())).collect();
        Gated.product(&Tape::off(), &values, None).value
    };
    let gated: Vec<Tensor> = groups.iter().map(of_group).collect();
    let total = gated.iter().map(Tensor::elements).sum();
    let sizes = gated.iter().map(|g| g.as_slice::<f32>());
    let threshold = threshold_of_largest(sizes, share_of(total, share)).max(0.0);
    for (group, mut gated) in groups.iter().zip(gated) {
        gated.as_mut_slice::<f32>().iter_mut().filter(|v| v.abs() <= threshold).for_each(|v| *v = 0.0);
        edit.params[group[0]].value = gated;
        for &gate in &group[1..] {
            edit.params[gate].value.as_mut_slice::<f32>().fill(OPEN);
        }
    }
}

struct Search {
    config: DiffPruningConfig,
    /// By weight: `D`, gates.
    groups: Vec<Vec<usize>>,
    pruned: bool,
}

impl Search {
    fn ends(&self, moment: &Moment) -> usize {
        ((moment.steps as f64 * self.config.search).ceil() as usize).max(1)
    }
}

impl TrainingRules for Search {
    fn begin(&mut self, edit: &mut Edit, moment: &Moment) {
        if moment.step >= self.ends(moment) && !self.pruned {
            prune(edit, &self.groups, self.config.share);
            self.pruned = true;
        }
        for group in &self.groups {
            group[1..].iter().for_each(|&gate| edit.params[gate].resting = self.pruned);
        }
    }

    fn penalty(&self, tape: &Tape, values: &[Var], _moment: &Moment) -> Option<Var> {
        if self.pruned || self.config.sparsity_penalty == 0.0 {
            return None;
        }
        let shift = -(-LOW / HIGH).ln();
        let open = |logits: &Var| {
            let shifted = ops::pointwise(tape, logits, Pointwise::Shift { by: shift });
            ops::sum(tape, &ops::pointwise(tape, &shifted, Pointwise::Sigmoid))
        };
        let sums = self.groups.iter().map(|group| open(&values[group[1]]));
        let total = sums.reduce(|sum, next| ops::add(tape, &sum, &next))?;
        Some(ops::scale(tape, &total, self.config.sparsity_penalty as f32))
    }

    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, _moment: &Moment) {
        if !self.pruned {
            return;
        }
        for group in &self.groups {
            let kept = edit.params[group[0]].value.as_slice::<f32>();
            gradients.confine(group[0], |element| kept[element] != 0.0);
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        vec![("pruned".into(), Tensor::from_slice([1], &[f32::from(self.pruned)]))]
    }

    fn restore(&mut self, _edit: &Edit, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        self.pruned = read("pruned", &[1]).is_some_and(|flag| flag.item() == 1.0);
    }
}
