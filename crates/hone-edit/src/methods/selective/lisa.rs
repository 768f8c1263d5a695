//! LISA (Pan et al. 2024, arXiv 2403.17919): full tuning in which, at any time, only a few layers wake. Every `interval` steps
//! all layers fall asleep and `layers` of them, drawn without replacement, are trained until the next draw; embeddings, final norm and
//! LM head are always trained. Layers that rest take no gradient work; their optimiser states are kept.
//!
//! Parameters: those of full tuning; trained at once: those of the awake layers and of what is outside the layers. It writes
//! whole weights, as full tuning does.

use std::sync::Arc;

use hone_engine::RandomKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config;
use crate::error::EditError;
use crate::method::{Edit, Mergeable, Method, MethodInfo, Origin, Plan, QuantisedBase};
use crate::planning::wrong;
use crate::replace::plan_tied_replacements;
use crate::training::{Moment, TrainingRules};

const NAME: &str = "lisa";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_LISA",
    family: "selective",
    summary: "full tuning of a few layers at a time, drawn anew every few steps",
    paper: "arXiv 2403.17919",
    formula: "W ← V, layers by turns",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<LisaConfig>(),
};

/// How many layers wake, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LisaConfig {
    /// Layers that are awake.
    pub layers: usize,
    /// Steps between draws.
    pub interval: usize,
}

impl Default for LisaConfig {
    fn default() -> Self {
        LisaConfig { layers: 2, interval: 20 }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let config: LisaConfig = config::read(NAME, fields, &[], origin, warnings)?;
    if config.layers == 0 || config.interval == 0 {
        let found = format!("layers {}, interval {}", config.layers, config.interval);
        return Err(wrong(NAME, "layers", found, "1 or more of each"));
    }
    Ok(Arc::new(config))
}

impl Method for LisaConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut plan = Plan { config: config::to_map(self), params: Vec::new(), placed: Vec::new() };
        let all: Vec<&BaseWeight> = base.weights.iter().collect();
        plan_tied_replacements(&mut plan, &all, base);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        let layers: Vec<Option<usize>> = edit.params.iter().map(|param| layer_of(&param.key)).collect();
        let count = layers.iter().flatten().max().map_or(0, |last| last + 1);
        Some(Box::new(Turns { config: self.clone(), layers, count }))
    }
}

/// The layer a parameter belongs to.
fn layer_of(key: &str) -> Option<usize> {
    key.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

/// Who is awake is a function of the step alone, so nothing has to be remembered.
struct Turns {
    config: LisaConfig,
    layers: Vec<Option<usize>>,
    count: usize,
}

impl Turns {
    /// The awake layers of `turn`: the first of a permutation drawn for it.
    fn awake(&self, turn: usize, key: RandomKey) -> Vec<usize> {
        let key = key.named("lisa").index(turn as u64);
        let mut order: Vec<usize> = (0..self.count).collect();
        for at in 0..self.config.layers.min(self.count) {
            let left = self.count - at;
            let other = at + ((f64::from(key.uniform(at as u64)) * left as f64) as usize).min(left - 1);
            order.swap(at, other);
        }
        order.truncate(self.config.layers);
        order
    }
}

impl TrainingRules for Turns {
    fn begin(&mut self, edit: &mut Edit, moment: &Moment) {
        let awake = self.awake(moment.step / self.config.interval, moment.run);
        for (param, layer) in edit.params.iter_mut().zip(&self.layers) {
            param.resting = layer.is_some_and(|layer| !awake.contains(&layer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_wakes_as_many_layers_and_each_layer_has_its_turn() {
        let turns = Turns { config: LisaConfig { layers: 2, interval: 5 }, layers: Vec::new(), count: 6 };
        let mut seen = [false; 6];
        for turn in 0..40 {
            let awake = turns.awake(turn, RandomKey::new(1));
            assert!(awake.len() == 2 && awake[0] != awake[1], "{awake:?}");
            awake.iter().for_each(|layer| seen[*layer] = true);
        }
        assert_eq!(seen, [true; 6]);
        assert_eq!(turns.awake(3, RandomKey::new(1)), turns.awake(3, RandomKey::new(1)));
    }
}
