//! GaLore (Zhao et al. 2024, arXiv 2403.03507): full tuning whose Adam moments live in a low-rank space of each gradient.
//!
//! For a gradient `G` `[m, n]`, every `update_gap` steps `P` is made of its `rank` leading singular vectors: right ones (`R = G Pᵀ`,
//! `P` `[r, n]`) where `m ≥ n`, else left ones (`R = Pᵀ G`, `P` `[m, r]`). Adam's moments are of `R`, with bias correction, and
//! `W ← W − rate · scale · N P` (or `P N`), `N = M / (√V + eps)`. Moments are kept when `P` changes. What is no matrix, or whose
//! smaller side is no larger than the rank, gets plain Adam. Gradients are clipped before they are projected.
//!
//! Parameters: those of full tuning; moments: `2 r max(m, n)` a matrix instead of `2 m n`. It writes whole weights. The rate,
//! `betas` and `eps` here are the recipe's `learning_rate` and the fields below: the run's own optimiser is not used.

use std::sync::Arc;

use hone_engine::matmul::{matmul_nn, matmul_nt, matmul_tn};
use hone_engine::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config;
use crate::decompose::svd;
use crate::error::EditError;
use crate::method::{Edit, Mergeable, Method, MethodInfo, Origin, Plan, QuantisedBase};
use crate::planning::{check_rank, wrong};
use crate::replace::plan_tied_replacements;
use crate::training::{EditGradients, Moment, TrainingRules};

const NAME: &str = "galore";

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: NAME,
    peft_type: "HONE_GALORE",
    family: "selective",
    summary: "full tuning with optimiser moments in a low-rank space of the gradients",
    paper: "arXiv 2403.03507",
    formula: "W ← V, moments of G Pᵀ",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<GaLoreConfig>(),
};

/// GaLore's settings; the defaults are those for fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GaLoreConfig {
    /// Rank of the projection.
    pub rank: usize,
    /// Steps between projections.
    pub update_gap: usize,
    /// Factor on projected updates.
    #[serde(serialize_with = "config::number")]
    pub scale: f64,
    /// Adam's decay rates.
    pub betas: (f64, f64),
    /// Adam's epsilon.
    pub eps: f64,
}

impl Default for GaLoreConfig {
    fn default() -> Self {
        GaLoreConfig { rank: 8, update_gap: 500, scale: 4.0, betas: (0.9, 0.999), eps: 1e-6 }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let config: GaLoreConfig = config::read(NAME, fields, &[], origin, warnings)?;
    check_rank(NAME, "rank", config.rank)?;
    if config.update_gap == 0 {
        return Err(wrong(NAME, "update_gap", "0", "1 or more"));
    }
    Ok(Arc::new(config))
}

impl Method for GaLoreConfig {
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

    fn default_learning_rate(&self) -> f64 {
        3e-5
    }

    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(GaLore { config: self.clone(), states: edit.params.iter().map(|_| None).collect() }))
    }
}

/// Which side is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// `R = G Pᵀ`, `P` `[r, n]`.
    Right,
    /// `R = Pᵀ G`, `P` `[m, r]`.
    Left,
    /// `R = G`.
    Whole,
}

impl Side {
    fn of(dims: &[usize], rank: usize) -> Side {
        match *dims {
            [m, n] if m.min(n) > rank && m >= n => Side::Right,
            [m, n] if m.min(n) > rank => Side::Left,
            _ => Side::Whole,
        }
    }
}

/// What is remembered of one parameter.
struct State {
    projection: Option<Tensor>,
    m: Tensor,
    v: Tensor,
    steps: u64,
}

struct GaLore {
    config: GaLoreConfig,
    states: Vec<Option<State>>,
}

impl GaLore {
    fn projection(&self, side: Side, gradient: &Tensor) -> Option<Tensor> {
        let rank = self.config.rank;
        match side {
            Side::Whole => None,
            // A gradient that cannot be decomposed (not finite) never comes here: the norm is checked first.
            Side::Right => svd(gradient).ok().map(|svd| svd.truncated(rank).vt),
            Side::Left => svd(gradient).ok().map(|svd| svd.truncated(rank).u),
        }
    }

    /// One parameter's update, `f32`, in its shape, to be subtracted `rate` times.
    fn direction(&mut self, at: usize, gradient: &Tensor) -> Tensor {
        let side = Side::of(gradient.dims(), self.config.rank);
        let due = match &self.states[at] {
            None => true,
            Some(state) => state.steps.is_multiple_of(self.config.update_gap as u64),
        };
        let fresh = if due { self.projection(side, gradient) } else { None };
        let config = &self.config;
        let state = self.states[at].get_or_insert_with(|| State {
            projection: None,
            m: Tensor::zeros([0], DType::F32),
            v: Tensor::zeros([0], DType::F32),
            steps: 0,
        });
        if fresh.is_some() {
            state.projection = fresh;
        }
        let projected = match (side, &state.projection) {
            (Side::Right, Some(p)) => matmul_nt(gradient, p, DType::F32),
            (Side::Left, Some(p)) => matmul_tn(p, gradient, DType::F32),
            _ => gradient.clone(),
        };
        if state.steps == 0 {
            state.m = Tensor::zeros(projected.shape(), DType::F32);
            state.v = Tensor::zeros(projected.shape(), DType::F32);
        }
        state.steps += 1;
        let (beta1, beta2) = config.betas;
        let (first, second) = (1.0 - beta1.powi(state.steps as i32), 1.0 - beta2.powi(state.steps as i32));
        let mut normed = projected.clone();
        let moments = state.m.as_mut_slice::<f32>().iter_mut().zip(state.v.as_mut_slice::<f32>());
        for ((n, g), (m, v)) in normed.as_mut_slice::<f32>().iter_mut().zip(projected.as_slice::<f32>()).zip(moments) {
            *m = beta1 as f32 * *m + (1.0 - beta1) as f32 * g;
            *v = beta2 as f32 * *v + (1.0 - beta2) as f32 * g * g;
            *n = (f64::from(*m) / first / ((f64::from(*v) / second).sqrt() + config.eps)) as f32;
        }
        let mut update = match (side, &state.projection) {
            (Side::Right, Some(p)) => matmul_nn(&normed, p, DType::F32),
            (Side::Left, Some(p)) => matmul_nn(p, &normed, DType::F32),
            _ => return normed,
        };
        update.as_mut_slice::<f32>().iter_mut().for_each(|u| *u *= config.scale as f32);
        update
    }
}

impl TrainingRules for GaLore {
    fn updates(&self) -> bool {
        true
    }

    fn update(
        &mut self,
        edit: &mut Edit,
        gradients: &EditGradients,
        (learning_rate, scale): (f64, f32),
        _moment: &Moment,
    ) {
        for (at, param) in edit.params.iter_mut().enumerate() {
            let Some(gradient) = gradients.get(at) else { continue };
            let mut gradient = gradient.clone();
            if scale != 1.0 {
                gradient.as_mut_slice::<f32>().iter_mut().for_each(|g| *g *= scale);
            }
            let update = self.direction(at, &gradient);
            let values = param.value.as_mut_slice::<f32>().iter_mut().zip(update.as_slice::<f32>());
            values.for_each(|(value, update)| *value -= learning_rate as f32 * update);
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for (at, state) in self.states.iter().enumerate() {
            let Some(state) = state else { continue };
            let steps = [state.steps as u32 as f32];
            all.push((format!("galore.{at}.steps"), Tensor::from_slice([1], &steps)));
            all.push((format!("galore.{at}.m"), state.m.clone()));
            all.push((format!("galore.{at}.v"), state.v.clone()));
            all.extend(state.projection.clone().map(|p| (format!("galore.{at}.projection"), p)));
        }
        all
    }

    fn restore(&mut self, edit: &Edit, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        let rank = self.config.rank;
        for (at, (state, param)) in self.states.iter_mut().zip(&edit.params).enumerate() {
            let dims = param.value.dims();
            let (projected, projection): (Vec<usize>, Option<[usize; 2]>) = match Side::of(dims, rank) {
                Side::Right => (vec![dims[0], rank], Some([rank, dims[1]])),
                Side::Left => (vec![rank, dims[1]], Some([dims[0], rank])),
                Side::Whole => (dims.to_vec(), None),
            };
            let mut named = |what: &str, shape: &[usize]| read(&format!("galore.{at}.{what}"), shape);
            let Some(steps) = named("steps", &[1]) else { continue };
            let (m, v) = (named("m", &projected), named("v", &projected));
            let projection = projection.and_then(|shape| named("projection", &shape));
            if let (Some(m), Some(v)) = (m, v) {
                *state = Some(State { projection, m, v, steps: steps.item() as u64 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(seed: u64) -> Tensor {
        let key = hone_engine::RandomKey::new(seed);
        Tensor::from_slice([6, 4], &(0..24).map(|i| key.normal(i)).collect::<Vec<f32>>())
    }

    #[test]
    fn an_update_lies_in_the_space_of_the_leading_vectors_and_the_space_changes_when_it_is_due() {
        let config = GaLoreConfig { rank: 2, update_gap: 2, scale: 1.0, ..GaLoreConfig::default() };
        let mut rules = GaLore { config, states: vec![None] };
        let first = rules.direction(0, &gradient(1));
        let p = rules.states[0].as_ref().unwrap().projection.clone().unwrap();
        // (update Pᵀ) P is the update again.
        let again = matmul_nn(&matmul_nt(&first, &p, DType::F32), &p, DType::F32);
        let far = first.to_vec_f32().iter().zip(again.to_vec_f32()).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(far < 1e-5, "{far}");
        rules.direction(0, &gradient(2));
        assert_eq!(rules.states[0].as_ref().unwrap().projection.clone().unwrap().to_vec_f32(), p.to_vec_f32());
        rules.direction(0, &gradient(3));
        assert_ne!(rules.states[0].as_ref().unwrap().projection.clone().unwrap().to_vec_f32(), p.to_vec_f32());
    }

    #[test]
    fn at_full_rank_it_is_adam() {
        let config = GaLoreConfig { rank: 8, scale: 1.0, ..GaLoreConfig::default() };
        let mut rules = GaLore { config, states: vec![None] };
        let (gradient, update) = (gradient(1), rules.direction(0, &gradient(1)));
        // Adam's first step is the sign of the gradient.
        for (g, u) in gradient.to_vec_f32().iter().zip(update.to_vec_f32()) {
            assert!((u - g.signum()).abs() < 1e-4, "{g}: {u}");
        }
    }
}
