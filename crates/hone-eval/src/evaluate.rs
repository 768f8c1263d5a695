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

use crate::code::CodeRunner;
use crate::error::EvalError;
use crate::metrics::{Kind, Metric};
use crate::reasoning::{Reasoner, ReasoningConfig};
use crate::requests::{Encoder, Request};
use crate::resume::Sink;
use crate::rows;
use crate::scorecard::{Scorecard, ScorecardHeader, ScorecardRow};
use crate::scorer::{BATCH_TOKENS, Scorer};
use crate::task::{Item, PromptOptions, Prompts, Question, Task};

/// Examples of a wave: scored together, and as many prompts generated together. Draws of a sampled generation depend on it,
/// so it is no setting.
pub(crate) const WAVE: usize = 64;

/// Longest continuation of a task that does not say.
pub(crate) const MAX_GEN_TOKS: usize = 256;

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
    /// What runs programs that the model writes. Without it, tasks that need it are refused.
    pub code: Option<Arc<CodeRunner>>,
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
            code: None,
        }
    }
}

impl EvalOptions {
    /// Whether what the task runs may be run: said before hours of writing it.
    ///
    /// # Errors
    /// The task runs code, and there is nothing to run it.
    pub fn allows_code(&self, task: &Task) -> Result<(), EvalError> {
        match task.runs_code() {
            Some(metric) if self.code.is_none() => {
                Err(EvalError::CodeNotAllowed { task: task.name().into(), metric: metric.name.clone() })
            }
            _ => Ok(()),
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
    let summary =
        evaluate_rows(model, hooks, dtype, task, options, Done::default(), progress, stop, &mut |wave, _| {
            rows.extend(wave);
            Ok(())
        })?;
    let subject = Subject::of(model, dtype);
    let header = header(&subject, task, options, summary, &rows, started.elapsed().as_secs_f64())?;
    Ok(Scorecard { header, rows })
}

/// What answers a task's questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// As the user named it.
    pub model: String,
    /// SHA-256 of its weights; nothing where they are not known.
    pub model_sha256: String,
    /// The type it computes in, or what is known of that.
    pub dtype: String,
}

impl Subject {
    /// A model here.
    pub fn of(model: &Model, dtype: DType) -> Subject {
        let source = &model.source;
        Subject { model: source.reference.clone(), model_sha256: source.sha256.clone(), dtype: dtype.to_string() }
    }
}

/// What a scorecard says before its rows. Of `rows` scores and parts are read.
pub(crate) fn header(
    subject: &Subject,
    task: &Task,
    options: &EvalOptions,
    summary: Summary,
    rows: &[ScorecardRow],
    seconds: f64,
) -> Result<ScorecardHeader, EvalError> {
    Ok(ScorecardHeader {
        task: task.name().into(),
        version: task.config.version(),
        task_sha256: task.sha256(),
        model: subject.model.clone(),
        model_sha256: subject.model_sha256.clone(),
        edit: options.edit.clone(),
        dtype: subject.dtype.clone(),
        kind: task.kind.name().into(),
        num_fewshot: summary.shots,
        fewshot_seed: options.seed,
        chat_template: options.chat_template,
        main_metric: task.main_metric()?,
        truncated: summary.truncated,
        n: rows.len(),
        metrics: rows::aggregate(task, rows, options.bootstrap_iterations),
        seconds,
        variant: task.config.variant.clone(),
        labels: task.config.labels(),
        sensitive: task.config.sensitive,
        identity: None,
    })
}

/// What an evaluation has to say besides its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Shots before each question.
    pub shots: usize,
    /// Examples whose prompt was cut.
    pub truncated: usize,
}

/// How far an evaluation has come: whole waves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Examples, from the first.
    pub examples: usize,
    /// Those among them whose prompt was cut.
    pub truncated: usize,
}

/// The rows of an evaluation behind those that are `done`, handed to `sink` wave by wave in order, with how far that is.
#[allow(clippy::too_many_arguments)]
pub fn evaluate_rows(
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    task: &Task,
    options: &EvalOptions,
    done: Done,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
    sink: &mut Sink<'_>,
) -> Result<Summary, EvalError> {
    options.allows_code(task)?;
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
    let Done { examples: first, truncated } = done;
    (0..first).try_for_each(|index| prompts.skip(index))?;
    let mut run = Run { task, scorer, encoder, options, progress, stop, total, done: first, truncated };
    run.report(0)?;
    for from in (first..total).step_by(WAVE) {
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
        let rows = match (&task.config.reasoning, task.kind) {
            (Some(config), _) => run.reasoned(&items, config)?,
            (None, Kind::GenerateUntil) => run.generated(&items)?,
            (None, _) => run.scored(&items)?,
        };
        run.done = from + items.len();
        sink(rows, Done { examples: run.done, truncated: run.truncated })?;
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
            rows.push(rows::of_scores(self.task, item, own));
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
        items
            .iter()
            .zip(responses)
            .map(|(item, responses)| rows::of_texts(self.task, item, &responses, self.options.code.as_deref()))
            .collect()
    }

    /// Rows of a wave whose answers come after a written reasoning.
    fn reasoned(&mut self, items: &[Item], config: &ReasoningConfig) -> Result<Vec<ScorecardRow>, EvalError> {
        let answer_stops = self.stops()?;
        let scorer = self.scorer.clone();
        // The reasoner reads with the run's encoder while the run says how far it is.
        let Run { task, encoder, progress, stop, done, total, truncated, .. } = self;
        let (task, earlier, total) = (*task, *done, *total);
        let mut report = |in_wave: usize| {
            let done = (earlier + in_wave).min(total);
            progress(&Progress { task: task.name(), done, total });
            match stop.load(Ordering::Relaxed) {
                true => Err(EvalError::Stopped { task: task.name().into(), done, total }),
                false => Ok(()),
            }
        };
        let reasoner = Reasoner { task, config, scorer, encoder, answer_stops };
        let (rows, cut) = reasoner.rows(items, &mut report)?;
        *truncated += cut;
        Ok(rows)
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
}

/// Cuts at the first occurrence of each stop text, one after another.
pub(crate) fn cut_at_stops(mut text: String, stops: &[String]) -> String {
    for stop in stops {
        if let Some(at) = text.find(stop.as_str()) {
            text.truncate(at);
        }
    }
    text
}
