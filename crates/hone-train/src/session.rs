//! How a run begins and ends, around the loop of [`crate::trainer`]: files, checks, the estimate, the adapter.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_data::config::TrainOn;
use hone_data::{Body, Codec, EncodeOptions, FlatBatch, StepBatch, preview};
use hone_edit::merge::{Hooked, Merger, logit_difference};
use hone_edit::{Base, EditError, EditStack, atomic, save_edit};
use hone_engine::{DType, WeightRef};
use hone_model::tokenizer::Tokenizer;
use hone_model::{Model, ModelError, NoHooks, TokenBatch};

use crate::checkpoint::{Checkpoints, Progress};
use crate::compatibility::{Models, Versions};
use crate::error::{TrainError, io_error};
use crate::estimate::{Estimate, VirtualRows, time_a_pass, workload};
use crate::events::Event;
use crate::identity::identity;
use crate::invariants::{Check, Record, data, edit, numeric};
use crate::machine::peak_memory;
use crate::metrics::MetricsFile;
use crate::optimizer::Optimizer;
use crate::prepare::{PreparedData, recipe_codec};
use crate::provenance::Provenance;
use crate::recipe::{Precision, Recipe};
use crate::rules::Rules;
use crate::schedule::LearningRate;
use crate::trainer::{EndReason, Listener, Outcome, Trainer, adapter_directory};
use crate::wordings;

/// Examples shown with their trained tokens marked.
const SHOWN: usize = 3;
/// Conversations whose text is compared with their tokens.
const CONVERSATIONS: usize = 8;
/// Tokens over which logits are compared.
const COMPARED_TOKENS: usize = 256;

/// Whether a run starts or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the first step; the run's directory must not hold another run.
    Fresh,
    /// From the last checkpoint (from the first step where there is none).
    Resume,
}

impl Trainer {
    /// A run of `recipe` on `data` in the directory `run`. Exactly one edit of the stack is trained.
    pub fn new(
        models: impl Into<Models>,
        stack: EditStack,
        data: Arc<PreparedData>,
        recipe: &Recipe,
        run: &Path,
        start: Start,
    ) -> Result<Trainer, TrainError> {
        let (recipe, models) = (recipe.resolved()?, models.into());
        if stack.entries.iter().filter(|e| e.trained).count() != 1 || stack.trained_count() == 0 {
            return Err(TrainError::Setup {
                what: "exactly one edit of the stack has to be trained".into(),
                next: "mark one as trained".into(),
            });
        }
        check_dtype(&models.model, recipe.train.dtype)?;
        let (rules, versions) = (Rules::of(&stack), Versions::read(&recipe, &models, &data)?);
        let own = match (&versions, recipe.train.wording_consistency) {
            (Some(_), _) => Some("compatibility"),
            (None, Some(_)) => Some("wording_consistency"),
            (None, None) => None,
        };
        if recipe.train.wording_consistency.is_some() {
            wordings::check(&data)?;
        }
        if let (Some(key), Some(_)) = (own, rules.consistency()) {
            return Err(TrainError::Setup {
                what: format!(
                    "`{}` compares two passes of each batch, for which `train.{key}` has no place",
                    recipe.method.word()
                ),
                next: "leave that out (`method.consistency_weight: 0`), or take another method".into(),
            });
        }
        std::fs::create_dir_all(run).map_err(io_error(run))?;
        let checkpoints = Checkpoints::new(run)?;
        if start == Start::Fresh && (!checkpoints.steps().is_empty() || run.join(crate::metrics::FILE).exists()) {
            return Err(TrainError::Setup {
                what: format!("{} already holds a run", run.display()),
                next: "continue it with `--resume`, or choose another `--out`".into(),
            });
        }
        let total_steps = recipe.train.total_steps(data.plan.rows_per_epoch());
        let mut trainer = Trainer {
            optimizer: Optimizer::new(&recipe.train, &stack),
            identity: identity(&recipe, &models.model, &data, versions.as_ref()),
            record: Record::new(run),
            progress: Progress::default(),
            learning_rate: LearningRate::new(&recipe.train, total_steps),
            dtype: DType::from(recipe.train.dtype),
            run: run.to_path_buf(),
            metrics: None,
            saved_step: None,
            warnings: versions.as_ref().map_or_else(Vec::new, |versions| versions.warnings.clone()),
            model: models.model,
            stack,
            rules,
            versions,
            data,
            recipe,
            checkpoints,
            total_steps,
        };
        match (start, trainer.checkpoints.steps().last()) {
            (Start::Fresh, _) => {}
            (Start::Resume, Some(&step)) => trainer.resume(step)?,
            (Start::Resume, None) => {
                let message = format!("there is no checkpoint in {}: starting from the first step", run.display());
                trainer.warnings.push(message);
            }
        }
        Ok(trainer)
    }

    /// Optimiser steps of the whole run, and those done.
    pub fn steps(&self) -> (usize, usize) {
        (self.total_steps, self.progress.step)
    }

    fn resume(&mut self, step: usize) -> Result<(), TrainError> {
        let memory = (&mut self.optimizer, &mut self.rules);
        let loaded = self.checkpoints.load(step, &mut self.stack, memory, &self.identity)?;
        self.progress = loaded.0;
        self.warnings.extend(loaded.1);
        self.saved_step = Some(step);
        Ok(())
    }

    /// Everything before the first step.
    pub(crate) fn begin(&mut self, stop: &AtomicBool, on: Listener) -> Result<(), TrainError> {
        for message in self.stack.warnings().map(str::to_string).chain(std::mem::take(&mut self.warnings)) {
            on(Event::Warning { message });
        }
        for message in self.data.tokenised.report.notes.clone() {
            on(Event::Note { message });
        }
        atomic::write_file(&self.run.join("recipe.yaml"), self.recipe.to_yaml()?.as_bytes())?;
        let (recipe, model, versions) = (&self.recipe, &self.model, self.versions.as_ref());
        Provenance::new(recipe, model, &self.data, versions, self.progress.step)?.write(&self.run)?;
        self.metrics = Some(MetricsFile::open(&self.run, self.progress.step)?);
        self.check_data(on)?;
        self.check_numbers(on)?;
        if self.progress.step < self.total_steps {
            let estimate = self.estimate();
            let message = estimate.memory_warning();
            on(Event::Estimate(estimate));
            message.into_iter().for_each(|message| on(Event::Warning { message }));
        }
        self.model.release_pages();
        // The base model's own loss is the first point of the curve; a run that was stopped in a validation makes it up.
        let step = self.progress.step;
        let owed = step == 0 || (self.validation_is_due(step) && self.progress.validated != Some(step));
        if owed { self.validate(stop, on) } else { Ok(()) }
    }

    /// Everything after the last step: a last validation and checkpoint, the adapter, the checks of it.
    pub(crate) fn end(
        &mut self,
        mut reason: EndReason,
        stop: &AtomicBool,
        on: Listener,
    ) -> Result<Outcome, TrainError> {
        let step = self.progress.step;
        if reason == EndReason::Finished && self.progress.validated != Some(step) {
            self.validate(stop, on)?;
            let validates = !self.data.tokenised.validation.is_empty();
            if validates && self.progress.validated != Some(step) {
                reason = EndReason::Interrupted;
            }
        }
        if step > 0 {
            self.save(on)?;
        }
        match reason {
            EndReason::Finished => {}
            EndReason::StoppedEarly => {
                let best_step = self.progress.best.map_or(step, |b| b.step);
                on(Event::StoppedEarly { step, best_step });
            }
            EndReason::Interrupted => on(Event::Interrupted { step }),
        }
        let adapter_step = self.progress.best.map_or(step, |b| b.step);
        if adapter_step != step {
            self.checkpoints.load_params(adapter_step, &mut self.stack)?;
        }
        let adapter = adapter_directory(&self.run);
        // Finished, an edit may be something else: a prompt without the map it came out of.
        let trained_parameters = self.stack.trained_count();
        if adapter_step > 0 {
            self.finish_edits()?;
            self.save_adapter(&adapter)?;
            self.check_adapter(&adapter, on)?;
        }
        Ok(Outcome {
            reason,
            steps: step,
            adapter,
            adapter_step,
            last_loss: self.progress.last_loss,
            best: self.progress.best,
            trained_parameters,
            tokens: self.progress.tokens,
            seconds: self.progress.seconds,
            cpu_seconds: Some(self.progress.cpu_seconds).filter(|seconds| *seconds > 0.0),
            peak_memory: peak_memory(),
        })
    }

    /// The trained edits as they are used from now on.
    fn finish_edits(&mut self) -> Result<(), TrainError> {
        let base = Base::of(&self.model);
        for entry in self.stack.entries.iter_mut().filter(|e| e.trained) {
            entry.edit = entry.edit.method.clone().finished(entry.edit.clone(), &base)?;
        }
        Ok(())
    }

    fn save_adapter(&self, adapter: &Path) -> Result<(), TrainError> {
        for entry in self.stack.entries.iter().filter(|e| e.trained) {
            save_edit(&entry.edit, adapter)?;
        }
        Ok(())
    }

    fn report(&mut self, check: Check, on: Listener) -> Result<(), TrainError> {
        on(Event::Checked(check.clone()));
        self.record.add(check)
    }

    fn check_data(&mut self, on: Listener) -> Result<(), TrainError> {
        let (data, model) = (self.data.clone(), self.model.clone());
        let codec = recipe_codec(&self.recipe, &model)?;
        let options = EncodeOptions::new(&self.recipe.data, &codec)?;
        self.record.examples = preview(&data.loaded.train, SHOWN, &codec, &options)?;
        on(Event::Examples { examples: self.record.examples.clone() });
        let examples = &data.tokenised.train;
        let running_text = data.loaded.train.iter().all(|e| matches!(e.body, Body::Text(_)));
        let exempt = match self.recipe.data.train_on {
            Some(TrainOn::All) => Some("the recipe says `train_on: all`"),
            None if running_text => Some("the data is running text, all of which is trained"),
            _ => None,
        };
        self.report(data::trained_share(examples, exempt), on)?;
        let conversation = |e: &hone_data::Example| match &e.body {
            Body::Conversation { messages, variables } => codec.render_chat(messages, variables, false).ok(),
            _ => None,
        };
        let rendered: Vec<String> = data.loaded.train.iter().filter_map(conversation).take(CONVERSATIONS).collect();
        let encode = |text: &str| model.tokenizer.encode(text, false).map(|e| e.ids).map_err(|e| e.to_string());
        let decode = |ids: &[u32]| decode_by_runs(&model.tokenizer, ids).map_err(|e| e.to_string());
        self.report(data::chat_text(&rendered, &encode, &decode), on)?;
        let stops = running_text.then_some("running text has no turns");
        self.report(data::end_of_turn_trained(examples, codec.end_of_turn_ids(), stops), on)
    }

    fn check_numbers(&mut self, on: Listener) -> Result<(), TrainError> {
        let data = self.data.clone();
        let hooks = self.stack.hooks(self.dtype);
        let run = |batches: &[FlatBatch], normaliser: f32| {
            let (sums, gradients) = self.gradients(&hooks, batches, normaliser, None);
            let of = |(id, param): (_, &hone_edit::Param)| {
                let none = || hone_engine::Tensor::zeros(param.value.dims(), DType::F32);
                gradients.param(id).cloned().unwrap_or_else(none)
            };
            numeric::StepResult { loss_sum: sums.loss, gradients: self.stack.trained_params().map(of).collect() }
        };
        let checks = numeric::check(&numeric::few(&data.tokenised.train), self.dtype, &run);
        drop(hooks);
        checks.into_iter().try_for_each(|check| self.report(check, on))
    }

    pub(crate) fn check_state_round_trip(&mut self, on: Listener) -> Result<(), TrainError> {
        let (mut stack, mut optimizer) = (self.stack.clone(), Optimizer::new(&self.recipe.train, &self.stack));
        let mut rules = Rules::of(&stack);
        self.checkpoints.load(self.progress.step, &mut stack, (&mut optimizer, &mut rules), &self.identity)?;
        let check = edit::state_round_trip((&self.stack, &self.optimizer), (&stack, &optimizer));
        self.report(check, on)
    }

    fn check_adapter(&mut self, adapter: &Path, on: Listener) -> Result<(), TrainError> {
        let base = Base::of(&self.model);
        let trained = EditStack {
            entries: self.stack.entries.iter().filter(|e| e.trained).cloned().collect(),
            ..EditStack::default()
        };
        self.report(edit::adapter_loads(adapter, &base, &trained), on)?;
        let batches = [self.compared_tokens()];
        let decoder = &self.model.decoder.clone();
        let tuned: Hooked = (decoder, trained.hooks(self.dtype));
        let changed = logit_difference(&(decoder, Arc::new(NoHooks)), &tuned, self.dtype, &batches);
        self.report(edit::changes_the_model(&changed), on)?;
        let skipped = |why: String| Check::skipped("merge_difference", why, "merged and unmerged logits nearly equal");
        let merged = match Merger::new(&trained, &base) {
            Ok(_) if base.is_quantised() => {
                Err("the base is kept in few bits, and the merged weights would be the whole model".into())
            }
            // Some edits can be merged into one model and not into another: added biases need a place to be.
            Ok(merger) => match merger.decoder(decoder, self.dtype) {
                Err(reason @ EditError::CannotMerge { .. }) => Err(reason.to_string()),
                merged => Ok(Arc::new(merged?)),
            },
            Err(reason) => Err(reason.to_string()),
        };
        let check = match merged {
            Err(why) => skipped(why),
            Ok(merged) => {
                let difference = logit_difference(&tuned, &(&merged, Arc::new(NoHooks)), self.dtype, &batches);
                edit::merge_difference(&difference, self.dtype)
            }
        };
        self.report(check, on)
    }

    /// The first few documents, as many as fit.
    fn compared_tokens(&self) -> TokenBatch {
        let mut batch = TokenBatch::default();
        for example in &self.data.tokenised.train {
            let room = COMPARED_TOKENS - batch.len();
            if room == 0 {
                break;
            }
            batch.push(&example.ids[..example.ids.len().min(room)], None);
        }
        batch
    }

    fn estimate(&self) -> Estimate {
        let examples = &self.data.tokenised.train;
        let (from, to) = (self.progress.step, self.total_steps);
        let hooks = self.stack.hooks(self.dtype);
        let rows = VirtualRows { tokens: hooks.virtual_tokens(), sharing: hooks.virtual_token_sharing() };
        let load = workload(&self.data.plan, examples, from, to, self.data.batch_size, rows);
        let timing = time_a_pass(examples, rows, |batch: &StepBatch| {
            let batch = batch.layout();
            let trained = batch.rows.len() as f32;
            self.gradients(&hooks, &[batch], trained, None);
        });
        let validations = match self.data.tokenised.validation.len() {
            0 => 0,
            _ => usize::from(from == 0) + (from + 1..=to).filter(|s| *s == to || self.validation_is_due(*s)).count(),
        };
        let validation = &self.data.tokenised.validation;
        let virtual_tokens: usize = validation.chunks(self.data.batch_size).map(|batch| rows.before(batch.len())).sum();
        let read = self.data.tokenised.report.validation.tokens + virtual_tokens;
        let validation_tokens = read as u64 * validations as u64;
        let counted = |w: &&hone_edit::base::BaseWeight| {
            w.kind != hone_edit::base::WeightKind::Head || !self.model.spec.tie_word_embeddings
        };
        let base = Base::of(&self.model);
        let size = |w: &hone_edit::base::BaseWeight| w.shape.iter().product::<usize>();
        Estimate {
            steps: to - from,
            epochs: to as f64 / self.data.plan.steps_per_epoch() as f64,
            examples: examples.len(),
            tokens: load.tokens,
            trained_tokens: load.trained_tokens,
            trained_parameters: self.stack.trained_count(),
            model_parameters: base.weights.iter().filter(counted).map(size).sum(),
            model_bytes: base.weights.iter().filter(counted).map(|w| w.bytes() as u64).sum(),
            validations,
            seconds: timing.seconds_for(load.tokens + load.virtual_tokens, validation_tokens),
            tokens_per_second: timing.tokens_per_second(),
            peak_memory: timing.peak_memory(load.largest_batch, self.optimizer.bytes(&self.stack)),
            available_memory: timing.available_memory(),
        }
    }
}

/// Text of ids, what lies between special tokens on its own: SentencePiece tokenizers put a space before each such run,
/// and take it away again only from what is decoded alone.
fn decode_by_runs(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, ModelError> {
    let runs = ids.chunk_by(|a, b| tokenizer.is_special(*a) == tokenizer.is_special(*b));
    runs.map(|run| tokenizer.decode(run, false)).collect()
}

/// The model has to be loaded in the type it is trained in.
pub(crate) fn check_dtype(model: &Model, wanted: Precision) -> Result<(), TrainError> {
    let WeightRef::Frozen(weight) = &model.decoder.embed_tokens else { return Ok(()) };
    match weight.dtype() {
        Some(dtype) if dtype != DType::from(wanted) => Err(TrainError::Setup {
            what: format!("the model is loaded in {dtype}, the recipe trains in {}", DType::from(wanted)),
            next: "load it in the recipe's `train.dtype`".into(),
        }),
        _ => Ok(()),
    }
}
