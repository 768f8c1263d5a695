//! A model on a task: prompts, requests, scores, one row an example.
//!
//! Examples are worked on in waves, so memory does not grow with their number but for the rows; rows come out in the order
//! of the examples, each as soon as its wave is done.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hone_engine::DType;
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{Hooks, Model};
use sha2::{Digest, Sha256};

use crate::error::EvalError;
use crate::metrics::choice::ChoiceOutcome;
use crate::metrics::{Aggregation, ExampleScore, Kind, Metric, MetricError, RollingOutcome};
use crate::requests::{Encoder, Request};
use crate::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use crate::scorer::{BATCH_TOKENS, Scored, Scorer};
use crate::statistics;
use crate::task::data::hex;
use crate::task::{Item, PromptOptions, Prompts, Question, Task};

/// Examples of a wave: scored together, and as many prompts generated together. Draws of a sampled generation depend on it,
/// so it is no setting.
const WAVE: usize = 64;

/// Longest continuation of a task that does not say.
const MAX_GEN_TOKS: usize = 256;

/// Resamples of a BLEU's standard error; other bootstraps take [`EvalOptions::bootstrap_iterations`].
const BLEU_ITERATIONS: usize = 100;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Only the first examples.
    pub limit: Option<usize>,
    /// Shots instead of the task's own number (a task that says 0 keeps 0).
    pub num_fewshot: Option<usize>,
    /// Prompts go through the model's chat template.
    pub chat_template: bool,
    /// With the chat template, shots are turns of their own.
    pub fewshot_as_multiturn: bool,
    /// A system message before everything.
    pub system_instruction: Option<String>,
    /// Tokens of a batch. Never changes a score.
    pub batch_tokens: usize,
    /// Seed of the shots and of sampled generations.
    pub seed: u64,
    /// A shorter length than the model's own.
    pub max_length: Option<usize>,
    /// Resamples of standard errors that have no formula.
    pub bootstrap_iterations: usize,
    /// The edit's name, for the scorecard.
    pub edit: Option<String>,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            limit: None,
            num_fewshot: None,
            chat_template: false,
            fewshot_as_multiturn: true,
            system_instruction: None,
            batch_tokens: BATCH_TOKENS,
            seed: 1234,
            max_length: None,
            bootstrap_iterations: 100_000,
            edit: None,
        }
    }
}

/// How far an evaluation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<'a> {
    /// The task.
    pub task: &'a str,
    /// Examples scored.
    pub done: usize,
    /// Examples in all.
    pub total: usize,
}

/// Evaluates a model with its edits on a task. `progress` is called after each batch; setting `stop` ends the evaluation with
/// [`EvalError::Stopped`] before the next.
pub fn evaluate(
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    task: &Task,
    options: &EvalOptions,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
) -> Result<Scorecard, EvalError> {
    let started = Instant::now();
    let mut rows = Vec::new();
    let summary = evaluate_rows(model, hooks, dtype, task, options, progress, stop, &mut |row| {
        rows.push(row);
        Ok(())
    })?;
    let metrics = aggregate(task, &rows, options.bootstrap_iterations);
    let header = ScorecardHeader {
        task: task.name().into(),
        version: task.config.version(),
        task_sha256: task.sha256(),
        model: model.source.reference.clone(),
        model_sha256: model.source.sha256.clone(),
        edit: options.edit.clone(),
        dtype: dtype.to_string(),
        kind: task.kind.name().into(),
        num_fewshot: summary.shots,
        fewshot_seed: options.seed,
        chat_template: options.chat_template,
        main_metric: task.main_metric()?,
        truncated: summary.truncated,
        n: rows.len(),
        metrics,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok(Scorecard { header, rows })
}

/// What an evaluation has to say besides its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Shots before each question.
    pub shots: usize,
    /// Examples whose prompt was cut.
    pub truncated: usize,
}

/// The rows of an evaluation, handed to `sink` in order as they are made.
#[allow(clippy::too_many_arguments)]
pub fn evaluate_rows(
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    task: &Task,
    options: &EvalOptions,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
    sink: &mut dyn FnMut(ScorecardRow) -> Result<(), EvalError>,
) -> Result<Summary, EvalError> {
    let template = match (options.chat_template, &model.template) {
        (false, _) => None,
        (true, Some(template)) => Some(template),
        (true, None) => {
            let problem = format!("{} has no chat template; evaluate without one", model.source.reference);
            return Err(EvalError::TaskFile { file: task.file.clone(), place: "chat_template".into(), problem });
        }
    };
    let prompt_options = PromptOptions {
        num_fewshot: options.num_fewshot,
        seed: options.seed,
        multiturn: options.fewshot_as_multiturn,
        system_instruction: options.system_instruction.clone(),
    };
    let mut prompts = Prompts::new(task, template, &prompt_options)?;
    let encoder = Encoder::new(model, options.max_length)?.behind_virtual_tokens(model, hooks.virtual_tokens())?;
    let scorer = Scorer { model, hooks, dtype, batch_tokens: options.batch_tokens };
    let total = options.limit.unwrap_or(usize::MAX).min(task.docs.len());
    let mut run = Run { task, scorer, encoder, options, progress, stop, total, done: 0, truncated: 0 };
    run.report(0)?;
    for from in (0..total).step_by(WAVE) {
        let items: Vec<Item> = (from..total.min(from + WAVE)).map(|i| prompts.item(i)).collect::<Result<_, _>>()?;
        if from == 0
            && items
                .iter()
                .all(|item| matches!(&item.question, Question::Choices { gold, .. } if gold.indices.is_empty()))
        {
            let problem = "no question names one of its choices as the right one; `doc_to_target` has to give an index \
                           from 0, or a choice's text";
            return Err(EvalError::TaskFile {
                file: task.file.clone(),
                place: "doc_to_target".into(),
                problem: problem.into(),
            });
        }
        let rows = match task.kind {
            Kind::GenerateUntil => run.generated(&items)?,
            _ => run.scored(&items)?,
        };
        run.done = from + items.len();
        rows.into_iter().try_for_each(&mut *sink)?;
    }
    Ok(Summary { shots: prompts.shots(), truncated: run.truncated })
}

/// An evaluation under way.
struct Run<'a, 'p> {
    task: &'a Task,
    scorer: Scorer<'a>,
    encoder: Encoder<'a>,
    options: &'a EvalOptions,
    progress: &'p mut dyn FnMut(&Progress<'_>),
    stop: &'a AtomicBool,
    total: usize,
    /// Examples of earlier waves.
    done: usize,
    truncated: usize,
}

impl Run<'_, '_> {
    /// Says how far this wave is; an error if the user stops.
    fn report(&mut self, in_wave: usize) -> Result<(), EvalError> {
        let done = (self.done + in_wave).min(self.total);
        (self.progress)(&Progress { task: self.task.name(), done, total: self.total });
        if self.stop.load(Ordering::Relaxed) {
            return Err(EvalError::Stopped { task: self.task.name().into(), done, total: self.total });
        }
        Ok(())
    }

    fn problem(&self, item: &Item, problem: String) -> EvalError {
        EvalError::Request { task: self.task.name().into(), id: item.id.clone(), problem }
    }

    /// Rows of a wave whose answers are log-likelihoods.
    fn scored(&mut self, items: &[Item]) -> Result<Vec<ScorecardRow>, EvalError> {
        // Groups of all items, and how many each item has.
        let mut groups: Vec<Vec<Request>> = Vec::new();
        let mut counts = Vec::with_capacity(items.len());
        for item in items {
            let own = self.groups(item)?;
            self.truncated += usize::from(own.iter().flatten().any(|request| request.truncated));
            counts.push(own.len());
            groups.extend(own);
        }
        // Groups end with an item's last one: so many items are done with that many groups.
        let ends: Vec<usize> = counts
            .iter()
            .scan(0, |end, count| {
                *end += count;
                Some(*end)
            })
            .collect();
        let scorer = self.scorer.clone();
        let mut stopped = None;
        let scored =
            scorer.score(&groups, &mut |done| match self.report(ends.partition_point(|end| *end <= done)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    stopped = Some(error);
                    ControlFlow::Break(())
                }
            })?;
        if let Some(error) = stopped {
            return Err(error);
        }
        let mut rest = scored.as_slice();
        let mut rows = Vec::with_capacity(items.len());
        for (item, count) in items.iter().zip(counts) {
            let (own, left) = rest.split_at(count);
            rest = left;
            if own.iter().flatten().flat_map(|s| &s.log_probs).any(|p| p.is_nan()) {
                let problem = "the model's log-probabilities are not numbers (NaN): its weights or its edit are broken";
                return Err(self.problem(item, problem.into()));
            }
            rows.push(self.scored_row(item, own));
        }
        Ok(rows)
    }

    /// What must be scored for an item: one group of choices, or one group a window of a document.
    fn groups(&self, item: &Item) -> Result<Vec<Vec<Request>>, EvalError> {
        let request = |context: &str, continuation: &str| {
            self.encoder.request(context, continuation)?.map_err(|problem| self.problem(item, problem))
        };
        match &item.question {
            Question::Choices { contexts, continuations, .. } => {
                let mut group = Vec::new();
                for i in 0..contexts.len().max(continuations.len()) {
                    let context = if contexts.len() == 1 { &contexts[0] } else { &contexts[i] };
                    let continuation = if continuations.len() == 1 { &continuations[0] } else { &continuations[i] };
                    group.push(request(context, continuation)?);
                }
                if !self.task.metrics.iter().any(Metric::needs_unconditional) {
                    return Ok(vec![group]);
                }
                let alone = continuations.iter().map(|c| request("", c)).collect::<Result<_, _>>()?;
                Ok(vec![group, alone])
            }
            Question::Target { context, continuation } => Ok(vec![vec![request(context, continuation)?]]),
            Question::Document { text, .. } => {
                Ok(self.encoder.document(text)?.into_iter().map(|window| vec![window]).collect())
            }
            Question::Generate { .. } => Ok(Vec::new()),
        }
    }

    fn scored_row(&self, item: &Item, groups: &[Vec<Scored>]) -> ScorecardRow {
        let task = self.task;
        let mut row = empty_row(item);
        match &item.question {
            Question::Choices { choices, gold, .. } => {
                let [scored, rest @ ..] = groups else { return row };
                let log_likelihoods: Vec<f64> = scored.iter().map(Scored::log_likelihood).collect();
                let is_greedy: Vec<bool> = scored.iter().map(|s| s.is_greedy).collect();
                let unconditional: Option<Vec<f64>> =
                    rest.first().map(|alone| alone.iter().map(Scored::log_likelihood).collect());
                let outcome = ChoiceOutcome {
                    choices,
                    log_likelihoods: &log_likelihoods,
                    is_greedy: &is_greedy,
                    unconditional: unconditional.as_deref(),
                    gold,
                };
                row.choices = (choices.iter().zip(scored)).map(|(text, scored)| choice_score(text, scored)).collect();
                let scores: Vec<_> =
                    task.columns().map(|(name, metric, _)| (name, metric.of_choices(&outcome))).collect();
                let main = task.main_metric().unwrap_or_default();
                let metric = task.columns().find(|(name, ..)| *name == main).map(|(_, metric, _)| metric);
                let picked = metric.and_then(|metric| metric.picked(&outcome));
                row.answer = picked.map_or_else(String::new, |i| choices[i].clone());
                self.fill(&mut row, scores);
            }
            Question::Target { continuation, .. } => {
                let Some(scored) = groups.first().and_then(|group| group.first()) else { return row };
                row.target_score = Some(choice_score(continuation, scored));
                row.answer = if scored.is_greedy { continuation.clone() } else { String::new() };
                let of = |metric: &Metric| metric.of_target(scored.log_likelihood(), scored.is_greedy, continuation);
                let scores = task.columns().map(|(name, metric, _)| (name, of(metric))).collect();
                self.fill(&mut row, scores);
            }
            Question::Document { text, words, bytes } => {
                let windows = groups.iter().flatten();
                let log_likelihood = windows.clone().map(Scored::log_likelihood).sum();
                let tokens = windows.clone().map(|s| s.log_probs.len()).sum();
                let is_greedy = windows.clone().all(|s| s.is_greedy);
                // The document is the row's target already.
                row.target_score = Some(ChoiceScore { text: String::new(), log_likelihood, tokens, is_greedy });
                row.target = excerpt(text);
                let outcome = RollingOutcome { log_likelihood, words: *words, bytes: *bytes };
                let scores = task.columns().map(|(name, metric, _)| (name, metric.of_rolling(outcome))).collect();
                self.fill(&mut row, scores);
            }
            Question::Generate { .. } => {}
        }
        row
    }

    /// Rows of a wave whose answers are written by the model.
    fn generated(&mut self, items: &[Item]) -> Result<Vec<ScorecardRow>, EvalError> {
        let task = self.task;
        let settings = &task.config.generation_kwargs;
        let room = settings.max_gen_toks.unwrap_or(MAX_GEN_TOKS);
        let mut prompts = Vec::with_capacity(items.len());
        for item in items {
            let Question::Generate { context, .. } = &item.question else { continue };
            let (ids, cut) = self.encoder.prompt(context, room)?.map_err(|problem| self.problem(item, problem))?;
            self.truncated += usize::from(cut);
            prompts.push(ids);
        }
        let stops = self.stops()?;
        let samples = settings.do_sample == Some(true);
        let mut config = GenerationConfig {
            temperature: if samples { settings.temperature.unwrap_or(1.0) } else { 0.0 },
            top_p: settings.top_p.unwrap_or(1.0),
            top_k: settings.top_k.unwrap_or(0),
            max_new_tokens: room,
            stop: stops.clone(),
            ..GenerationConfig::default()
        };
        let mut responses: Vec<Vec<String>> = vec![Vec::new(); items.len()];
        for repeat in 0..task.config.repeats {
            config.seed = self.options.seed.wrapping_add((self.done * task.config.repeats + repeat) as u64);
            let Scorer { model, hooks, dtype, .. } = self.scorer.clone();
            let stop = self.stop;
            let mut go_on = |_: usize, _: &str| !stop.load(Ordering::Relaxed);
            let generations = generate(model, hooks, dtype, &prompts, &config, &mut go_on)?;
            self.report(if repeat + 1 == task.config.repeats { items.len() } else { 0 })?;
            for (responses, generation) in responses.iter_mut().zip(generations) {
                responses.push(cut_at_stops(generation.text, &stops));
            }
        }
        items.iter().zip(responses).map(|(item, responses)| self.generated_row(item, &responses)).collect()
    }

    /// Texts that end a generation: the task's, and the end-of-text token's.
    fn stops(&self) -> Result<Vec<String>, EvalError> {
        let config = &self.task.config;
        let own = config.generation_kwargs.until.as_ref().map(|until| until.to_vec());
        let mut stops = own.unwrap_or_else(|| vec![config.fewshot_delimiter.clone()]);
        let tokenizer = &self.scorer.model.tokenizer;
        if let Some(eos) = tokenizer.eos_id {
            let text = tokenizer.decode(&[eos], false)?;
            if !stops.contains(&text) {
                stops.push(text);
            }
        }
        stops.retain(|stop| !stop.is_empty());
        Ok(stops)
    }

    fn generated_row(&self, item: &Item, responses: &[String]) -> Result<ScorecardRow, EvalError> {
        let Question::Generate { references, .. } = &item.question else { return Ok(empty_row(item)) };
        let wrong = |error: MetricError| self.problem(item, error.to_string());
        let mut row = empty_row(item);
        let mut scores = Vec::new();
        for (name, metric, filter) in self.task.columns() {
            let text = filter.apply(responses).map_err(|error| wrong(error.into()))?;
            scores.push((name, metric.of_text(&text, references).map_err(wrong)?));
        }
        row.answer = responses.first().cloned().unwrap_or_default();
        self.fill(&mut row, scores);
        Ok(row)
    }

    fn fill(&self, row: &mut ScorecardRow, scores: Vec<(String, ExampleScore)>) {
        let main = self.task.main_metric().unwrap_or_default();
        for (name, score) in scores {
            if name == main {
                row.score = score.score;
            }
            row.scores.insert(name.clone(), score.score);
            if !score.parts.is_empty() {
                row.parts.insert(name, score.parts);
            }
        }
    }
}

/// Cuts at the first occurrence of each stop text, one after another.
fn cut_at_stops(mut text: String, stops: &[String]) -> String {
    for stop in stops {
        if let Some(at) = text.find(stop.as_str()) {
            text.truncate(at);
        }
    }
    text
}

fn empty_row(item: &Item) -> ScorecardRow {
    let asked = match &item.question {
        Question::Choices { contexts, continuations, .. } => serde_json::json!([contexts, continuations]),
        Question::Target { context, continuation } => serde_json::json!([context, continuation]),
        Question::Document { text, .. } => serde_json::json!([text]),
        Question::Generate { context, .. } => serde_json::json!([context]),
    };
    ScorecardRow {
        id: item.id.clone(),
        prompt_sha256: hex(&Sha256::digest(asked.to_string())),
        prompt: item.prompt.clone(),
        target: item.target.clone(),
        choices: Vec::new(),
        answer: String::new(),
        target_score: None,
        scores: Default::default(),
        parts: Default::default(),
        score: 0.0,
    }
}

fn choice_score(text: &str, scored: &Scored) -> ChoiceScore {
    ChoiceScore {
        text: text.into(),
        log_likelihood: scored.log_likelihood(),
        tokens: scored.log_probs.len(),
        is_greedy: scored.is_greedy,
    }
}

/// The beginning of a document, for people.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The task's scores from its rows, with standard errors where the harness has them.
pub fn aggregate(task: &Task, rows: &[ScorecardRow], bootstrap_iterations: usize) -> Vec<MetricValue> {
    let value = |(name, metric, _): (String, &Metric, _)| {
        let examples: Vec<ExampleScore> = rows
            .iter()
            .map(|row| ExampleScore {
                score: row.scores.get(&name).copied().unwrap_or(f64::NAN),
                parts: row.parts.get(&name).cloned().unwrap_or_default(),
            })
            .collect();
        let aggregation = metric.aggregation;
        let on = |indices: &[usize]| aggregation.value(indices.iter().map(|&i| &examples[i]));
        let bootstrap = |iterations| statistics::bootstrap_stderr(examples.len(), iterations, &on);
        let stderr = match (aggregation, metric.name.as_str()) {
            (_, "brier_score") => None,
            (Aggregation::Mean, _) => statistics::mean_stderr(&examples.iter().map(|e| e.score).collect::<Vec<_>>()),
            (Aggregation::F1 | Aggregation::MatthewsCorrcoef, _) | (_, "perplexity") => bootstrap(bootstrap_iterations),
            (_, "bleu") => bootstrap(bootstrap_iterations.min(BLEU_ITERATIONS)),
            _ => None,
        };
        MetricValue {
            value: aggregation.value(examples.iter()),
            stderr: stderr.filter(|s| s.is_finite()),
            higher_is_better: metric.higher_is_better,
            aggregation,
            is_share: metric.is_share(),
            name,
        }
    };
    task.columns().map(value).collect()
}
