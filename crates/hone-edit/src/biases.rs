//! The `bias` field of Hugging Face's configurations: which of the model's biases are trained beside a method.
//!
//! `none`, `all`, or the method's own word (`lora_only`, `oft_only` …) for those of targeted maps. The files key the bias of a
//! targeted map `….base_layer.bias`, since there the map stands inside the method's module.

use crate::base::{Base, BaseWeight, WeightKind};
use crate::error::EditError;
use crate::method::{Place, Plan};
use crate::planning::wrong;
use crate::replace::plan_replacements;

/// Which biases are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Biases {
    /// None.
    None,
    /// Every bias of the model.
    All,
    /// Those of targeted maps.
    Targets,
}

impl Biases {
    /// What the field says; `own` is the method's word for the biases of its targets.
    pub fn parse(method: &'static str, found: &str, own: &str) -> Result<Biases, EditError> {
        match found {
            "none" => Ok(Biases::None),
            "all" => Ok(Biases::All),
            word if word == own => Ok(Biases::Targets),
            other => Err(wrong(method, "bias", format!("`{other}`"), format!("`none`, `all` or `{own}`"))),
        }
    }

    /// Adds them to a plan; `targeted` are the modules the method acts on.
    pub fn plan(self, plan: &mut Plan, base: &Base, targeted: &[String]) {
        let is_target = |bias: &BaseWeight| targeted.iter().any(|module| module == bias.module());
        let wanted = |b: &&BaseWeight| match self {
            Biases::None => false,
            Biases::All => true,
            Biases::Targets => is_target(b),
        };
        let of_model = base.weights.iter().filter(|w| w.kind == WeightKind::Bias).filter(wanted);
        let mut biases: Vec<&BaseWeight> = Vec::new();
        for bias in of_model {
            let at = Place::Weight(bias.name.clone());
            match plan.placed.iter().find(|placed| placed.part.replaces() && placed.place == at) {
                // Of a module that is trained whole it is trained already; PEFT writes the two that it has of it as well.
                Some(placed) => {
                    let twice = ["modules_to_save", "original_module"];
                    let keys = twice.map(|inner| format!("base_model.model.{}.{inner}.bias", bias.module()));
                    placed.params.iter().for_each(|&param| plan.params[param].unused.extend(keys.clone()));
                }
                None => biases.push(bias),
            }
        }
        let first = plan.params.len();
        plan_replacements(plan, &biases, base);
        for (param, bias) in plan.params[first..].iter_mut().zip(&biases) {
            if is_target(bias) {
                let wrapped = format!("base_model.model.{}.base_layer.bias", bias.module());
                param.aliases.push(std::mem::replace(&mut param.key, wrapped));
            }
        }
    }
}
