//! Changes confined to a mask that is found first: `W + D`, gradients of `D` zeroed outside the mask before clipping, so what is not
//! chosen stays exactly where it was.
//!
//! - [`FISH_MASK`] (Sung et al. 2021, arXiv 2111.09839): the `share` of weights with the largest empirical Fisher information, the
//!   mean of squared gradients over the first `samples` steps (in which nothing is updated).
//! - [`CHILD_TUNING`] (Xu et al. 2021, arXiv 2109.05687): `task_free` draws a new Bernoulli mask of probability `share` every step and
//!   divides what passes by it (Child-Tuning F); `task_driven` keeps the mask of the largest Fisher information (Child-Tuning D).
//! - [`SUBNETWORK`] (Mukherjee et al. 2025, arXiv 2505.11711): the mask is where a trained edit of the same model changed the weights by
//!   more than `tolerance`: does training that subnetwork alone give the same model?
//!
//! Start: `D = 0`. Trained numbers that can move: `share` of the selected weights; counted: all of `D`, which is what is held.

use std::path::Path;
use std::sync::Arc;

use hone_engine::{DType, RandomKey, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{Change, ChangeFields, Plain, change_param, share_of, threshold_of_largest};
use super::grafting::read_changes;
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Edit, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Stored};
use crate::planning::wrong;
use crate::training::{EditGradients, Moment, TrainingRules};

const FISH: &str = "fish_mask";
const CHILD: &str = "child_tuning";
const SUB: &str = "subnetwork";

macro_rules! info {
    ($name:expr, $peft_type:literal, $summary:literal, $paper:literal, $formula:literal, $config:ty) => {
        MethodInfo {
            name: $name,
            peft_type: $peft_type,
            family: "selective",
            summary: $summary,
            paper: $paper,
            formula: $formula,
            mergeable: Mergeable::Yes,
            quantised_base: QuantisedBase::Expanded,
            parse: |fields, origin, warnings| {
                let config: $config = config::read($name, fields, &[], origin, warnings)?;
                config.check(origin)?;
                Ok(Arc::new(config))
            },
            schema: |generator| generator.subschema_for::<$config>(),
        }
    };
}

/// The registry's entry of FishMask.
pub const FISH_MASK: MethodInfo = info!(
    FISH,
    "HONE_FISH_MASK",
    "the share of the weights that the data say most about",
    "arXiv 2111.09839",
    "W + D, D = 0 where the Fisher information is small",
    FishMaskConfig
);

/// The registry's entry of child tuning.
pub const CHILD_TUNING: MethodInfo = info!(
    CHILD,
    "HONE_CHILD_TUNING",
    "gradients of a random or of the most informed share of the weights",
    "arXiv 2109.05687",
    "W + D, masked gradients",
    ChildTuningConfig
);

/// The registry's entry of subnetworks.
pub const SUBNETWORK: MethodInfo = info!(
    SUB,
    "HONE_SUBNETWORK",
    "the weights that another edit of the model changed, and no others",
    "arXiv 2505.11711",
    "W + D, D = 0 where the other edit changed nothing",
    SubnetworkConfig
);

/// FishMask's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FishMaskConfig {
    /// Share of the selected weights that is trained.
    pub share: f64,
    /// Steps over which squared gradients are gathered; nothing is updated in them.
    pub samples: usize,
    /// Where.
    #[serde(flatten)]
    pub weights: ChangeFields,
}

impl Default for FishMaskConfig {
    fn default() -> Self {
        FishMaskConfig { share: 0.005, samples: 16, weights: ChangeFields::default() }
    }
}

/// Child tuning's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ChildTuningConfig {
    /// `task_free` or `task_driven`.
    pub mode: ChildMode,
    /// Probability of a gradient (`task_free`), or share of the weights (`task_driven`).
    pub share: f64,
    /// Steps over which squared gradients are gathered (`task_driven`).
    pub samples: usize,
    /// Where.
    #[serde(flatten)]
    pub weights: ChangeFields,
}

/// How the child network is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChildMode {
    /// Anew every step, at random.
    #[default]
    TaskFree,
    /// Once, by Fisher information.
    TaskDriven,
}

impl Default for ChildTuningConfig {
    fn default() -> Self {
        ChildTuningConfig { mode: ChildMode::TaskFree, share: 0.3, samples: 16, weights: ChangeFields::default() }
    }
}

/// A subnetwork's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SubnetworkConfig {
    /// The directory of the adapter or the run whose changes mark the subnetwork. Only a recipe needs it.
    #[schemars(extend("format" = "path"))]
    pub changed_by: Option<String>,
    /// A weight counts as changed from this on.
    pub tolerance: f64,
    /// Where.
    #[serde(flatten)]
    pub weights: ChangeFields,
}

impl Default for SubnetworkConfig {
    fn default() -> Self {
        SubnetworkConfig { changed_by: None, tolerance: 1e-5, weights: ChangeFields::default() }
    }
}

fn check_share(method: &'static str, share: f64, samples: usize) -> Result<(), EditError> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(wrong(method, "share", share.to_string(), "a share above 0, up to 1"));
    }
    match samples {
        0 => Err(wrong(method, "samples", "0", "1 or more")),
        _ => Ok(()),
    }
}

impl FishMaskConfig {
    fn check(&self, _origin: Origin) -> Result<(), EditError> {
        check_share(FISH, self.share, self.samples)
    }
}

impl ChildTuningConfig {
    fn check(&self, _origin: Origin) -> Result<(), EditError> {
        check_share(CHILD, self.share, self.samples)
    }
}

impl SubnetworkConfig {
    fn check(&self, origin: Origin) -> Result<(), EditError> {
        if origin == Origin::Recipe && self.changed_by.is_none() {
            let what = "the directory of an adapter or a run whose changes mark the subnetwork";
            return Err(EditError::Needs { method: SUB, field: "changed_by", what });
        }
        match self.tolerance >= 0.0 {
            true => Ok(()),
            false => Err(wrong(SUB, "tolerance", self.tolerance.to_string(), "0 or more")),
        }
    }
}

impl Method for FishMaskConfig {
    fn info(&self) -> &'static MethodInfo {
        &FISH_MASK
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let part = Arc::new(Change(Plain));
        self.weights.plan(FISH, base, config::to_map(self), part, |w| vec![change_param(w, Init::Zeros)])
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(FisherMask::new(self.share, self.samples)))
    }
}

impl Method for ChildTuningConfig {
    fn info(&self) -> &'static MethodInfo {
        &CHILD_TUNING
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let part = Arc::new(Change(Plain));
        self.weights.plan(CHILD, base, config::to_map(self), part, |w| vec![change_param(w, Init::Zeros)])
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        match self.mode {
            ChildMode::TaskFree => Some(Box::new(RandomMask { share: self.share as f32 })),
            ChildMode::TaskDriven => Some(Box::new(FisherMask::new(self.share, self.samples))),
        }
    }
}

impl Method for SubnetworkConfig {
    fn info(&self) -> &'static MethodInfo {
        &SUBNETWORK
    }

    /// Beside each `D` the mask, which is not written: what `D` is not 0 at says enough.
    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let part = Arc::new(Change(Plain));
        let mut config = config::to_map(self);
        config.insert("changed_by".into(), Value::Null);
        let Some(other) = &self.changed_by else {
            return self.weights.plan(SUB, base, config, part, |w| vec![change_param(w, Init::Zeros)]);
        };
        let changes = Arc::new(read_changes(Path::new(other), base)?);
        let tolerance = self.tolerance as f32;
        self.weights.plan(SUB, base, config, part, |weight| {
            let (changes, name, shape) = (changes.clone(), weight.name.clone(), weight.shape.clone());
            let mask = move |_: &Base| {
                let zeros = || Tensor::zeros(shape.as_slice(), DType::F32);
                let mut mask = changes.get(&name).cloned().unwrap_or_else(zeros);
                mask.as_mut_slice::<f32>().iter_mut().for_each(|v| *v = f32::from(v.abs() > tolerance));
                mask
            };
            let mask = ParamPlan::new(format!("{}.mask", weight.name), &weight.shape, Init::Computed(Box::new(mask)));
            vec![change_param(weight, Init::Zeros), mask.fixed().not_saved().full_precision().stored(Stored::F32)]
        })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(GivenMask))
    }

    fn finished(&self, edit: Edit, base: &Base) -> Result<Edit, EditError> {
        let written = SubnetworkConfig { changed_by: None, ..self.clone() };
        super::grafting::with_saved_values(Arc::new(written), &edit, base)
    }
}

/// `gradient ⊙ mask`.
fn apply(gradient: &mut Tensor, mask: &[f32]) {
    gradient.as_mut_slice::<f32>().iter_mut().zip(mask).for_each(|(g, m)| *g *= m);
}

/// Every second parameter is the mask of the one before it.
struct GivenMask;

impl TrainingRules for GivenMask {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, _moment: &Moment) {
        for at in (0..edit.params.len()).step_by(2) {
            if let Some(gradient) = gradients.get_mut(at) {
                apply(gradient, edit.params[at + 1].value.as_slice());
            }
        }
    }
}

/// Child-Tuning F: drawn by counter, so nothing has to be remembered.
struct RandomMask {
    share: f32,
}

impl RandomMask {
    fn mask(&self, key: RandomKey, gradient: &mut [f32]) {
        for (at, g) in gradient.iter_mut().enumerate() {
            *g = if key.uniform(at as u64) < self.share { *g / self.share } else { 0.0 };
        }
    }
}

impl TrainingRules for RandomMask {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, moment: &Moment) {
        for (at, param) in edit.params.iter().enumerate() {
            if let Some(gradient) = gradients.get_mut(at) {
                self.mask(moment.key.named(&param.key), gradient.as_mut_slice::<f32>());
            }
        }
    }
}

/// First the sum of squared gradients, then the mask of its largest values.
struct FisherMask {
    share: f64,
    samples: usize,
    /// Squared gradients by parameter, until the mask is made; then the mask (0 and 1).
    held: Vec<Option<Tensor>>,
}

impl FisherMask {
    fn new(share: f64, samples: usize) -> FisherMask {
        FisherMask { share, samples, held: Vec::new() }
    }

    fn gather(&mut self, edit: &Edit, gradients: &mut EditGradients) {
        self.held.resize_with(edit.params.len(), || None);
        for (at, held) in self.held.iter_mut().enumerate() {
            let Some(gradient) = gradients.get_mut(at) else { continue };
            let sums = held.get_or_insert_with(|| Tensor::zeros(gradient.shape(), DType::F32));
            let pairs = sums.as_mut_slice::<f32>().iter_mut().zip(gradient.as_mut_slice::<f32>());
            // Nothing moves while the mask is being found.
            pairs.for_each(|(sum, g)| *sum += std::mem::take(g).powi(2));
        }
    }

    fn choose(&mut self) {
        let sums = || self.held.iter().flatten().map(|sum| sum.as_slice::<f32>());
        let total = sums().map(<[f32]>::len).sum();
        let threshold = threshold_of_largest(sums(), share_of(total, self.share));
        for sum in self.held.iter_mut().flatten() {
            sum.as_mut_slice::<f32>().iter_mut().for_each(|v| *v = f32::from(*v > threshold));
        }
    }
}

impl TrainingRules for FisherMask {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, moment: &Moment) {
        // A run shorter than the sampling still trains in its second half.
        let samples = self.samples.min(moment.steps / 2).max(1);
        if moment.step < samples {
            self.gather(edit, gradients);
            if moment.step + 1 == samples {
                self.choose();
            }
            return;
        }
        for (at, mask) in self.held.iter().enumerate() {
            if let (Some(gradient), Some(mask)) = (gradients.get_mut(at), mask) {
                apply(gradient, mask.as_slice());
            }
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let named = |(at, held): (usize, &Option<Tensor>)| held.clone().map(|held| (format!("fisher.{at}"), held));
        self.held.iter().enumerate().filter_map(named).collect()
    }

    fn restore(&mut self, edit: &Edit, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        let of = |(at, param): (usize, &crate::method::Param)| read(&format!("fisher.{at}"), param.value.dims());
        self.held = edit.params.iter().enumerate().map(of).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_mask_keeps_the_mean_and_its_share() {
        let mut gradient = vec![1.0f32; 20_000];
        RandomMask { share: 0.3 }.mask(RandomKey::new(5), &mut gradient);
        let kept = gradient.iter().filter(|g| **g != 0.0).count() as f64 / 20_000.0;
        let mean = gradient.iter().map(|g| f64::from(*g)).sum::<f64>() / 20_000.0;
        // Three standard deviations of a share of 20,000 draws are 0.01.
        assert!((kept - 0.3).abs() < 0.01 && (mean - 1.0).abs() < 0.035, "{kept}, {mean}");
    }

    #[test]
    fn the_fisher_mask_is_the_share_with_the_largest_sums() {
        let mut mask = FisherMask::new(0.5, 1);
        mask.held = vec![Some(Tensor::from_slice([3], &[0.1f32, 9.0, 0.2])), Some(Tensor::from_slice([1], &[4.0f32]))];
        mask.choose();
        let chosen: Vec<Vec<f32>> = mask.held.iter().flatten().map(Tensor::to_vec_f32).collect();
        assert_eq!(chosen, [vec![0.0, 1.0, 0.0], vec![1.0]]);
    }
}
