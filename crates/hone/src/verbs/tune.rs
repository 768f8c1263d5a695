//! `hone tune`: a recipe in, an adapter and a verdict out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_edit::files::contents_sha256;
use hone_edit::{EditStack, load_edit};
use hone_eval::compare::{CompareOptions, compare};
use hone_eval::files::write_scorecard;
use hone_eval::ledger::Ledger;
use hone_eval::rules::Rule;
use hone_eval::scorecard::Scorecard;
use hone_eval::{Applied, Task};
use hone_model::{Model, NoHooks};
use hone_train::compatibility::Models;
use hone_train::prepare::{new_edit, prepare};
use hone_train::recipe::{self, Recipe};
use hone_train::session::Start;
use hone_train::trainer::{EndReason, Outcome, Trainer};
use serde::Serialize;

use super::compare as compare_verb;
use super::eval::{Asked, load_tasks, score_tasks};
use super::load::load_model_as;
use super::outcome::{self, Measured};
use super::tune_progress::TuneProgress;
use super::tune_report;
use crate::args::Common;
use crate::fail::{Failure, INTERRUPTED, RULE};
use crate::interrupt;
use crate::print::{outln, remark};

/// Arguments of `hone tune`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone tune recipe.yaml --out runs/first
  hone tune recipe.yaml --out runs/first --resume                  # continues an interrupted run, bit for bit
  hone tune recipe.yaml --out runs/hot --set train.learning_rate=1e-3
  hone tune --schema > recipe.schema.json                          # JSON Schema of recipes, for editors")]
pub struct Tune {
    /// The recipe (YAML).
    #[arg(required_unless_present = "schema")]
    recipe: Option<PathBuf>,
    /// The run's directory.
    #[arg(long, required_unless_present = "schema", value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in `--out`.
    #[arg(long)]
    resume: bool,
    /// Override a key of the recipe: `--set train.steps=50`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the JSON Schema of recipes and end.
    #[arg(long)]
    schema: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    run: &'a Path,
    #[serde(flatten)]
    outcome: &'a Outcome,
    ledger: Option<&'a Ledger>,
}

/// A finished run with its comparison, if the recipe asked for one.
pub struct Tuned {
    /// How the training ended.
    pub outcome: Outcome,
    /// Before against after.
    pub ledger: Option<Ledger>,
}

impl Tune {
    /// The recipe's file and what `--set` overrides of it.
    pub fn recipe(&self) -> Option<(&Path, &[String])> {
        Some((self.recipe.as_deref()?, &self.set))
    }

    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.schema {
            outln!("{}", serde_json::to_string_pretty(&Recipe::schema())?)?;
            return Ok(0);
        }
        let (Some(recipe), Some(out)) = (&self.recipe, &self.out) else {
            return Err(Failure::user("a recipe and `--out` are needed", "see `hone tune --help`"));
        };
        let recipe = recipe::read(recipe, &self.set)?;
        let start = if self.resume { Start::Resume } else { Start::Fresh };
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        let tuned = tune(&recipe, out, start, &command, common)?;
        finish(&tuned, out, common)
    }
}

/// Prints how a run came out; the number is the exit code.
pub fn finish(tuned: &Tuned, out: &Path, common: &Common) -> Result<u8, Failure> {
    let ledger = tuned.ledger.as_ref();
    if common.json {
        outln!("{}", serde_json::to_string(&Output { run: out, outcome: &tuned.outcome, ledger })?)?;
    } else {
        if let Some(ledger) = ledger {
            outln!("{}", outcome::table(ledger, Measured::Numbers))?;
            outln!("report:  {}", out.join("report.html").display())?;
        }
        if tuned.outcome.reason != EndReason::Interrupted {
            outln!("adapter: {}", tuned.outcome.adapter.display())?;
        }
    }
    Ok(match (tuned.outcome.reason, ledger) {
        (EndReason::Interrupted, _) => INTERRUPTED,
        (_, Some(ledger)) if !ledger.broken_rules.is_empty() => RULE,
        _ => 0,
    })
}

/// Runs a recipe: score before, train, score after, compare, report.
pub fn tune(recipe: &Recipe, out: &Path, start: Start, command: &str, common: &Common) -> Result<Tuned, Failure> {
    let stop = interrupt::stop_flag();
    let quantise = recipe.quantize.map(Into::into);
    let model = load_model_as(&recipe.model, recipe.train.dtype.into(), quantise, common)?;
    let data = Arc::new(prepare(recipe, &model)?);
    let stack = EditStack::training(new_edit(recipe, &model)?);
    // Tasks are read before the first step: a typing error in the recipe must not surface after an hour.
    let asked = Asked::from_recipe(recipe, common);
    let tasks = load_tasks(&task_references(recipe), &asked)?.tasks;
    let options = options(recipe, &tasks);
    options.check_names(tasks.iter().map(Task::name))?;
    let models = Models { model: Arc::clone(&model), old: old_model(recipe, common)? };
    let trainer = Trainer::new(models, stack, data, recipe, out, start)?;
    let cards = out.join("scorecards");
    let Some(before) = scorecards(&model, None, &tasks, &asked, &cards.join("base"), &stop, common)? else {
        return Err(interrupted_before_training(out));
    };
    let mut progress = TuneProgress::new(common);
    let trained = trainer.run(&stop, &mut |event| progress.event(&event));
    progress.finish();
    let outcome = trained?;
    if outcome.reason == EndReason::Interrupted || tasks.is_empty() {
        return Ok(Tuned { outcome, ledger: None });
    }
    let edit = outcome.adapter.clone();
    let Some(after) = scorecards(&model, Some(&edit), &tasks, &asked, &cards.join("tuned"), &stop, common)? else {
        remark!("stopped while scoring; `hone tune … --resume` scores what is missing");
        let outcome = Outcome { reason: EndReason::Interrupted, ..outcome };
        return Ok(Tuned { outcome, ledger: None });
    };
    let ledger = compare(&before, &after, &options)?;
    let report = tune_report::assemble(recipe, out, &outcome, ledger, &before, &after, command)?;
    compare_verb::write(out, &report)?;
    Ok(Tuned { outcome, ledger: Some(report.ledger) })
}

/// The model of the old version that the recipe stays compatible with, where it is another than the one that is tuned.
fn old_model(recipe: &Recipe, common: &Common) -> Result<Option<Arc<Model>>, Failure> {
    let compatibility = recipe.train.compatibility.as_ref().filter(|compatibility| compatibility.wants_old());
    let named = compatibility.and_then(|compatibility| compatibility.old.model.as_ref());
    let other = named.filter(|name| **name != recipe.model);
    other.map(|name| load_model_as(name, recipe.train.dtype.into(), None, common)).transpose()
}

fn interrupted_before_training(out: &Path) -> Failure {
    Failure {
        code: INTERRUPTED,
        causes: vec!["stopped before training began".into()],
        hint: Some(format!("run the same command with `--resume` to go on in {}", out.display())),
    }
}

/// Task files lie beside the recipe, as data files do, or where the command is run.
fn task_references(recipe: &Recipe) -> Vec<String> {
    let place = |reference: &String| {
        let beside = recipe.directory.join(reference);
        if beside.is_file() { beside.to_string_lossy().into_owned() } else { reference.clone() }
    };
    recipe.eval.before_after.iter().map(place).collect()
}

/// How the recipe wants its tasks compared. `tasks` are those of `before_after`, in that order: a rule or a target may call
/// one by its name, or as `before_after` does, by its file.
fn options(recipe: &Recipe, tasks: &[Task]) -> CompareOptions {
    let name = |called: &String| {
        let asked = recipe.eval.before_after.iter().zip(tasks).find(|(reference, _)| *reference == called);
        asked.map_or_else(|| called.clone(), |(_, task)| task.name().to_owned())
    };
    let rule = |(task, rule): (&String, &recipe::FailRule)| {
        let rule = Rule { drop_over: rule.drop_over, worse_than: rule.worse_than, measurable: rule.measurable };
        (name(task), rule)
    };
    let first = recipe.eval.before_after.iter().take(1);
    let targets = if recipe.eval.target.is_empty() { first.cloned().collect() } else { recipe.eval.target.clone() };
    CompareOptions {
        fail_if: recipe.eval.fail_if.iter().map(rule).collect(),
        targets: targets.iter().map(name).collect(),
        ..CompareOptions::default()
    }
}

/// Scores the tasks and keeps the cards; those already there (of a run that is continued) are not scored again. `None`
/// when asked to stop.
fn scorecards(
    model: &Arc<Model>,
    edit: Option<&Path>,
    tasks: &[Task],
    asked: &Asked,
    directory: &Path,
    stop: &AtomicBool,
    common: &Common,
) -> Result<Option<Vec<Scorecard>>, Failure> {
    let hooks: Arc<dyn hone_model::Hooks> = match edit {
        Some(dir) => load_edit(dir, model)?.hooks(asked.dtype),
        None => Arc::new(NoHooks),
    };
    let mut cards = Vec::new();
    for task in tasks {
        let path = directory.join(format!("{}.jsonl", task.name()));
        if let Ok(card) = hone_eval::files::read_scorecard(&path)
            && card.header.task_sha256 == task.sha256()
            && edit.is_none()
        {
            cards.push(card);
            continue;
        }
        let side = if edit.is_some() { "tuned" } else { "base" };
        let applied = edit
            .map(|dir| Ok::<_, Failure>(Applied { name: dir.display().to_string(), sha256: contents_sha256(dir)? }))
            .transpose()?;
        let Some(card) = score_tasks(model, &hooks, applied, task, asked, side, stop, common)? else { return Ok(None) };
        write_scorecard(&path, &card)?;
        cards.push(card);
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    Ok(Some(cards))
}
