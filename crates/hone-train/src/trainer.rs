//! The one training loop.
//!
//! A step reads its rows (a function of its number), runs forward and backward over their micro-batches with the loss
//! divided by the step's trained tokens, clips, updates. Validation, checkpoints and events hang on the step's number. The
//! loop knows no method, no model family and no terminal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_data::FlatBatch;
use hone_edit::EditStack;
use hone_edit::training::Moment;
use hone_engine::{DType, Gradients, RandomKey};
use hone_model::{Context, Hooks, Model};
use serde::Serialize;

use crate::checkpoint::{Best, Checkpoints, Identity, Progress, Start};
use crate::compatibility::Versions;
use crate::error::TrainError;
use crate::events::{Event, StepMetrics, ValidationMetrics};
use crate::invariants::Record;
use crate::machine::peak_memory;
use crate::metrics::MetricsFile;
use crate::objective::next_token_loss;
use crate::optimizer::Optimizer;
use crate::prepare::PreparedData;
use crate::recipe::Recipe;
use crate::rules::Rules;
use crate::schedule::LearningRate;
use crate::step::{self, Objective, Pass, Sums};

/// Receives what a run says.
pub type Listener<'a> = &'a mut dyn FnMut(Event);

/// Validations and checkpoints a run has where the recipe does not say.
const TIMES_A_RUN: usize = 10;

/// A run.
pub struct Trainer {
    pub(crate) model: Arc<Model>,
    pub(crate) stack: EditStack,
    pub(crate) data: Arc<PreparedData>,
    pub(crate) versions: Option<Versions>,
    /// The resolved recipe.
    pub(crate) recipe: Recipe,
    pub(crate) run: PathBuf,
    pub(crate) optimizer: Optimizer,
    pub(crate) rules: Rules,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) identity: Identity,
    pub(crate) record: Record,
    pub(crate) progress: Progress,
    pub(crate) total_steps: usize,
    pub(crate) learning_rate: LearningRate,
    pub(crate) dtype: DType,
    pub(crate) metrics: Option<MetricsFile>,
    pub(crate) saved_step: Option<usize>,
    /// What was noticed before there was anybody to tell.
    pub(crate) warnings: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Why it ended.
    pub reason: EndReason,
    /// Optimiser steps done.
    pub steps: usize,
    /// Where the adapter is.
    pub adapter: PathBuf,
    /// The step whose values it holds: the best validation's, or the last. 0 where the run was stopped before its first
    /// step; there is no adapter then.
    pub adapter_step: usize,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// The best validation.
    pub best: Option<Best>,
    /// Trained parameters: what methods are compared at an equal number of.
    pub trained_parameters: usize,
    /// Tokens read.
    pub tokens: u64,
    /// Wall seconds of training and validation, earlier parts of a resumed run included.
    pub seconds: f64,
    /// Processor seconds of the same by all threads, where the system tells them: they depend less on what else the machine does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Largest memory the process has held, in bytes.
    pub peak_memory: u64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// All steps were done.
    Finished,
    /// The validation loss got no better.
    StoppedEarly,
    /// It was asked to stop; `--resume` continues it.
    Interrupted,
}

impl Trainer {
    /// Trains until the end, an early stop, or `stop`. Whatever happens, what is on the disk is whole: an error leaves the
    /// last good checkpoint.
    pub fn run(mut self, stop: &AtomicBool, on: Listener) -> Result<Outcome, TrainError> {
        self.begin(stop, on)?;
        let mut reason = EndReason::Finished;
        while self.progress.step < self.total_steps {
            if stop.load(Ordering::Relaxed) {
                reason = EndReason::Interrupted;
                break;
            }
            let metrics = self.step()?;
            self.log("train", &metrics, metrics.step.is_multiple_of(self.recipe.train.log_every))?;
            on(Event::Step(metrics));
            if self.validation_is_due(self.progress.step) {
                self.validate(stop, on)?;
                if self.is_stale() {
                    reason = EndReason::StoppedEarly;
                    break;
                }
            }
            if self.checkpoint_is_due(self.progress.step) {
                self.save(on)?;
            }
        }
        self.end(reason, stop, on)
    }

    /// One optimiser step.
    pub(crate) fn step(&mut self) -> Result<StepMetrics, TrainError> {
        let start = Start::now();
        let step = self.progress.step;
        let batches = self.data.micro_batches(step);
        let trained_tokens: usize = batches.iter().map(|b| b.rows.len()).sum();
        let tokens: usize = batches.iter().map(|b| b.ids.len()).sum();

        let key = RandomKey::new(self.recipe.train.seed).named("step").index(step as u64);
        let run = RandomKey::new(self.recipe.train.seed).named("rules");
        let moment = Moment { step, steps: self.total_steps, key: run.index(step as u64), run };
        self.rules.begin(&mut self.stack, &moment);
        let hooks = self.stack.hooks(self.dtype);
        let (sums, mut gradients) = self.gradients(&hooks, &batches, trained_tokens as f32, Some(key));
        let divergence = self.rules.wants_divergence().then(|| {
            let pass = self.pass(&hooks, Some(key));
            step::divergence_gradients(&self.model, &pass, &batches, trained_tokens as f32)
        });
        drop(hooks); // it shares the masters, which are about to be written
        self.rules.gradients(&self.stack, &mut gradients, divergence.as_ref(), &moment);
        let loss = sums.loss / trained_tokens as f64;
        self.check_finite("loss", loss)?;
        let learning_rate = self.learning_rate.at(step);
        let own = (learning_rate, self.recipe.train.max_grad_norm);
        let norm = self.rules.update(&mut self.stack, &mut gradients, own, &moment).unwrap_or_else(|| {
            step::update(&mut self.stack, &mut self.optimizer, &gradients, &self.recipe.train, learning_rate)
        });
        // Nothing was updated by such a norm.
        self.check_finite("gradient norm", norm)?;
        self.rules.after(&mut self.stack, &mut gradients, &moment);

        self.progress.step += 1;
        self.progress.tokens += tokens as u64;
        let seconds = self.progress.add(start);
        self.progress.last_loss = Some(loss);
        let left = (self.total_steps - self.progress.step) as f64;
        Ok(StepMetrics {
            step: self.progress.step,
            steps: self.total_steps,
            epoch: self.progress.step as f64 / self.data.plan.steps_per_epoch() as f64,
            loss,
            learning_rate,
            gradient_norm: norm,
            tokens,
            trained_tokens,
            wordings_apart: (sums.reworded > 0).then(|| sums.apart / sums.reworded as f64),
            old_share: self.versions.as_ref().map(|_| sums.of_old as f64 / trained_tokens as f64),
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            seconds_left: left * self.progress.seconds / self.progress.step as f64,
            peak_memory: peak_memory(),
        })
    }

    /// How a forward and backward pass of this run is made. Without a key there is no training noise (dropout).
    fn pass<'a>(&'a self, hooks: &'a Arc<dyn Hooks>, key: Option<RandomKey>) -> Pass<'a> {
        let wordings = self.recipe.train.wording_consistency;
        let objective = match (&self.versions, wordings, self.rules.consistency()) {
            (Some(versions), ..) => Objective::Versions(versions),
            (None, Some(weight), _) => Objective::Wordings(weight as f32),
            // Without noise two passes are the same, and the second adds nothing but its time, which estimates are about.
            (None, None, Some(weight)) => Objective::TwoPasses(weight),
            (None, None, None) => Objective::NextToken,
        };
        Pass { hooks, dtype: self.dtype, recompute: self.recipe.train.recompute, key, objective }
    }

    /// Forward and backward of a step's micro-batches: the sum of its loss over the trained tokens, and the gradients of that sum
    /// divided by `normaliser`.
    pub(crate) fn gradients(
        &self,
        hooks: &Arc<dyn Hooks>,
        batches: &[FlatBatch],
        normaliser: f32,
        key: Option<RandomKey>,
    ) -> (Sums, Gradients) {
        step::gradients(&self.model, &self.pass(hooks, key), batches, normaliser)
    }

    /// The cross-entropy of the validation examples. A better loss than ever is a checkpoint to keep. A validation that
    /// is asked to stop never happened.
    pub(crate) fn validate(&mut self, stop: &AtomicBool, on: Listener) -> Result<(), TrainError> {
        let batches = self.data.validation_batches();
        if batches.is_empty() {
            return Ok(());
        }
        let start = Start::now();
        let cx = Context::inference(self.stack.hooks(self.dtype), self.dtype);
        let (mut nll_sum, mut correct, mut trained_tokens) = (0.0, 0, 0);
        for batch in &batches {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let out = next_token_loss(&self.model, &cx, batch, 1.0);
            nll_sum += out.nll_sum;
            correct += out.correct;
            trained_tokens += batch.rows.len();
        }
        drop(cx);
        let (step, validation_loss) = (self.progress.step, nll_sum / trained_tokens as f64);
        self.check_finite("validation loss", validation_loss)?;
        self.progress.validated = Some(step);
        // The untrained model is measured too, but it is nothing to keep.
        let best = step > 0 && self.progress.best.is_none_or(|b| validation_loss < b.validation_loss);
        if best {
            self.progress.best = Some(Best { step, validation_loss });
            self.progress.validations_since_best = 0;
        } else if step > 0 {
            self.progress.validations_since_best += 1;
        }
        let seconds = self.progress.add(start);
        let token_accuracy = correct as f64 / trained_tokens as f64;
        let metrics = ValidationMetrics { step, validation_loss, token_accuracy, trained_tokens, seconds, best };
        self.log("validation", &metrics, true)?;
        on(Event::Validation(metrics));
        if best { self.save(on) } else { Ok(()) }
    }

    /// Writes a checkpoint, unless there is one of this step.
    pub(crate) fn save(&mut self, on: Listener) -> Result<(), TrainError> {
        let step = self.progress.step;
        if self.saved_step == Some(step) {
            return Ok(());
        }
        let path =
            self.checkpoints.save(&self.progress, &self.stack, (&self.optimizer, &self.rules), &self.identity)?;
        if self.saved_step.is_none() {
            self.check_state_round_trip(on)?;
        }
        self.saved_step = Some(step);
        on(Event::Saved { step, path, best: self.progress.best.is_some_and(|b| b.step == step) });
        Ok(())
    }

    pub(crate) fn validation_is_due(&self, step: usize) -> bool {
        self.is_due(self.recipe.train.validation_every, step)
    }

    fn checkpoint_is_due(&self, step: usize) -> bool {
        self.is_due(self.recipe.train.save_every, step)
    }

    fn is_due(&self, every: Option<usize>, step: usize) -> bool {
        let every = every.unwrap_or(self.total_steps.div_ceil(TIMES_A_RUN));
        every > 0 && step.is_multiple_of(every)
    }

    fn is_stale(&self) -> bool {
        let patience = self.recipe.train.early_stop_patience;
        patience.is_some_and(|patience| self.progress.validations_since_best >= patience)
    }

    fn log(&mut self, kind: &str, row: &impl Serialize, due: bool) -> Result<(), TrainError> {
        match &mut self.metrics {
            Some(file) if due => file.append(kind, row),
            _ => Ok(()),
        }
    }

    fn check_finite(&self, what: &'static str, value: f64) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        let kept = match self.checkpoints.steps().last() {
            Some(step) => {
                format!("the checkpoint of step {step} is kept in {}", self.checkpoints.path(*step).display())
            }
            None => "no checkpoint was due before".into(),
        };
        Err(TrainError::NotFinite {
            step: self.progress.step + 1,
            what,
            found: value.to_string(),
            learning_rate: self.learning_rate.highest,
            more_precision: if self.dtype == DType::F32 { "" } else { ", or train in `train.dtype: f32`" },
            kept,
        })
    }
}

/// Where a run keeps its adapter.
pub fn adapter_directory(run: &Path) -> PathBuf {
    run.join("adapter")
}
