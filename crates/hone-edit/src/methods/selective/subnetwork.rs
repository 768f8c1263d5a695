//! A subnetwork that is given (Mukherjee et al. 2025, arXiv 2505.11711): the mask is where a trained edit of the same model changed the
//! weights by more than `tolerance`. Does training that subnetwork alone give the same model?
//!
//! `W + D`, `D = 0` outside the mask: gradients are zeroed there before clipping. Start: `D = 0`. Counted: all of `D`; what the other
//! edit changed moves.

use std::path::Path;
use std::sync::Arc;

use hone_engine::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{Change, ChangeFields, Plain, change_param};
use super::grafting::read_changes;
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{Edit, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Stored};
use crate::planning::wrong;
use crate::training::{EditGradients, Moment, TrainingRules};

const NAME: &str = "subnetwork";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_SUBNETWORK",
    family: "selective",
    summary: "the weights that another edit of the model changed, and no others",
    paper: "arXiv 2505.11711",
    formula: "W + D, D = 0 where the other edit changed nothing",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse: |fields, origin, warnings| {
        let config: SubnetworkConfig = config::read(NAME, fields, &[], origin, warnings)?;
        config.check(origin)?;
        Ok(Arc::new(config))
    },
    schema: |generator| generator.subschema_for::<SubnetworkConfig>(),
};

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

impl SubnetworkConfig {
    fn check(&self, origin: Origin) -> Result<(), EditError> {
        if origin == Origin::Recipe && self.changed_by.is_none() {
            let what = "the directory of an adapter or a run whose changes mark the subnetwork";
            return Err(EditError::Needs { method: NAME, field: "changed_by", what });
        }
        match self.tolerance >= 0.0 {
            true => Ok(()),
            false => Err(wrong(NAME, "tolerance", self.tolerance.to_string(), "0 or more")),
        }
    }
}

impl Method for SubnetworkConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    /// Beside each `D` the mask, which is not written: what `D` is not 0 at says enough.
    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut config = config::to_map(self);
        config.insert("changed_by".into(), Value::Null);
        let Some(other) = &self.changed_by else {
            return self.weights.plan_plain(NAME, base, config);
        };
        let changes = Arc::new(read_changes(Path::new(other), base)?);
        let tolerance = self.tolerance as f32;
        self.weights.plan(NAME, base, config, Arc::new(Change(Plain)), |weight| {
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

/// Every second parameter is the mask of the one before it.
struct GivenMask;

impl TrainingRules for GivenMask {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, _moment: &Moment) {
        for at in (0..edit.params.len()).step_by(2) {
            let mask = edit.params[at + 1].value.as_slice::<f32>();
            gradients.confine(at, |element| mask[element] != 0.0);
        }
    }
}
