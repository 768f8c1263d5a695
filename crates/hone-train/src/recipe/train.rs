//! The `train` part of a recipe.

use hone_edit::Method;
use hone_engine::DType;
use hone_engine::quant::{BlockType, QuantType};
use hone_model::Quantise;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Compatibility;

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Highest learning rate; `lr` for short. By default what the method recommends: 2e-4 for most, 2e-5 for full tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Passes over the data; parts are allowed. By default 1. Either this or `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimiser steps, instead of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Rows (examples, or packed rows) that are computed together.
    pub batch_size: usize,
    /// Batches whose gradients are summed for one optimiser step. The loss is a mean over all their trained tokens.
    pub gradient_accumulation: usize,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// AdamW's decay rates of the two moments.
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    pub eps: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// SGD's momentum.
    pub momentum: f64,
    /// What the learning rate does after the warm-up.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises from 0; by default `warmup_ratio` of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// Gradients are scaled down to this norm; 0 leaves them.
    pub max_grad_norm: f64,
    /// Compute type. What is trained is kept in f32 either way.
    pub dtype: Precision,
    /// Recompute each layer in the backward pass instead of keeping its activations: less memory, a third more time.
    pub recompute: bool,
    /// Seed of first values and dropout (the data's order has its own, `data.seed`).
    pub seed: u64,
    /// Steps between validations; by default ten a run. 0 validates at the end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_every: Option<usize>,
    /// Stop after so many validations in a row without a better loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop_patience: Option<usize>,
    /// Steps between checkpoints; by default ten a run. 0 saves at the end only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every: Option<usize>,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: usize,
    /// Stay compatible with the version before this one; by default the loss is the cross-entropy on the data alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
    /// Weight of how far answers under the wordings of `data.wordings` are from the one under the `prompt_template` (arXiv 2306.11270;
    /// its own: 0.8); by default they are not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wording_consistency: Option<f64>,
}

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    Adamw,
    /// The same with its moments in 8 bits (arXiv 2110.02861): a quarter of the optimiser's memory.
    Adamw8bit,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls to 0 in a straight line.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// A base in few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantize {
    /// QLoRA's 4-bit numbers, the scales in 8 bits: 4.13 bits a number.
    #[serde(rename = "nf4")]
    Nf4,
    /// GGUF's 8-bit blocks: 8.5 bits a number.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// GGUF's plain 4-bit blocks: 4.5 bits a number.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// The blocks of a GGUF file as they are.
    #[serde(rename = "keep")]
    Keep,
}

impl From<Quantize> for Quantise {
    fn from(quantize: Quantize) -> Quantise {
        match quantize {
            Quantize::Nf4 => Quantise::To(QuantType::Nf4 { double: true }),
            Quantize::Q8_0 => Quantise::To(QuantType::Gguf(BlockType::Q8_0)),
            Quantize::Q4_0 => Quantise::To(QuantType::Gguf(BlockType::Q4_0)),
            Quantize::Keep => Quantise::Keep,
        }
    }
}

/// A compute type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit.
    F32,
    /// bfloat16, accumulated in 32-bit.
    Bf16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> DType {
        match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            learning_rate: None,
            epochs: None,
            steps: None,
            batch_size: 8,
            gradient_accumulation: 1,
            optimizer: Optimizer::Adamw,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.9,
            schedule: Schedule::Cosine,
            warmup_steps: None,
            warmup_ratio: 0.03,
            max_grad_norm: 1.0,
            dtype: Precision::Bf16,
            recompute: false,
            seed: 0,
            validation_every: None,
            early_stop_patience: None,
            save_every: None,
            log_every: 1,
            compatibility: None,
            wording_consistency: None,
        }
    }
}

impl TrainConfig {
    /// With the defaults that depend on the method written out.
    pub fn resolved(&self, method: &dyn Method) -> TrainConfig {
        let mut resolved = self.clone();
        resolved.learning_rate.get_or_insert(method.default_learning_rate());
        if resolved.steps.is_none() {
            resolved.epochs.get_or_insert(1.0);
        }
        resolved
    }

    /// Optimiser steps in all, for an epoch of `rows` rows.
    pub fn total_steps(&self, rows: usize) -> usize {
        let a_step = self.batch_size * self.gradient_accumulation;
        let by_epochs = |epochs: f64| (rows.div_ceil(a_step) as f64 * epochs).ceil() as usize;
        self.steps.unwrap_or_else(|| by_epochs(self.epochs.unwrap_or(1.0))).max(1)
    }

    /// Steps of warm-up out of `total`.
    pub fn warmup(&self, total: usize) -> usize {
        self.warmup_steps.unwrap_or((total as f64 * self.warmup_ratio).ceil() as usize)
    }
}
