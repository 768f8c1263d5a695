//! `hone data levels`: a collection of tasks split into what is trained on and three levels of what is not.
//!
//! Iyer et al. 2022, "OPT-IML", arXiv 2212.12017. What goes where is drawn in [`hone_data::levels`]; here it is read, written and
//! shown.

mod collection;
mod files;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hone_data::levels::{HoldOut, Level, LevelSplit, Pair, TaskSplit, split};
use hone_eval::DataRoot;
use serde::Serialize;

use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;
use collection::{Collection, Read, Source};

/// Pairs of tasks that share more of the evaluated task's rows than this are shown, as the paper looks at them.
const SHOWN: f64 = 0.01;
/// Most pairs shown; all are in `split.json`.
const MOST_SHOWN: usize = 20;

/// Arguments of `hone data levels`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone data levels collection.yaml --out levels
  hone data levels collection.yaml --out levels --data-root ~/data --json | jq .levels

A collection lists tasks with their categories, and says what of them is held out:
  seed: 0
  hold_out: {categories: 1, tasks: 1, rows: 0.2, limit: 500}      # numbers; or lists of names for categories and tasks
  tasks:
    - name: sum
      category: numbers
      path: sum.json
      prompt_template: \"Sum the numbers.\\nInput: {{ input }}\\nOutput:\"
      completion_template: \" {{ output }}\"")]
pub struct LevelsVerb {
    /// The collection (YAML).
    collection: PathBuf,
    /// The directory to make: training files, tasks to evaluate, `split.json`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `split.json`.
#[derive(Serialize)]
pub struct Split {
    /// The collection's file name.
    collection: String,
    /// SHA-256 of the file.
    sha256: String,
    seed: u64,
    hold_out: HoldOut,
    levels: Vec<LevelOutput>,
    tasks: Vec<TaskOutput>,
    /// Pairs of tasks that share rows; those rows were dropped from the evaluation.
    shared: Vec<Pair>,
    notes: Vec<String>,
}

/// What a level has in all.
#[derive(Serialize)]
struct LevelOutput {
    /// `trained`, or a level.
    name: &'static str,
    categories: usize,
    tasks: usize,
    rows: usize,
}

/// Where a task went.
#[derive(Serialize)]
struct TaskOutput {
    name: String,
    category: String,
    level: Level,
    trained: usize,
    evaluated: usize,
    dropped: Dropped,
    /// Where the rows are, in the directory.
    train_file: Option<PathBuf>,
    evaluate_file: Option<PathBuf>,
    /// What they were read from.
    sources: Vec<Source>,
}

/// Rows on neither side, by reason.
#[derive(Serialize)]
struct Dropped {
    /// No answer.
    empty: usize,
    /// Beyond `hold_out.limit`.
    beyond_limit: usize,
    /// The prompt is that of a trained row.
    equal_prompt: usize,
    /// Found in a training example by the 13-gram rule.
    leaked: usize,
}

impl LevelsVerb {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        files::check_place(&self.out)?;
        let collection = Collection::read(&self.collection)?;
        let read = collection.rows(&DataRoot::discover(common.data_root.as_deref()))?;
        let (tasks, found): (Vec<_>, Vec<_>) =
            read.into_iter().map(|Read { task, sources, empty }| (task, (sources, empty))).unzip();
        let mut made =
            split(&tasks, &collection.hold_out, collection.seed).map_err(|error| collection.refused(&error))?;
        for (task, own) in tasks.iter().zip(&made.tasks) {
            let long = own.evaluated.iter().filter(|&&row| task.rows[row].completion.trim().contains('\n')).count();
            if long > 0 {
                made.notes.push(format!(
                    "{long} answers of `{}` have several lines and can never be right: an answer is read up to its first line \
                     end (`until` in evaluate/{}.yaml)",
                    own.name, own.name
                ));
            }
        }
        let split = output(&self.collection, &collection, &made, found);
        files::write(&self.out, &split, &tasks.iter().zip(&made.tasks).collect::<Vec<_>>())?;
        match common.json {
            true => outln!("{}", serde_json::to_string(&split)?)?,
            false => print(&split, &self.out)?,
        }
        Ok(0)
    }
}

fn output(file: &Path, collection: &Collection, made: &LevelSplit, found: Vec<(Vec<Source>, usize)>) -> Split {
    let task = |(own, (sources, empty)): (&TaskSplit, (Vec<Source>, usize))| {
        let (train_file, evaluate_file) = files::of_task(own);
        TaskOutput {
            name: own.name.clone(),
            category: own.category.clone(),
            level: own.level,
            trained: own.trained.len(),
            evaluated: own.evaluated.len(),
            dropped: Dropped {
                empty,
                beyond_limit: own.beyond_limit.len(),
                equal_prompt: own.equal.len(),
                leaked: own.leaked.len(),
            },
            train_file,
            evaluate_file,
            sources,
        }
    };
    let evaluated = |level: Level| {
        let rows = move |own: &TaskSplit| if own.level == level { own.evaluated.len() } else { 0 };
        level_output(level.name(), made, rows)
    };
    let trained = level_output("trained", made, |own| own.trained.len());
    Split {
        collection: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: collection.sha256.clone(),
        seed: collection.seed,
        hold_out: collection.hold_out.clone(),
        levels: std::iter::once(trained).chain(Level::ALL.into_iter().map(evaluated)).collect(),
        tasks: made.tasks.iter().zip(found).map(task).collect(),
        shared: made.pairs.clone(),
        notes: made.notes.clone(),
    }
}

/// Counts the tasks that have rows by `rows`, and their categories.
fn level_output(name: &'static str, made: &LevelSplit, rows: impl Fn(&TaskSplit) -> usize) -> LevelOutput {
    let own: Vec<&TaskSplit> = made.tasks.iter().filter(|task| rows(task) > 0).collect();
    LevelOutput {
        name,
        categories: own.iter().map(|task| &task.category).collect::<BTreeSet<_>>().len(),
        tasks: own.len(),
        rows: own.iter().map(|task| rows(task)).sum(),
    }
}

fn print(split: &Split, out: &Path) -> Result<(), Failure> {
    outln!("{:<10}  {:>10} {:>6} {:>8}", "level", "categories", "tasks", "rows")?;
    for level in &split.levels {
        outln!("{:<10}  {:>10} {:>6} {:>8}", level.name, level.categories, level.tasks, level.rows)?;
    }
    let sum = |of: fn(&Dropped) -> usize| split.tasks.iter().map(|task| of(&task.dropped)).sum::<usize>();
    let reasons = [
        ("without an answer", sum(|dropped| dropped.empty)),
        ("beyond `limit`", sum(|dropped| dropped.beyond_limit)),
        ("with a prompt that is trained on", sum(|dropped| dropped.equal_prompt)),
        ("found in training examples by the 13-gram rule", sum(|dropped| dropped.leaked)),
    ];
    let dropped: Vec<String> =
        reasons.iter().filter(|(_, rows)| *rows > 0).map(|(why, rows)| format!("{rows} {why}")).collect();
    let dropped = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
    outln!("\nrows dropped: {dropped}")?;
    let much = split.shared.iter().filter(|pair| pair.share > SHOWN);
    for pair in much.clone().take(MOST_SHOWN) {
        let share = 100.0 * pair.share;
        let Pair { evaluated, trained, equal, leaked, .. } = pair;
        outln!(
            "  {share:>5.1} % of `{evaluated}` stand in `{trained}`: {equal} equal prompts, {leaked} by the 13-gram rule"
        )?;
    }
    let more = much.count().saturating_sub(MOST_SHOWN);
    if more > 0 {
        outln!("  and {more} more pairs of tasks above {} %, in split.json", 100.0 * SHOWN)?;
    }
    split.notes.iter().try_for_each(|note| outln!("note: {note}"))?;
    let tasks = out.join("levels.yaml").display().to_string();
    outln!("\nNext, with a model in place of MODEL:")?;
    outln!("  hone tune {} --set model=MODEL --out runs/levels", out.join("recipe-data.yaml").display())?;
    outln!("  hone eval MODEL --tasks {tasks} --out cards/before")?;
    outln!("  hone eval MODEL --edit runs/levels/adapter --tasks {tasks} --out cards/after")?;
    outln!("  hone compare cards/before cards/after --measure levels --out comparison")
}
