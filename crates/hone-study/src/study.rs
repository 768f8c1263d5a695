//! What a study file says, as plain data.
//!
//! ```yaml
//! title: Does more training lower the loss on what was trained?
//! paper: Kaplan et al. 2020, arXiv 2001.08361
//! about: The loss of a language model falls as a power of the tokens it was trained on.
//! minutes: 1
//! needs: {models: [stories260k], data: []}
//! variables: {length: [2, 8]}
//! steps:
//!   - name: tune-{length}
//!     files:
//!       recipe.yaml: {model: stories260k, data: {path: "{study}/train.jsonl"}, train: {steps: "{length}"}}
//!     hone: tune {dir}/recipe.yaml --out {dir}/run
//!     resume: --resume
//! measures:
//!   loss: {json: "tune-{length}/result.json", value: /last_loss}
//! claims:
//!   - claim: The loss falls
//!     measured: loss[length=2] - loss[length=8]
//!     holds: "> 0"
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A study.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// The question, for people.
    pub title: String,
    /// Whose claims these are: authors, year, arXiv id.
    pub paper: String,
    /// What the paper claims, and what of it is tried here.
    pub about: String,
    /// How long it takes on two cores.
    pub minutes: f64,
    /// What has to be at hand.
    #[serde(default)]
    pub needs: Needs,
    /// Values used throughout, by name.
    #[serde(default)]
    pub constants: Map<String, Value>,
    /// Values that steps are repeated for: each a list of words or numbers, or of mappings with a `name`.
    #[serde(default)]
    pub variables: BTreeMap<String, Vec<Value>>,
    /// Files written before the first step: text as it is, anything else as YAML, or as JSON in a file called so. They are found
    /// at `{files}/NAME`.
    #[serde(default)]
    pub files: Map<String, Value>,
    /// What is run.
    pub steps: Vec<StepTemplate>,
    /// Numbers, by name.
    pub measures: BTreeMap<String, Measure>,
    /// What should be true of them.
    pub claims: Vec<Claim>,
    /// Tables for the page.
    #[serde(default)]
    pub tables: Vec<Table>,
    /// Plots for the page.
    #[serde(default)]
    pub plots: Vec<Plot>,
    /// What the reader should know besides: what is smaller or other than in the paper.
    #[serde(default)]
    pub caveats: Vec<String>,
}

/// What has to be at hand before anything is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Needs {
    /// Models, as `hone pull` knows them.
    pub models: Vec<String>,
    /// Files below the data root.
    pub data: Vec<String>,
}

/// A command, repeated for every value of the variables in its name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StepTemplate {
    /// Its name, which is its directory: `tune-{method}-{seed}`.
    pub name: String,
    /// The command without `hone` and without `--json`, which is added; split as a shell does.
    pub hone: String,
    /// Files written into its directory before it runs.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub files: Map<String, Value>,
    /// Options to add when the step was interrupted and is continued. Without, its directory is emptied and it starts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// How a number, or one for every value of some variables, is found. One of `scorecard`, `json`, `rows` and `of`. Paths start
/// at the directory of the steps and may hold variables.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measure {
    /// A scorecard that `hone eval --out` wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorecard: Option<String>,
    /// Which of its metrics; by default the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// A JSON file. What a step printed is `STEP/result.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// A file of JSON lines, one an example; the measure is the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
    /// Where the number is: `/tasks/0/n`, or `/tasks/name=arc_easy/n` for the item of a list whose `name` is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where a row's id is, by which rows of two files are paired; by default its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Lines before the first row.
    #[serde(skip_serializing_if = "is_zero")]
    pub skip: usize,
    /// A formula over other measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Something that should be true.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In words.
    pub claim: String,
    /// What the paper has, in words; by default the condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// A formula over the measures.
    pub measured: String,
    /// `> 0`, `>= 0.9`, `< 1`, `<= 1`, `within -2 to 2`; in the unit.
    pub holds: String,
    /// `points` and `%` multiply by 100; any other word is only shown.
    #[serde(default)]
    pub unit: String,
    /// A variable whose values are independent repetitions (seeds): the interval is Student's over them. Without, examples
    /// are resampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// Whether the whole interval has to satisfy the condition, or the value alone.
    #[serde(default)]
    pub by: By,
}

/// What has to satisfy a claim's condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The whole interval; the value where there is no interval.
    #[default]
    Interval,
    /// The value, whatever its interval.
    Value,
}

/// A table: a row for every combination of some variables.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// The variables.
    pub each: Vec<String>,
    /// What stands in a row.
    pub columns: Vec<Column>,
    /// The column the rows are ordered by, highest first; by default as the variables are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_by: Option<String>,
}

/// A column of a table.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// The formula.
    pub of: String,
    /// As a claim's.
    #[serde(default)]
    pub unit: String,
    /// Whether to show the interval.
    #[serde(default)]
    pub interval: bool,
}

/// A plot.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// The file's name: `STUDY-NAME.svg`.
    pub name: String,
    /// Heading.
    pub title: String,
    /// How it is drawn.
    pub kind: PlotKind,
    /// The variables a mark is drawn for each combination of. The first gives it its name; marks that share it are joined.
    pub each: Vec<String>,
    /// Across. Not for `forest`; for `lines` one of the variables or a formula.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<Axis>,
    /// Up; for `forest` the value of each line.
    pub y: Axis,
    /// The direction in which an axis of a `scatter` is better; with it the Pareto front is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front: Option<Front>,
}

/// How a plot is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlotKind {
    /// Points in two dimensions.
    Scatter,
    /// A line for every value of the first variable.
    Lines,
    /// A value with its interval on each line.
    Forest,
}

/// An axis.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// The formula.
    pub of: String,
    /// What it is, with its unit.
    pub label: String,
    /// As a claim's.
    #[serde(default)]
    pub unit: String,
    /// Whether each step along it is ten times the last.
    #[serde(default)]
    pub logarithmic: bool,
}

/// Which corner of a scatter plot is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Front {
    /// Less across, more up.
    UpperLeft,
    /// More across, more up.
    UpperRight,
}
