//! How AdaLoRA shares out its ranks while it trains.
//!
//! After every update `t` (counted from 1), with `p` a parameter and `g` its gradient:
//!
//! - importance `I = |p g|`, averaged: `Ī ← β₁ Ī + (1 − β₁) I`, and how far it strays: `Ū ← β₂ Ū + (1 − β₂) |I − Ī|` (with
//!   the new `Ī`);
//! - the score of rank `k` of a map: `Ī Ū` of `E_k`, plus its mean over row `k` of `A`, plus its mean over column `k` of
//!   `B`;
//! - the budget, in ranks over all maps: `init` up to `tinit`, then `target + (init − target) (1 − (t − tinit) / (T −
//!   tfinal − tinit))³` (whole ranks) up to `T − tfinal`, then `target`;
//! - every `deltaT` updates while it falls, and at `T − tfinal`, the `init − budget` lowest scores of all maps have their
//!   `E_k` set to 0. A rank that was cut may come back, until the last cut, which stays.
//!
//! The penalty: `orth_reg_weight` times the mean over all `A` and `B` of `‖A Aᵀ − I‖_F` and `‖Bᵀ B − I‖_F`.
//!
//! As in PEFT (`RankAllocator`), whose callers say what `t` is; here it is the number of updates done, so the last cut of a
//! run with `tfinal: 0` is at its last update. Ranks cut are those with a score *at most* the threshold, so equal scores
//! fall together.

use std::collections::BTreeMap;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{DType, Tape, Tensor, Var};
use serde_json::json;

use super::AdaLoraConfig;
use crate::method::Edit;
use crate::training::{EditGradients, Moment, TrainingRules};

/// The rules of one run.
pub struct Budget {
    config: AdaLoraConfig,
    /// Of every map: the numbers of `A`, `B`, `E` among the edit's parameters, and the key of `E` in `rank_pattern`.
    maps: Vec<Triplet>,
    /// Of every parameter of the maps, by its number: `Ī` and `Ū`.
    averages: BTreeMap<usize, Averages>,
    /// 1 for the ranks that the last cut left, by map; empty before it.
    kept: Vec<Tensor>,
}

struct Triplet {
    a: usize,
    b: usize,
    e: usize,
    name: String,
}

struct Averages {
    importance: Tensor,
    uncertainty: Tensor,
}

impl Budget {
    /// For `edit`.
    pub fn new(config: AdaLoraConfig, edit: &Edit) -> Budget {
        let find = |key: &str| edit.params.iter().position(|p| p.key == key);
        let triplet = |(e, key): (usize, &str)| {
            let module = key.strip_prefix("base_model.model.")?.strip_suffix(".lora_E")?;
            let other = |tensor: &str| find(&format!("base_model.model.{module}.{tensor}"));
            Some(Triplet { a: other("lora_A")?, b: other("lora_B")?, e, name: format!("{module}.lora_E") })
        };
        let maps: Vec<Triplet> = edit.params.iter().map(|p| p.key.as_str()).enumerate().filter_map(triplet).collect();
        let numbers = maps.iter().flat_map(|map| [map.a, map.b, map.e]);
        let averages = numbers.map(|number| {
            let zeros = Tensor::zeros(edit.params[number].value.shape(), DType::F32);
            (number, Averages { importance: zeros.clone(), uncertainty: zeros })
        });
        Budget { config, averages: averages.collect(), maps, kept: Vec::new() }
    }

    /// Ranks that stay after update `t` of `total`, and whether it is a time to cut.
    fn budget(&self, t: usize, total: usize) -> (usize, bool) {
        let config = &self.config;
        let (all, target) = (config.init_r * self.maps.len(), config.target_r * self.maps.len());
        let end = total.saturating_sub(config.tfinal);
        if t <= config.tinit {
            return (all, false);
        }
        if t >= end {
            return (target, t == end);
        }
        let left = 1.0 - (t - config.tinit) as f64 / (end - config.tinit) as f64;
        let budget = (all - target) as f64 * left.powi(3) + target as f64;
        (budget as usize, t.is_multiple_of(config.delta_t))
    }

    fn observe(&mut self, edit: &Edit, gradients: &EditGradients) {
        let (beta1, beta2) = (self.config.beta1 as f32, self.config.beta2 as f32);
        for (number, averages) in &mut self.averages {
            let Some(gradient) = gradients.get(*number) else { continue };
            let value = edit.params[*number].value.as_slice::<f32>();
            let importance = averages.importance.as_mut_slice::<f32>().iter_mut();
            let uncertainty = averages.uncertainty.as_mut_slice::<f32>().iter_mut();
            let seen = value.iter().zip(gradient.as_slice::<f32>());
            for ((mean, spread), (p, g)) in importance.zip(uncertainty).zip(seen) {
                let now = (p * g).abs();
                *mean = beta1 * *mean + (1.0 - beta1) * now;
                *spread = beta2 * *spread + (1.0 - beta2) * (now - *mean).abs();
            }
        }
    }

    /// The score of every rank of a map.
    fn scores(&self, map: &Triplet) -> Vec<f32> {
        let score = |number: usize| -> Vec<f32> {
            let averages = &self.averages[&number];
            let pairs = averages.importance.as_slice::<f32>().iter().zip(averages.uncertainty.as_slice::<f32>());
            pairs.map(|(mean, spread)| mean * spread).collect()
        };
        let (a, b, mut scores) = (score(map.a), score(map.b), score(map.e));
        let (ranks, inputs) = self.averages[&map.a].importance.rows_cols();
        let (out, _) = self.averages[&map.b].importance.rows_cols();
        for (rank, score) in scores.iter_mut().enumerate() {
            let of_a: f32 = a[rank * inputs..(rank + 1) * inputs].iter().sum();
            let of_b: f32 = b.iter().skip(rank).step_by(ranks).sum();
            *score += of_a / inputs as f32 + of_b / out as f32;
        }
        scores
    }

    /// Sets `E` to 0 in all ranks but the `budget` with the highest scores, and returns which those are.
    fn cut(&self, edit: &mut Edit, budget: usize) -> Vec<Tensor> {
        let scores: Vec<Vec<f32>> = self.maps.iter().map(|map| self.scores(map)).collect();
        let mut sorted: Vec<f32> = scores.iter().flatten().copied().collect();
        let cut = sorted.len().saturating_sub(budget);
        sorted.sort_by(f32::total_cmp);
        let threshold = if cut == 0 { f32::NEG_INFINITY } else { sorted[cut - 1] };
        let kept = |scores: &Vec<f32>| {
            let kept: Vec<f32> = scores.iter().map(|score| f32::from(*score > threshold)).collect();
            Tensor::from_slice([kept.len()], &kept)
        };
        let kept: Vec<Tensor> = scores.iter().map(kept).collect();
        self.mask(edit, &kept);
        kept
    }

    fn mask(&self, edit: &mut Edit, kept: &[Tensor]) {
        for (map, kept) in self.maps.iter().zip(kept) {
            let e = edit.params[map.e].value.as_mut_slice::<f32>();
            e.iter_mut().zip(kept.as_slice::<f32>()).for_each(|(e, kept)| *e *= kept);
        }
    }

    /// Says in the edit's configuration which ranks stayed, as PEFT does.
    fn record(&self, edit: &mut Edit) {
        let pattern: BTreeMap<&str, Vec<bool>> = self
            .maps
            .iter()
            .zip(&self.kept)
            .map(|(map, kept)| (map.name.as_str(), kept.as_slice::<f32>().iter().map(|k| *k > 0.0).collect()))
            .collect();
        edit.config.insert("rank_pattern".into(), json!(pattern));
    }
}

impl TrainingRules for Budget {
    fn begin(&mut self, edit: &mut Edit, moment: &Moment) {
        // PEFT cannot read a configuration without it.
        edit.config.insert("total_step".into(), json!(self.config.total_step.unwrap_or(moment.steps)));
        if !self.kept.is_empty() {
            self.record(edit);
        }
    }

    fn penalty(&self, tape: &Tape, values: &[Var], _moment: &Moment) -> Option<Var> {
        if self.config.orth_reg_weight == 0.0 {
            return None;
        }
        let products = self.maps.iter().flat_map(|map| {
            let (a, b) = (&values[map.a], &values[map.b]);
            [ops::product_nt(tape, a, a), ops::product_tn(tape, b, b)]
        });
        let norm = |product: Var| {
            let (ranks, _) = product.value.rows_cols();
            let mut identity = vec![0f32; ranks * ranks];
            identity.iter_mut().step_by(ranks + 1).for_each(|v| *v = 1.0);
            let identity = Var::constant(Tensor::from_slice([ranks, ranks], &identity));
            let off = ops::add_scaled(tape, &product, &identity, -1.0);
            let squares = ops::sum(tape, &ops::pointwise(tape, &off, Pointwise::Square));
            ops::pointwise(tape, &squares, Pointwise::Sqrt)
        };
        let sum = products.map(norm).reduce(|sum, norm| ops::add(tape, &sum, &norm))?;
        let share = self.config.orth_reg_weight / (2 * self.maps.len()) as f64;
        Some(ops::scale(tape, &sum, share as f32))
    }

    fn after(&mut self, edit: &mut Edit, gradients: &EditGradients, moment: &Moment) {
        let total = self.config.total_step.unwrap_or(moment.steps);
        let (t, end) = (moment.step + 1, total.saturating_sub(self.config.tfinal));
        if t > end {
            return self.mask(edit, &self.kept);
        }
        if t < end {
            self.observe(edit, gradients);
        }
        let (budget, time) = self.budget(t, total);
        if time {
            let kept = self.cut(edit, budget);
            if t == end {
                self.kept = kept;
                self.record(edit);
            }
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let averages = self.averages.iter().flat_map(|(number, averages)| {
            [
                (format!("adalora.importance.{number}"), averages.importance.clone()),
                (format!("adalora.uncertainty.{number}"), averages.uncertainty.clone()),
            ]
        });
        let kept = self.kept.iter().enumerate().map(|(map, kept)| (format!("adalora.kept.{map}"), kept.clone()));
        averages.chain(kept).collect()
    }

    fn restore(&mut self, _edit: &Edit, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        for (number, averages) in &mut self.averages {
            let shape = averages.importance.dims().to_vec();
            if let Some(value) = read(&format!("adalora.importance.{number}"), &shape) {
                averages.importance = value;
            }
            if let Some(value) = read(&format!("adalora.uncertainty.{number}"), &shape) {
                averages.uncertainty = value;
            }
        }
        let ranks = [self.config.init_r];
        let kept = (0..self.maps.len()).map_while(|map| read(&format!("adalora.kept.{map}"), &ranks));
        let kept: Vec<Tensor> = kept.collect();
        if kept.len() == self.maps.len() {
            self.kept = kept;
        }
    }
}
