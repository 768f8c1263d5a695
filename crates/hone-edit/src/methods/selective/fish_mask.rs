//! FishMask (Sung et al. 2021, arXiv 2111.09839): the `share` of the weights with the largest empirical Fisher information is trained, the
//! mean of squared gradients over the first `samples` steps, in which nothing is updated.
//!
//! `W + D`, `D = 0` outside the mask: gradients are zeroed there before clipping, so what is not chosen stays exactly where it was.
//! Start: `D = 0`. Trained numbers that can move: `share` of the selected weights; counted: all of `D`, which is what is held.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::ChangeFields;
use super::fisher::{FisherMask, check_share};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Edit, Mergeable, Method, MethodInfo, Plan, QuantisedBase};
use crate::training::TrainingRules;

const NAME: &str = "fish_mask";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_FISH_MASK",
    family: "selective",
    summary: "the share of the weights that the data say most about",
    paper: "arXiv 2111.09839",
    formula: "W + D, D = 0 where the Fisher information is small",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse: |fields, origin, warnings| {
        let config: FishMaskConfig = config::read(NAME, fields, &[], origin, warnings)?;
        check_share(NAME, config.share, config.samples)?;
        Ok(Arc::new(config))
    },
    schema: |generator| generator.subschema_for::<FishMaskConfig>(),
};

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

impl Method for FishMaskConfig {
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
        Some(Box::new(FisherMask::new(self.share, self.samples)))
    }
}
