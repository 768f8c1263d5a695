//! RandLoRA (Albert et al. 2025, arXiv 2502.00987): a full-rank change out of `n` random low-rank pairs that all maps
//! share, each weighted by two small trained diagonal matrices: `W + s Σ_j B_j diag(λ_j) A diag(γ_j)`, `s = alpha / r`.
//!
//! With `small = min(in, out)` and `large = max(in, out)` of a map: `A` `[r, 1, small]` is one frozen matrix for all pairs,
//! `B` `[large, n, r]` holds a frozen one each, `λ` `[r, n]`, `γ` `[n, small]`, and `n = ⌈small / r⌉`, so that the sum can
//! have full rank. (On a map with fewer outputs than inputs the two sides change places, so that the trained diagonals
//! always stand on the smaller one.) `A` and `B` are made for the widest map; others use the first rows and columns.
//!
//! The two are drawn as PEFT draws them from `projection_prng_key`: uniform numbers in bf16 divided by their standard
//! deviation, or with `sparse` (one third of entries ±1) and `very_sparse` (one in `√small`), signs divided by theirs. PEFT
//! writes them into the file once and again under every map; so does Hone. **PEFT's order**, which the files fix: the
//! weighted `A` is laid out pair by pair within a rank, `B` rank by rank within a pair, so entry `k n + j` of one meets
//! entry `j r + k` of the other; it is copied here as it is.
//!
//! Start: `λ = 0`, `γ` constant, so the model is unchanged. Parameters: `n (r + small)` a map.

use std::sync::Arc;

use hone_engine::ops::LowRank;
use hone_engine::{Element, Tape, Tensor, Var, WeightRef, bf16, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::dropout;
use crate::method::{
    At, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_probability, check_rank, key};
use crate::torch_random::TorchRandom;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "randlora",
    peft_type: "RANDLORA",
    family: "low rank",
    summary: "a full-rank sum of shared random pairs, weighted by trained diagonals",
    paper: "arXiv 2502.00987",
    formula: "W + s Σ_j B_j diag(λ_j) A diag(γ_j)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<RandLoraConfig>(),
};

/// Hugging Face's `RandLoraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RandLoraConfig {
    /// Rank of a pair: the *smaller*, the more parameters.
    pub r: usize,
    /// Scale: `alpha / r`. A recipe's default is 20 times the rank, as Hugging Face's.
    #[serde(serialize_with = "config::number")]
    pub randlora_alpha: f64,
    /// Seed of the shared pairs.
    pub projection_prng_key: u64,
    /// Whether the file holds the shared pairs.
    pub save_projection: bool,
    /// Draw sparse pairs: a third of the entries.
    pub sparse: bool,
    /// Draw very sparse pairs: one entry in `√small`.
    pub very_sparse: bool,
    /// Dropout on the input of the change.
    pub randlora_dropout: f64,
    /// Whether the model is unchanged at the start; `false`: `λ` normal, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `randlora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for RandLoraConfig {
    fn default() -> Self {
        RandLoraConfig {
            r: 32,
            randlora_alpha: 640.0,
            projection_prng_key: 0,
            save_projection: true,
            sparse: false,
            very_sparse: false,
            randlora_dropout: 0.0,
            init_weights: true,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[config::TRANSPOSED];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        if let Some(r) = fields.entry("r").or_insert(json!(32)).as_u64() {
            fields.entry("randlora_alpha").or_insert(json!(r.saturating_mul(20)));
        }
        TargetFields::recommend(&mut fields);
    }
    let randlora: RandLoraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    randlora.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", randlora.r)?;
    check_probability(METHOD.name, "randlora_dropout", randlora.randlora_dropout)?;
    check_factor(METHOD.name, "randlora_alpha", randlora.randlora_alpha)?;
    randlora.biases()?;
    Ok(Arc::new(randlora))
}

/// How the shared pairs are drawn.
#[derive(Clone, Copy)]
struct Projection {
    seed: u64,
    r: usize,
    pairs: usize,
    small: usize,
    large: usize,
    /// One entry in so many is not 0; none is dense.
    sparsity: Option<f64>,
}

impl Projection {
    /// `A` `[r, 1, small]` and `B` `[large, pairs, r]`.
    fn draw(self) -> (Tensor, Tensor) {
        let Projection { seed, r, pairs, small, large, sparsity } = self;
        let mut random = TorchRandom::new(seed);
        let (mut a, mut b) = match sparsity {
            Some(sparsity) => {
                let mut signs = |count: usize| -> Vec<f32> {
                    let (below, above) = ((0.5 / sparsity) as f32, (1.0 - 0.5 / sparsity) as f32);
                    let sign = |u: f32| f32::from(u > above) - f32::from(u < below);
                    random.uniform(count, 0.0, 1.0).into_iter().map(sign).collect()
                };
                (signs(r * small), signs(large * pairs * r))
            }
            None => {
                let mut dense = |count: usize, columns: usize| -> Vec<f32> {
                    let bound = (3f64.sqrt() * ((2.0f64 / 6.0).sqrt() / (columns as f64).sqrt())) as f32;
                    let (low, high) = (to_bf16(-bound), to_bf16(bound));
                    // The range does not hold its upper end: what is rounded up to it is the lower end in torch.
                    let held = |value: f32| Some(to_bf16(value)).filter(|rounded| *rounded < high).unwrap_or(low);
                    random.uniform(count, -bound, bound).into_iter().map(held).collect()
                };
                let a = dense(r * small, small);
                // One slab `[large, 1, r]` after another, joined along the middle axis.
                let slabs: Vec<Vec<f32>> = (0..pairs).map(|_| dense(large * r, r)).collect();
                let rows = (0..large).flat_map(|row| slabs.iter().map(move |slab| &slab[row * r..(row + 1) * r]));
                (a, rows.flatten().copied().collect())
            }
        };
        normalise(&mut a, sparsity.is_none());
        normalise(&mut b, sparsity.is_none());
        (Tensor::from_slice([r, 1, small], &a), Tensor::from_slice([large, pairs, r], &b))
    }
}

fn to_bf16(value: f32) -> f32 {
    Element::widen(bf16::rounded(value))
}

/// Divides by the standard deviation (of a sample), rounded to bf16 where the values are.
fn normalise(values: &mut [f32], in_bf16: bool) {
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let square = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
    let deviation = (square / (count - 1.0)).sqrt() as f32;
    match in_bf16 {
        true => values.iter_mut().for_each(|v| *v = to_bf16(*v / to_bf16(deviation))),
        false => values.iter_mut().for_each(|v| *v /= deviation),
    }
}

impl RandLoraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "randlora_only")
    }

    /// The shared pairs for the widest of the targeted maps.
    fn shared(&self, base: &Base) -> Result<[ParamPlan; 2], EditError> {
        let (out, inputs) = self.targets.widest(METHOD.name, base, Q_AND_V)?;
        let (small, large) = (out.min(inputs), out.max(inputs));
        let sparsity = match (self.very_sparse, self.sparse) {
            (true, _) => Some((small as f64).sqrt()),
            (false, true) => Some(3.0),
            (false, false) => None,
        };
        let pairs = small.div_ceil(self.r);
        let projection = Projection { seed: self.projection_prng_key, r: self.r, pairs, small, large, sparsity };
        let modules: Vec<String> = self.targets.modules(METHOD.name, base, Q_AND_V)?;
        let fixed = |name: &str, shape: &[usize], init: Init| {
            let copies = modules.iter().map(|module| key(module, name)).collect();
            let plan = ParamPlan::new(format!("base_model.{name}"), shape, init).fixed();
            if self.save_projection { plan.copied_to(copies) } else { plan.not_saved() }
        };
        Ok([
            fixed("randlora_A", &[self.r, 1, small], Init::Computed(Box::new(move |_| projection.draw().0))),
            fixed("randlora_B", &[large, pairs, self.r], Init::Computed(Box::new(move |_| projection.draw().1))),
        ])
    }
}

impl Method for RandLoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut shared = Some(self.shared(base)?);
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                if let Some(shared) = shared.take() {
                    plan.add(shared);
                }
                let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
                let (small, pairs) = (out.min(inputs), out.min(inputs).div_ceil(self.r));
                let (lambda, gamma) = match self.init_weights {
                    true => (Init::Zeros, 1.0 / pairs.max(small) as f32),
                    false => (Init::Normal { std: 1.0 }, 1.0 / out.max(inputs) as f32),
                };
                let own = [
                    ParamPlan::new(key(module, "randlora_lambda"), &[self.r, pairs], lambda),
                    ParamPlan::new(key(module, "randlora_gamma"), &[pairs, small], Init::Constant(gamma)),
                ];
                let scale = (self.randlora_alpha / self.r as f64) as f32;
                let part = Weighted { r: self.r, out, inputs, scale, dropout: self.randlora_dropout as f32 };
                plan.on_linear_sharing(weight, part, 0..2, own);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The weighted pairs of one map.
struct Weighted {
    r: usize,
    out: usize,
    inputs: usize,
    scale: f32,
    dropout: f32,
}

impl Weighted {
    /// The change as a product `b a`: `a` `[r n, in]`, `b` `[out, r n]`.
    fn factors(&self, tape: &Tape, values: &[Var]) -> (Var, Var) {
        let [a, b, lambda, gamma] = values else { unreachable!("RandLoRA plans four parameters a map") };
        let (small, large) = (self.out.min(self.inputs), self.out.max(self.inputs));
        let (r, pairs) = (self.r, small.div_ceil(self.r));
        // Entry `k n + j`: rank `k` of pair `j`.
        let (ranks, of_pairs): (Vec<u32>, Vec<u32>) =
            (0..r as u32).flat_map(|k| (0..pairs as u32).map(move |j| (k, j))).unzip();
        let (_, widest) = a.value.rows_cols();
        let a = ops::columns(tape, &ops::reshape(tape, a, &[r, widest]), 0..small);
        let a = ops::scale_rows(tape, &ops::gather_rows(tape, &a, &ranks), lambda);
        let a = ops::multiply(tape, &a, &ops::gather_rows(tape, gamma, &of_pairs));
        // Entry `j r + k`.
        let (rows, all) = (b.value.dim(0), b.value.dim(1) * r);
        let b = ops::columns(tape, &ops::rows(tape, &ops::reshape(tape, b, &[rows, all]), 0..large), 0..pairs * r);
        match small == self.inputs {
            true => (a, b),
            false => (ops::transpose(tape, &b), ops::transpose(tape, &a)),
        }
    }
}

impl Part for Weighted {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let (a, b) = self.factors(&at.cx.tape, at.values);
        LinearEffect::term(LowRank { a, b, scale: self.scale * at.strength, dropout: dropout(at, self.dropout) })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let (a, b) = self.factors(&Tape::off(), &merge.constants());
        Ok(merge.with_product(self.scale, &b.value, &a.value))
    }
}
