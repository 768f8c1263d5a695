//! Child tuning (Xu et al. 2021, arXiv 2109.05687): `W + D` with masked gradients. `task_free` draws a new Bernoulli mask of probability
//! `share` every step and divides what passes by it (Child-Tuning F); `task_driven` keeps the mask of the largest Fisher information
//! (Child-Tuning D, [`super::fisher`]).
//!
//! Start: `D = 0`. Counted: all of `D`, which is what is held; of `task_driven` a share moves.

use std::sync::Arc;

use hone_engine::RandomKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::ChangeFields;
use super::fisher::{FisherMask, check_share};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Edit, Mergeable, Method, MethodInfo, Plan, QuantisedBase};
use crate::training::{EditGradients, Moment, TrainingRules};

const NAME: &str = "child_tuning";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_CHILD_TUNING",
    family: "selective",
    summary: "gradients of a random or of the most informed share of the weights",
    paper: "arXiv 2109.05687",
    formula: "W + D, masked gradients",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse: |fields, origin, warnings| {
        let config: ChildTuningConfig = config::read(NAME, fields, &[], origin, warnings)?;
        check_share(NAME, config.share, config.samples)?;
        Ok(Arc::new(config))
    },
    schema: |generator| generator.subschema_for::<ChildTuningConfig>(),
};

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

impl Method for ChildTuningConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.weights.plan_plain(NAME, base, config::to_map(self))
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

/// Child-Tuning F: drawn by counter, so nothing has to be remembered.
struct RandomMask {
    share: f32,
}

impl RandomMask {
    fn mask(&self, index: usize, gradients: &mut EditGradients, key: RandomKey) {
        gradients.confine(index, |element| key.uniform(element as u64) < self.share);
        if let Some(gradient) = gradients.get_mut(index) {
            gradient.as_mut_slice::<f32>().iter_mut().for_each(|g| *g /= self.share);
        }
    }
}

impl TrainingRules for RandomMask {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, moment: &Moment) {
        for (index, param) in edit.params.iter().enumerate() {
            self.mask(index, gradients, moment.key.named(&param.key));
        }
    }
}

#[cfg(test)]
mod tests {
    use hone_engine::{DType, Gradients, ParamId, Tensor, Var};

    use super::*;

    #[test]
    fn a_random_mask_keeps_the_mean_and_its_share() {
        let (mut gradients, ones) = (Gradients::new(), Tensor::full([20_000], DType::F32, 1.0));
        gradients.add(&Var::param(ParamId(0), ones.clone()), ones);
        RandomMask { share: 0.3 }.mask(0, &mut EditGradients::new(&mut gradients, &[ParamId(0)]), RandomKey::new(5));
        let gradient = gradients.param(ParamId(0)).map(Tensor::to_vec_f32).unwrap();
        let kept = gradient.iter().filter(|g| **g != 0.0).count() as f64 / 20_000.0;
        let mean = gradient.iter().map(|g| f64::from(*g)).sum::<f64>() / 20_000.0;
        // Three standard deviations of a share of 20,000 draws are 0.01.
        assert!((kept - 0.3).abs() < 0.01 && (mean - 1.0).abs() < 0.035, "{kept}, {mean}");
    }
}
