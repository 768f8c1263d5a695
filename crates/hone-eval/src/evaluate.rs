//! A model on a task: prompts, requests, scores, one row an example.
//!
//! Examples are worked on in waves, and a row comes out as soon as it is made: behind a batch, or where a text ends. So memory
//! does not grow with their number, if whoever takes the rows writes them down. A row does not depend on which others are made
//! with it, so an evaluation that goes on where another was killed ends in the same rows.

mod course;
mod run;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hone_engine::DType;
use hone_model::template::ChatTemplate;
use hone_model::{Hooks, Model};

use crate::code::CodeRunner;
use crate::error::EvalError;
use crate::metrics::Kind;
use crate::requests::Encoder;
use crate::rewards::{self, Rewards};
use crate::route::Route;
use crate::rows;
use crate::scorecard::{Scorecard, ScorecardHeader, ScorecardRow};
use crate::scorer::{BATCH_TOKENS, Scorer};
use crate::tally::Tally;
use crate::task::{Item, PromptOptions, Prompts, Question, Task};
pub(crate) use course::{Course, WAVE, Wave};
pub use course::{Done, Finished, Sink};
use run::Run;
pub(crate) use run::{cut_at_stops, with_end_of_text};

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
    /// What was done with the model, for the scorecard.
    pub edit: Option<Applied>,
    /// What runs programs that the model writes. Without it, tasks that need it are refused.
    pub code: Option<Arc<CodeRunner>>,
    /// Choices are scored by rewards instead of their log-likelihoods.
    pub rewards: Option<Rewards>,
    /// Which of several edits an example is answered with, by a column of its row.
    pub route: Option<Route>,
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
            rewards: None,
            route: None,
        }
    }
}

impl EvalOptions {
    /// Whether the task can be evaluated so: said before hours of doing it.
    ///
    /// # Errors
    /// The task runs code, and there is nothing to run it; it is none that rewards are for; or an example names an edit that there is
    /// not.
    pub fn allow(&self, task: &Task) -> Result<(), EvalError> {
        self.rewards.as_ref().map_or(Ok(()), |rewards| rewards.check(task))?;
        if self.route.is_some() && task.config.reasoning.is_some() {
            let problem = "the stages of a reasoning are not routed to different edits; evaluate each edit on its own";
            return Err(EvalError::TaskFile {
                file: task.file.clone(),
                place: "reasoning".into(),
                problem: problem.into(),
            });
        }
        if let Some(metric) = task.runs_code().filter(|_| self.code.is_none()) {
            return Err(EvalError::CodeNotAllowed { task: task.name().into(), metric: metric.name.clone() });
        }
        // One row after the other, so that memory holds one.
        let routed = |route: &Route| {
            task.docs.iter().take(self.limit.unwrap_or(usize::MAX)).try_for_each(|doc| route.group(&*doc?).map(drop))
        };
        self.route.as_ref().map_or(Ok(()), routed)
    }

    /// The same for a `model` that is loaded.
    ///
    /// # Errors
    /// Those of [`EvalOptions::allow`]; or prompts go through a chat template, and the model has none.
    pub fn allow_with(&self, task: &Task, model: &Model) -> Result<(), EvalError> {
        self.allow(task)?;
        self.template(task, model).map(drop)
    }

    /// The chat template that prompts go through, if they do.
    pub(crate) fn template<'m>(&self, task: &Task, model: &'m Model) -> Result<Option<&'m ChatTemplate>, EvalError> {
        match (self.chat_template, &model.template) {
            (false, _) => Ok(None),
            (true, Some(template)) => Ok(Some(template)),
            (true, None) => {
                let problem = format!("{} has no chat template; evaluate without one", model.source.reference);
                Err(EvalError::TaskFile { file: task.file.clone(), place: "chat_template".into(), problem })
            }
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
    let mut finished = Vec::new();
    let none = Done::default();
    let summary = evaluate_rows(model, hooks, dtype, task, options, none, progress, stop, &mut |examples| {
        finished.extend(examples);
        Ok(())
    })?;
    let rows = in_order(finished);
    let subject = Subject::of(model, dtype);
    let header = header(&subject, task, options, summary, &Tally::of(&rows), started.elapsed().as_secs_f64())?;
    Ok(Scorecard { header, rows })
}

/// The rows of a whole evaluation, in the order of the examples.
pub(crate) fn in_order(mut finished: Vec<Finished>) -> Vec<ScorecardRow> {
    finished.sort_unstable_by_key(|example| example.at);
    finished.into_iter().map(|example| example.row).collect()
}

/// An edit, or several, as a scorecard names them.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Where they lie.
    pub name: String,
    /// SHA-256 of their files; of several, joined by `+`.
    pub sha256: String,
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

/// What a scorecard says before its rows, whose numbers are in `tally`.
pub(crate) fn header(
    subject: &Subject,
    task: &Task,
    options: &EvalOptions,
    summary: Summary,
    tally: &Tally,
    seconds: f64,
) -> Result<ScorecardHeader, EvalError> {
    let (unanswered, first_unanswered) = tally.unanswered();
    Ok(ScorecardHeader {
        task: task.name().into(),
        version: task.config.version(),
        task_sha256: task.sha256(),
        definition: task.definition(),
        data_sha256: Some(task.data_sha256.clone()),
        model: subject.model.clone(),
        model_sha256: subject.model_sha256.clone(),
        edit: options.edit.as_ref().map(|edit| edit.name.clone()),
        edit_sha256: options.edit.as_ref().map(|edit| edit.sha256.clone()),
        dtype: subject.dtype.clone(),
        kind: task.kind.name().into(),
        num_fewshot: summary.shots,
        fewshot_seed: options.seed,
        chat_template: options.chat_template,
        main_metric: task.main_metric()?,
        truncated: summary.truncated,
        unanswered,
        first_unanswered: first_unanswered.map(str::to_owned),
        gold_missing: tally.gold_missing(),
        ratings: tally.ratings().0,
        unrated: tally.ratings().1,
        n: tally.len(),
        metrics: rows::aggregate(task, tally, options.bootstrap_iterations),
        seconds,
        variant: task.config.variant.clone(),
        labels: task.config.labels(),
        sensitive: task.config.sensitive,
        rewards: options.rewards.as_ref().map(Rewards::describe),
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

/// The prompts of an evaluation, through the template if there is one.
pub(crate) fn prompts_of<'a>(
    task: &'a Task,
    options: &EvalOptions,
    template: Option<&'a ChatTemplate>,
) -> Result<Prompts<'a>, EvalError> {
    let prompt_options = PromptOptions {
        num_fewshot: options.num_fewshot,
        seed: options.seed,
        multiturn: options.fewshot_as_multiturn,
        system_instruction: options.system_instruction.clone(),
        whole_turns: options.rewards.is_some(),
        route: options.route.clone(),
    };
    Prompts::new(task, rewards::template_of(options.rewards.as_ref(), template), &prompt_options)
}

/// The rows of an evaluation but those that are `done`, handed to `sink` as soon as they are made.
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
    options.allow(task)?;
    let template = options.template(task, model)?;
    let mut prompts = prompts_of(task, options, template)?;
    let encoder = Encoder::new(model, options.max_length)?.behind_virtual_tokens(model, hooks.virtual_tokens())?;
    let scorer = Scorer { model, hooks, dtype, batch_tokens: options.batch_tokens };
    let total = options.limit.unwrap_or(usize::MAX).min(task.docs.len());
    let course = Course::begin(task, &mut prompts, total, done, progress, stop, sink)?;
    let mut run = Run { task, scorer, encoder: &encoder, options, course };
    run.course.report()?;
    while let Some(wave) = run.course.wave(&mut prompts)? {
        match (&task.config.reasoning, task.kind) {
            _ if options.rewards.is_some() => run.rewarded(&wave, template)?,
            (Some(config), _) => run.reasoned(&wave, config)?,
            (None, Kind::GenerateUntil) => run.generated(&wave)?,
            (None, _) => run.scored(&wave)?,
        }
    }
    Ok(Summary { shots: prompts.shots(), truncated: run.course.truncated })
}

/// Of the first questions one at least has to name a right choice: one that does not counts as wrong, and where all do not, the task
/// file is what is wrong.
pub(crate) fn check_gold(task: &Task, items: &[Item]) -> Result<(), EvalError> {
    let names_none = |item: &Item| matches!(&item.question, Question::Choices { gold, .. } if gold.indices.is_empty());
    if !items.iter().all(names_none) {
        return Ok(());
    }
    let problem = "no question names one of its choices as the right one; `doc_to_target` has to give an index from 0, or a \
                   choice's text";
    Err(EvalError::TaskFile { file: task.file.clone(), place: "doc_to_target".into(), problem: problem.into() })
}
