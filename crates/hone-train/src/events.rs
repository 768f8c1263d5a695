//! What a run says while it runs, as plain data. The binary draws its progress from it; `--json` prints it.

use std::path::PathBuf;

use hone_data::PreviewExample;
use serde::Serialize;

use crate::estimate::Estimate;
use crate::invariants::Check;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Something to be said aloud.
    Note {
        /// The text.
        message: String,
    },
    /// Something to look at.
    Warning {
        /// The text.
        message: String,
    },
    /// Some examples with their trained tokens marked.
    Examples {
        /// The examples.
        examples: Vec<PreviewExample>,
    },
    /// A check of the run by itself.
    Checked(Check),
    /// What lies ahead, before the first step.
    Estimate(Estimate),
    /// A step is done.
    Step(StepMetrics),
    /// A validation is done.
    Validation(ValidationMetrics),
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: usize,
        /// Its directory.
        path: PathBuf,
        /// Whether it is the best so far.
        best: bool,
    },
    /// No better validation loss for too long.
    StoppedEarly {
        /// Steps done.
        step: usize,
        /// The best one.
        best_step: usize,
    },
    /// The run was asked to stop and has saved.
    Interrupted {
        /// Steps done.
        step: usize,
    },
}

/// One optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean loss of the step's trained tokens, in nats: their cross-entropy, or what `train.compatibility` makes of them.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Norm of all gradients, before clipping.
    pub gradient_norm: f64,
    /// Tokens read.
    pub tokens: usize,
    /// Trained tokens among them.
    pub trained_tokens: usize,
    /// Share of those that learned from the old version, under `train.compatibility`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_share: Option<f64>,
    /// How far answers under other wordings than a row's first are from the one under that, a token, in nats; under
    /// `train.wording_consistency`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wordings_apart: Option<f64>,
    /// Wall time of the step.
    pub seconds: f64,
    /// Tokens read a second.
    pub tokens_per_second: f64,
    /// Wall time left, from the mean speed so far.
    pub seconds_left: f64,
    /// Largest memory the process has held so far, in bytes.
    pub peak_memory: u64,
}

/// One validation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValidationMetrics {
    /// Steps done.
    pub step: usize,
    /// Mean loss of all trained tokens of the validation examples, in nats.
    pub validation_loss: f64,
    /// Share of those tokens that were the most likely ones.
    pub token_accuracy: f64,
    /// How many they are.
    pub trained_tokens: usize,
    /// Wall time.
    pub seconds: f64,
    /// Whether no earlier validation was as good.
    pub best: bool,
}
