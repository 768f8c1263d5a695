//! Super-Tuning (2026, arXiv 2607.09287): the entries of each weight that are largest (or smallest) in magnitude are trained:
//! `y = x Wᵀ + x ΔWᵀ`, `ΔW` zero but at `N = ⌊(1 − sparsity) in out⌋` places. With `r` (Supra) a LoRA pair stands beside it:
//! `+ (α/r) x Aᵀ Bᵀ`, `α = 2 r` unless said.
//!
//! The places are chosen once, of equal magnitudes the earlier ones, and are always in the file
//! (`supertuning_indices`, flat): PEFT can leave them out and choose again, but says of equal magnitudes itself that others
//! may be chosen then, so `save_precomputed_indices: false` is refused. Choosing by activations (Wanda) is not in PEFT either.
//! Start: `ΔW = 0`, `A` `U(±1/√in)`, `B = 0`, so the model is unchanged. Parameters: `N`, with `r` `r (in + out)` more. The
//! product never holds a dense `ΔW`.

use std::sync::Arc;

use hone_engine::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shira::Entries;
use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Stored};
use crate::methods::lora::pair::Pair;
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, wrong};

const NAME: &str = "supertuning";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "SUPERTUNING",
    family: "selective",
    summary: "the largest entries of each weight, with a low-rank pair beside them or not",
    paper: "arXiv 2607.09287",
    formula: "W + ΔW (+ s B A), ΔW sparse where |W| is largest",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<SupertuningConfig>(),
};

/// Hugging Face's `SupertuningConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SupertuningConfig {
    /// The share of a weight's entries that is not trained.
    pub sparsity: f64,
    /// Train the largest entries; `false`: the smallest.
    pub select_top: bool,
    /// Rank of a LoRA pair beside them.
    pub r: Option<usize>,
    /// Scale of the pair: `alpha / r`; twice the rank if not said.
    pub lora_alpha: Option<f64>,
    /// Dropout on the pair's input.
    pub lora_dropout: f64,
    /// Whether the model is unchanged at the start; `false`: normal entries and a `B` that is not 0, for tests.
    pub init_weights: bool,
    /// `true`: places are in the file.
    pub save_precomputed_indices: bool,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for SupertuningConfig {
    fn default() -> Self {
        SupertuningConfig {
            sparsity: 0.99,
            select_top: true,
            r: None,
            lora_alpha: None,
            lora_dropout: 0.0,
            init_weights: true,
            save_precomputed_indices: true,
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let config: SupertuningConfig = config::read(NAME, &fields, INERT, origin, warnings)?;
    config.targets.check(NAME)?;
    check_probability(NAME, "sparsity", config.sparsity)?;
    check_probability(NAME, "lora_dropout", config.lora_dropout)?;
    match (config.r, config.lora_alpha) {
        (Some(r), _) => check_rank(NAME, "r", r)?,
        (None, Some(alpha)) => {
            return Err(wrong(
                NAME,
                "lora_alpha",
                alpha.to_string(),
                "none without `r`, the rank of the pair it scales",
            ));
        }
        (None, None) => {}
    }
    if !config.save_precomputed_indices {
        return Err(EditError::Unsupported {
            method: NAME,
            field: "save_precomputed_indices".into(),
            found: "false".into(),
            reason:
                "of entries of equal magnitude others may be chosen when the adapter is read; keep them in the file"
                    .into(),
        });
    }
    Ok(Arc::new(config))
}

/// The flat places of the `count` largest (or smallest) magnitudes, rising; of equal ones the earlier.
fn chosen(weight: &[f32], count: usize, largest: bool) -> Vec<u32> {
    let mut order: Vec<u32> = (0..weight.len() as u32).collect();
    let size = |place: &u32| weight[*place as usize].abs();
    let before = |a: &u32, b: &u32| {
        let (a_size, b_size) = if largest { (size(b), size(a)) } else { (size(a), size(b)) };
        a_size.total_cmp(&b_size).then(a.cmp(b))
    };
    if count < order.len() {
        order.select_nth_unstable_by(count, before);
        order.truncate(count);
    }
    order.sort_unstable();
    order
}

impl SupertuningConfig {
    fn on_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        // PEFT's own rounding.
        let count = ((out * inputs) as f64 * (1.0 - self.sparsity)) as usize;
        if count == 0 {
            let expected = format!("less, so that of the {} entries of `{module}` one is trained", out * inputs);
            return Err(wrong(NAME, "sparsity", self.sparsity.to_string(), expected));
        }
        let (largest, name) = (self.select_top, weight.name.clone());
        let places = move |base: &Base| {
            let values = base.weight(&name).map(|weight| weight.to_f32().to_vec_f32()).unwrap_or_default();
            let places = chosen(&values, count, largest);
            let rows = places.iter().map(|place| (place / inputs as u32) as f32);
            let columns = places.iter().map(|place| (place % inputs as u32) as f32);
            Tensor::from_slice([2, places.len()], &rows.chain(columns).collect::<Vec<f32>>())
        };
        let first = if self.init_weights { Init::Zeros } else { Init::Normal { std: 1.0 } };
        let entries = [
            ParamPlan::new(key(module, "supertuning_values"), &[count], first),
            ParamPlan::new(key(module, "supertuning_indices"), &[2, count], Init::Computed(Box::new(places)))
                .fixed()
                .full_precision()
                .places_below(&[out, inputs])
                .stored(Stored::Flat { columns: inputs }),
        ];
        plan.on_linear(weight, Entries { out, inputs }, entries);
        if let Some(r) = self.r {
            let kaiming = |columns: usize| Init::Uniform { bound: 1.0 / (columns as f32).sqrt() };
            let b = if self.init_weights { Init::Zeros } else { kaiming(r) };
            let pair = [
                ParamPlan::new(key(module, "supertuning_lora_A.weight"), &[r, inputs], kaiming(inputs)),
                ParamPlan::new(key(module, "supertuning_lora_B.weight"), &[out, r], b),
            ];
            let alpha = self.lora_alpha.unwrap_or(2.0 * r as f64);
            let part = Pair { scale: (alpha / r as f64) as f32, dropout: self.lora_dropout as f32 };
            plan.on_linear(weight, part, pair);
        }
        Ok(())
    }
}

impl Method for SupertuningConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = (config::to_map(self), INERT);
        self.targets.plan(NAME, base, Q_AND_V, config, |plan, weight| self.on_map(plan, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_or_smallest_entries_are_chosen_and_of_equal_ones_the_earlier() {
        let weight = [0.5, -2.0, 1.0, -1.0, 0.1, 1.0];
        assert_eq!(chosen(&weight, 3, true), [1, 2, 3]);
        assert_eq!(chosen(&weight, 2, false), [0, 4]);
        assert_eq!(chosen(&weight, 6, true), [0, 1, 2, 3, 4, 5]);
    }
}
