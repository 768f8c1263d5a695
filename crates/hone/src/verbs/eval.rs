//! `hone eval`: a model on tasks, one scorecard a task.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_engine::DType;
use hone_eval::files::{check_writable, write_scorecard};
use hone_eval::intervals::intervals;
use hone_eval::scorecard::{Scorecard, ScorecardHeader};
use hone_eval::statistics::BootstrapOptions;
use hone_eval::{DataRoot, EvalError, EvalOptions, Task, evaluate};
use hone_model::{Hooks, Model};
use hone_train::recipe::Recipe;
use serde::Serialize;

use super::load::{ModelArguments, With};
use crate::args::Common;
use crate::fail::{Failure, INTERRUPTED};
use crate::print::{outln, remark};
use crate::{interrupt, progress};

/// Arguments of `hone eval`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone eval smollm2-135m-instruct --tasks arc_easy,boolq --limit 200 --out cards/base
  hone eval smollm2-135m-instruct --edit runs/first/adapter --tasks mytask.yaml --out cards/tuned
  hone eval --list                                                  # tasks that ship with hone")]
pub struct Eval {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    #[command(flatten)]
    with: With,
    /// Task names or task files, separated by commas.
    #[arg(long, value_delimiter = ',', required_unless_present = "list")]
    tasks: Vec<String>,
    /// At most so many questions a task (the first ones).
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Examples in the prompt (default: what the task says).
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,
    /// Put prompts through the model's chat template (default: what the task says).
    #[arg(long, value_name = "BOOL")]
    chat_template: Option<bool>,
    /// Where the scorecards go.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// List the tasks that ship with hone and end.
    #[arg(long)]
    list: bool,
}

/// How questions are asked.
pub struct Asked {
    /// Where the tasks' data are.
    pub root: DataRoot,
    /// Limits and shots.
    pub options: EvalOptions,
    /// Whether prompts go through the chat template; `None` is what each task says.
    pub chat_template: Option<bool>,
    /// Type to compute in.
    pub dtype: DType,
}

impl Asked {
    /// As a recipe says.
    pub fn from_recipe(recipe: &Recipe, common: &Common) -> Asked {
        let place = |path: &String| recipe.directory.join(path);
        let root = common.data_root.clone().or_else(|| recipe.eval.data_root.as_ref().map(place));
        Asked {
            root: DataRoot::discover(root.as_deref()),
            options: EvalOptions {
                limit: recipe.eval.limit,
                num_fewshot: recipe.eval.num_fewshot,
                ..EvalOptions::default()
            },
            chat_template: recipe.eval.chat_template,
            dtype: recipe.eval.dtype.unwrap_or(recipe.train.dtype).into(),
        }
    }
}

/// Loads tasks by name or file. Scorecards are told apart by the task's name, so no two may share one.
pub fn load_tasks(references: &[String], asked: &Asked) -> Result<Vec<Task>, Failure> {
    let mut tasks: Vec<Task> = Vec::new();
    for reference in references {
        let task = Task::load(reference, &asked.root)?;
        if tasks.iter().any(|other| other.name() == task.name()) {
            let hint = "name every task once; two task files need two names (`task:`)";
            return Err(Failure::user(format!("task `{}` is asked for twice", task.name()), hint));
        }
        tasks.push(task);
    }
    Ok(tasks)
}

/// Scores one task with a progress bar. `None` when asked to stop.
#[allow(clippy::too_many_arguments)]
pub fn score_tasks(
    model: &Arc<Model>,
    hooks: &Arc<dyn Hooks>,
    edit: Option<String>,
    task: &Task,
    asked: &Asked,
    side: &str,
    stop: &AtomicBool,
    common: &Common,
) -> Result<Option<Scorecard>, Failure> {
    let bar = progress::bar(0, side, common.quiet || common.json);
    bar.set_message(task.name().to_owned());
    let mut shown = |at: &hone_eval::Progress<'_>| {
        bar.set_length(at.total as u64);
        bar.set_position(at.done as u64);
    };
    let chat_template = asked.chat_template.or(task.config.chat_template).unwrap_or(false);
    let options = EvalOptions { edit, chat_template, ..asked.options.clone() };
    let card = evaluate(model, Arc::clone(hooks), asked.dtype, task, &options, &mut shown, stop);
    bar.finish_and_clear();
    match card {
        Ok(card) => Ok(Some(card)),
        Err(EvalError::Stopped { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    tasks: Vec<TaskOutput<'a>>,
}

/// A task's part of it.
#[derive(Serialize)]
struct TaskOutput<'a> {
    #[serde(flatten)]
    header: &'a ScorecardHeader,
    /// Ends of the 95 % interval of each metric, by bootstrap over the examples.
    intervals: BTreeMap<String, (f64, f64)>,
    /// The scorecard, a row an example, if `--out` was given.
    scorecard: Option<PathBuf>,
}

impl Eval {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.list {
            return list(common);
        }
        let Some(model) = self.model else {
            return Err(Failure::user("which model?", "name one: `hone eval MODEL --tasks …`"));
        };
        let arguments = ModelArguments { model, with: self.with };
        let asked = Asked {
            root: DataRoot::discover(common.data_root.as_deref()),
            options: EvalOptions {
                limit: self.limit.map(NonZeroUsize::get),
                num_fewshot: self.num_fewshot,
                ..EvalOptions::default()
            },
            chat_template: self.chat_template,
            dtype: arguments.with.dtype,
        };
        let tasks = load_tasks(&self.tasks, &asked)?;
        // Not after an hour of scoring.
        self.out.as_deref().map_or(Ok(()), check_writable)?;
        let ready = arguments.load(common)?;
        let stop = interrupt::stop_flag();
        let mut cards = Vec::new();
        for task in &tasks {
            let scored =
                score_tasks(&ready.model, &ready.hooks, arguments.edit_name(), task, &asked, "scoring", &stop, common)?;
            let Some(card) = scored else {
                remark!("stopped; finished tasks are kept");
                return Ok(INTERRUPTED);
            };
            if let Some(out) = &self.out {
                write_scorecard(&card_path(out, task.name()), &card)?;
            }
            if !common.json {
                print_card(&card.header)?;
            }
            cards.push(card);
        }
        if common.json {
            let task = |card| task_output(card, self.out.as_deref());
            let tasks = cards.iter().map(task).collect();
            outln!("{}", serde_json::to_string(&Output { tasks })?)?;
        }
        Ok(0)
    }
}

/// Where a task's scorecard goes.
fn card_path(out: &Path, task: &str) -> PathBuf {
    out.join(format!("{task}.jsonl"))
}

fn task_output<'a>(card: &'a Scorecard, out: Option<&Path>) -> TaskOutput<'a> {
    TaskOutput {
        header: &card.header,
        intervals: intervals(card, &BootstrapOptions::default()),
        scorecard: out.map(|out| card_path(out, &card.header.task)),
    }
}

fn print_card(header: &ScorecardHeader) -> Result<(), Failure> {
    let template = if header.chat_template { "on" } else { "off" };
    outln!(
        "{} (v{}, {} questions, {} shots, chat template {template}, {:.1} s)",
        header.task,
        header.version,
        header.n,
        header.num_fewshot,
        header.seconds
    )?;
    for metric in &header.metrics {
        let stderr = metric.stderr.map_or_else(String::new, |e| format!(" ± {e:.4}"));
        outln!("  {:<20} {:.4}{stderr}", metric.name, metric.value)?;
    }
    if header.truncated > 0 {
        outln!("  {} prompts were cut from the left to fit the model", header.truncated)?;
    }
    Ok(())
}

fn list(common: &Common) -> Result<u8, Failure> {
    let names: Vec<&str> = hone_eval::task::bundled::names().collect();
    if common.json {
        outln!("{}", serde_json::to_string(&names)?)?;
    } else {
        names.iter().try_for_each(|name| outln!("{name}"))?;
    }
    Ok(0)
}
