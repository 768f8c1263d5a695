//! Three levels of generalisation out of one collection of tasks, kept apart by how they are made.
//!
//! Iyer et al. 2022, "OPT-IML", arXiv 2212.12017. Every task has a category. Some categories are held out whole, of the others
//! some tasks, of the trained tasks some rows:
//!
//! ```text
//! rows        the task is trained on, these rows of it are not      (fully supervised)
//! tasks       its category is trained on, the task is not           (partially supervised)
//! categories  nothing of its category is trained on                 (fully held out)
//! ```
//!
//! What is held out is drawn by SHA-256 of the seed and a name, or of the seed and a row's prompt: the names with the lowest
//! hashes, the rows whose hash lies in the lowest `rows` of its range (the share is met on average, as in [`crate::split`]; at
//! least one prompt on each side). So the order of tasks and rows does not matter, and a category that is added to the collection
//! changes which categories are held out only by being drawn itself; as does a task added to a category that has enough of them.
//!
//! Two things keep the sides apart. **Equal prompts** (white space, letter case and the punctuation around words aside) are on
//! one side within a task; an evaluated row whose prompt equals a trained one of any task is dropped. **Runs**: what of an
//! evaluated prompt is its own, without the words that all prompts of its task begin and end with, is looked for in all training
//! examples by the 13-gram rule of [`crate::leaks`], an answer of 13 words or more with it; a row that is found is dropped. The
//! paper removes the training task instead, after a look at pairs of tasks with more than 1 % of such rows; [`Pair`] counts them.
//!
//! What it does not know: questions that are the same in other words, contents of fewer than 8 words that stand inside a longer
//! trained text, and runs that more than 10 training examples have. A template's own words between two parts that differ count as
//! content; with 13 of them or more and 10 trained rows or fewer, rows are dropped that share nothing else.

mod apart;
mod drawing;

use serde::{Deserialize, Serialize};

pub use drawing::key;

use apart::{Shared, drop_equal, drop_leaked};
use drawing::{levels, limited, sides};

/// How far from training a task's evaluated rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The task is trained on; its evaluated rows are new.
    Rows,
    /// Its category is trained on, the task is not.
    Tasks,
    /// Nothing of its category is trained on.
    Categories,
}

impl Level {
    /// All, from the nearest to the farthest.
    pub const ALL: [Level; 3] = [Level::Rows, Level::Tasks, Level::Categories];

    /// The word for it in labels of tasks, and the key of `hold_out`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Rows => "rows",
            Level::Tasks => "tasks",
            Level::Categories => "categories",
        }
    }
}

/// What to hold out: so many, or those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Held {
    /// So many, drawn.
    Count(usize),
    /// Those.
    Names(Vec<String>),
}

/// What is held out of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldOut {
    /// Categories held out whole.
    pub categories: Held,
    /// Tasks held out of every category that stays (a count), or tasks by name. A category keeps at least one.
    pub tasks: Held,
    /// Share of a trained task's rows, from 0 up to, but not including, 1.
    pub rows: f64,
    /// Most rows of a task, drawn; all where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Default for HoldOut {
    fn default() -> Self {
        HoldOut { categories: Held::Count(1), tasks: Held::Count(1), rows: 0.2, limit: None }
    }
}

impl HoldOut {
    /// Whether a level is asked for.
    pub fn asks_for(&self, level: Level) -> bool {
        let some = |held: &Held| *held != Held::Count(0) && *held != Held::Names(Vec::new());
        match level {
            Level::Rows => self.rows > 0.0,
            Level::Tasks => some(&self.tasks),
            Level::Categories => some(&self.categories),
        }
    }
}

/// A task of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionTask {
    /// Its name; no two share one.
    pub name: String,
    /// Its category.
    pub category: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A row of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is asked.
    pub prompt: String,
    /// The right answer.
    pub completion: String,
}

/// Where a task and its rows went: every row is in exactly one of the lists, as its index, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSplit {
    /// The task.
    pub name: String,
    /// Its category.
    pub category: String,
    /// Its level; a task of the level `rows` is one that is trained on.
    pub level: Level,
    /// Rows to train on.
    pub trained: Vec<usize>,
    /// Rows to evaluate on.
    pub evaluated: Vec<usize>,
    /// Dropped: beyond `limit`.
    pub beyond_limit: Vec<usize>,
    /// Dropped: the prompt equals a trained one.
    pub equal: Vec<usize>,
    /// Dropped: found in a training example by the 13-gram rule.
    pub leaked: Vec<usize>,
}

/// How many rows of an evaluated task were dropped because a trained task has them. A row may count for several trained tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The task evaluated.
    pub evaluated: String,
    /// The task trained on.
    pub trained: String,
    /// Rows with an equal prompt.
    pub equal: usize,
    /// Rows found by the 13-gram rule.
    pub leaked: usize,
    /// Both, as a share of the rows that were to be evaluated.
    pub share: f64,
}

/// A collection, split.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelSplit {
    /// The tasks, in the collection's order.
    pub tasks: Vec<TaskSplit>,
    /// Pairs of tasks that share rows, those with the largest share first.
    pub pairs: Vec<Pair>,
    /// What should be said aloud.
    pub notes: Vec<String>,
}

/// A collection that cannot be split as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{place}`: found {found}, expected {expected}; next step: {next}")]
pub struct LevelsError {
    /// The key: `hold_out.tasks`, `tasks.3`.
    pub place: String,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub next: String,
}

fn error(place: &str, found: impl Into<String>, expected: &str, next: impl Into<String>) -> LevelsError {
    LevelsError { place: place.into(), found: found.into(), expected: expected.into(), next: next.into() }
}

/// Splits a collection.
///
/// # Errors
/// A level that is asked for and would be empty, before or after rows were dropped; names that are not there; a trained task
/// with one prompt alone.
pub fn split(tasks: &[CollectionTask], hold_out: &HoldOut, seed: u64) -> Result<LevelSplit, LevelsError> {
    if !(0.0..1.0).contains(&hold_out.rows) {
        let found = hold_out.rows.to_string();
        return Err(error(
            "hold_out.rows",
            found,
            "a share from 0 up to, but not including, 1",
            "0.2 is one row in five",
        ));
    }
    if !Level::ALL.into_iter().any(|level| hold_out.asks_for(level)) {
        let next = "ask for at least one of `categories`, `tasks` and `rows`";
        return Err(error("hold_out", "nothing to hold out", "something to evaluate", next));
    }
    let mut notes = Vec::new();
    let levels = levels(tasks, hold_out, seed, &mut notes)?;
    let mut split = Vec::with_capacity(tasks.len());
    let mut keys: Vec<Vec<String>> = Vec::with_capacity(tasks.len());
    for (at, (task, level)) in tasks.iter().zip(levels).enumerate() {
        let own: Vec<String> = task.rows.iter().map(|row| key(&row.prompt)).collect();
        let (kept, beyond_limit) = limited(task, &own, hold_out.limit, seed);
        let (evaluated, trained) = match level {
            Level::Rows => sides(at, task, &own, &kept, hold_out, seed)?,
            Level::Tasks | Level::Categories => (kept, Vec::new()),
        };
        let (name, category) = (task.name.clone(), task.category.clone());
        let (equal, leaked) = (Vec::new(), Vec::new());
        split.push(TaskSplit { name, category, level, trained, evaluated, beyond_limit, equal, leaked });
        keys.push(own);
    }
    let planned: Vec<usize> = split.iter().map(|task| task.evaluated.len()).collect();
    let mut shared = Shared::new();
    drop_equal(&mut split, &keys, &mut shared);
    drop_leaked(&mut split, tasks, &mut shared);
    check_levels(&split, hold_out)?;
    for (task, &planned) in split.iter().zip(&planned) {
        if task.evaluated.is_empty() && planned > 0 {
            notes.push(format!("none of `{}` is evaluated: all {planned} rows of it were dropped", task.name));
        }
    }
    let pair = |((evaluated, trained), (equal, leaked)): ((usize, usize), (usize, usize))| Pair {
        evaluated: split[evaluated].name.clone(),
        trained: split[trained].name.clone(),
        equal,
        leaked,
        share: (equal + leaked) as f64 / planned[evaluated].max(1) as f64,
    };
    let mut pairs: Vec<Pair> = shared.into_iter().map(pair).collect();
    pairs.sort_by(|a, b| {
        b.share.total_cmp(&a.share).then_with(|| (&a.evaluated, &a.trained).cmp(&(&b.evaluated, &b.trained)))
    });
    Ok(LevelSplit { tasks: split, pairs, notes })
}

/// Whether every level that is asked for has rows left.
fn check_levels(split: &[TaskSplit], hold_out: &HoldOut) -> Result<(), LevelsError> {
    for level in Level::ALL.into_iter().filter(|level| hold_out.asks_for(*level)) {
        let own: Vec<&TaskSplit> = split.iter().filter(|task| task.level == level).collect();
        if own.iter().any(|task| !task.evaluated.is_empty()) {
            continue;
        }
        let name = level.name();
        let count = |of: &dyn Fn(&TaskSplit) -> usize| own.iter().map(|task| of(task)).sum::<usize>();
        let (equal, leaked) = (count(&|task| task.equal.len()), count(&|task| task.leaked.len()));
        let found =
            format!("no row left: {equal} have a prompt that is trained on, {leaked} were found in training examples");
        let next = format!(
            "look whether tasks of the collection are the same under two names; change `seed`, name others to hold out, or set \
             `hold_out.{name}: 0`"
        );
        return Err(error(&format!("hold_out.{name}"), found, "rows to evaluate", next));
    }
    Ok(())
}
