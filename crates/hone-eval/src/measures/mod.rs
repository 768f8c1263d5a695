//! Measures of what an update changed, by name: what is asked of two models' answers to the same questions beyond "is the
//! second one better".
//!
//! A measure is one file with a [`Measure`] in it and one line in [`MEASURES`]. It reads the paired scorecards of all tasks and
//! makes [`TaskMeasure`]s, one a task or one for tasks that belong together ([`variants`]): numbers with intervals, tables of
//! numbers, and a row for every example. The terminal, `ledger.json`, the Markdown and the
//! HTML report show whatever is in it, so none of them knows a measure by name.

pub mod calibration;
pub mod chart;
pub mod code;
pub mod compatibility;
pub mod context;
pub mod documents;
pub mod forgetting;
pub mod levels;
pub mod likelihoods;
pub mod reasoning;
pub mod rewards;
pub mod safety;
pub mod shots;
pub mod variants;
pub mod wording;

use std::collections::BTreeMap;

pub use chart::{ChartData, Drawing};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{EvalError, did_you_mean};
use crate::pairing::Paired;
use crate::statistics::{BootstrapOptions, wilson};

/// The measures there are.
pub const MEASURES: &[Measure] = &[
    compatibility::MEASURE,
    forgetting::MEASURE,
    wording::MEASURE,
    documents::MEASURE,
    context::MEASURE,
    safety::MEASURE,
    rewards::MEASURE,
    code::MEASURE,
    levels::MEASURE,
    shots::MEASURE,
    calibration::MEASURE,
    reasoning::MEASURE,
    likelihoods::MEASURE,
];

/// A measure.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// What it is called on the command line and in files: letters, digits and `_`.
    pub name: &'static str,
    /// The question it answers, as a heading.
    pub question: &'static str,
    /// What its numbers are, for people.
    pub legend: &'static str,
    /// Who published it, with the arXiv id.
    pub source: &'static str,
    /// How its numbers are made, for `hone explain`.
    pub formulas: &'static [&'static str],
    /// How the interval of the number of this name is made, where it has one.
    pub how: fn(&str) -> How,
    /// Numbers that are the second one less the third, besides `X_change` and `X_gain`, which are `X_after` less `X_before`.
    pub differences: &'static [(&'static str, &'static str, &'static str)],
    /// Whether it is shown where all measures that fit are: it speaks to who decides, and not to who studies scores.
    pub unasked: bool,
    /// Its numbers for the tasks that both models were asked. A task it does not apply to is left out, or has no numbers and a
    /// note that says why.
    ///
    /// # Errors
    /// Scorecards that do not hold what it needs.
    pub of: fn(&[Paired<'_>], &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError>,
}

/// How an interval is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Wilson's, of a share.
    Wilson,
    /// Student's, of the mean over these.
    Student(&'static str),
    /// Percentiles of resamples of these.
    Bootstrap(&'static str),
}

/// What most intervals are made by.
pub(crate) const OF_QUESTIONS: How = How::Bootstrap("the questions, both models' answers to a question together");

/// Settings of measures.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeasureOptions {
    /// Resampling of examples; its level goes for every interval.
    pub bootstrap: BootstrapOptions,
    /// Changes of an example's score up to this count as none, where scores lie between right and wrong.
    pub tolerance: f64,
}

/// A measure over the tasks of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureResult {
    /// The measure's name.
    pub name: String,
    /// The question it answers.
    pub question: String,
    /// What its numbers are.
    pub legend: String,
    /// Who published it.
    pub source: String,
    /// Task by task.
    pub tasks: Vec<TaskMeasure>,
    /// Where its numbers are from, if not from the scorecards that are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Where the numbers of a measure are from that another verb made: what the comparison itself cannot tell of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// What was measured: models, with what goes for all of them.
    pub models: String,
    /// How its numbers are made, a line each.
    pub formulas: Vec<String>,
    /// How intervals are made, but for those of shares, which are Wilson's.
    pub intervals: String,
}

/// A measure over one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskMeasure {
    /// Task name.
    pub name: String,
    /// Metric the measure is over.
    pub metric: String,
    /// Paired examples.
    pub n: usize,
    /// The tasks that it is over, where its name is none: they hold the rows behind its numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// Of a number or a table's row that is over some of them, by its label: those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Vec<String>>,
    /// The numbers, the most important first.
    pub numbers: Vec<Number>,
    /// Tables behind them.
    pub tables: Vec<Table>,
    /// What shows them best.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<ChartData>,
    /// What the reader should know besides.
    pub notes: Vec<String>,
    /// A JSON object for every example, with its `id`. Not in the ledger: written to a file of their own.
    #[serde(skip)]
    pub rows: Vec<Value>,
}

/// A number of a measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// Its name in files.
    pub name: String,
    /// Its name for people.
    pub label: String,
    /// The value; finite.
    pub value: f64,
    /// Lower end of its 95 % interval, where it has one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// What the value counts.
    pub unit: Unit,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Examples.
    Count,
    /// A share in 0..1, shown in per cent.
    Share,
    /// A difference of shares, shown in points (hundredths).
    Points,
    /// Whatever the metric counts.
    Plain,
}

/// A table of numbers of one unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// What the cells count.
    pub unit: Unit,
    /// What stands above each column.
    pub columns: Vec<String>,
    /// What stands before each row.
    pub rows: Vec<String>,
    /// The cells, row by row; `None` where there can be nothing.
    pub cells: Vec<Vec<Option<f64>>>,
}

/// A table as it is shown: texts, the first row apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Grid {
    /// Above the columns.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// The measure called `name`.
///
/// # Errors
/// There is none; the error names those there are.
pub fn find(name: &str) -> Result<&'static Measure, EvalError> {
    let known = || MEASURES.iter().map(|measure| measure.name);
    MEASURES.iter().find(|measure| measure.name == name).ok_or_else(|| EvalError::UnknownMeasure {
        name: name.into(),
        hint: did_you_mean(name, known()),
        known: known().collect::<Vec<_>>().join(", "),
    })
}

impl TaskMeasure {
    /// The tasks that a number or a cell is over, by its labels; nothing where that is what the measure itself is called for.
    pub fn over(&self, labels: &[&str]) -> &[String] {
        labels.iter().find_map(|label| self.parts.get(*label)).unwrap_or(&self.tasks)
    }

    /// The task that all of it is of, where its name only says more than that (`boolq-log_p` of `boolq`); else its name.
    pub fn subject(&self) -> &str {
        match self.tasks.as_slice() {
            [task] if self.name.strip_prefix(task.as_str()).is_some_and(|rest| rest.starts_with('-')) => task,
            _ => &self.name,
        }
    }
}

/// The names of tasks.
fn names(tasks: &[&Paired<'_>]) -> Vec<String> {
    tasks.iter().map(|paired| paired.task().to_owned()).collect()
}

impl MeasureResult {
    /// Without tasks so far.
    pub fn new(measure: &Measure) -> MeasureResult {
        MeasureResult {
            name: measure.name.into(),
            question: measure.question.into(),
            legend: measure.legend.into(),
            source: measure.source.into(),
            tasks: Vec::new(),
            origin: None,
        }
    }

    /// All numbers of all tasks: a row a task, a column for every label, a dash where a task has no such number.
    pub fn overview(&self) -> Grid {
        let mut labels: Vec<&str> = Vec::new();
        for number in self.tasks.iter().flat_map(|task| &task.numbers) {
            if !labels.contains(&number.label.as_str()) {
                labels.push(&number.label);
            }
        }
        let cell = |task: &TaskMeasure, label: &str| {
            task.numbers.iter().find(|number| number.label == label).map_or_else(|| "–".into(), Number::shown)
        };
        let row = |task: &TaskMeasure| {
            let names = [task.name.clone(), task.metric.clone(), task.n.to_string()];
            names.into_iter().chain(labels.iter().map(|label| cell(task, label))).collect()
        };
        let header = ["task", "metric", "n"].into_iter().chain(labels.iter().copied()).map(str::to_owned).collect();
        Grid { header, rows: self.tasks.iter().map(row).collect() }
    }
}

impl Number {
    /// A number with its interval, if it has one.
    pub fn new(name: &str, label: &str, value: f64, interval: Option<(f64, f64)>, unit: Unit) -> Number {
        let (low, high) = interval.filter(|(low, high)| low.is_finite() && high.is_finite()).unzip();
        Number { name: name.into(), label: label.into(), value, low, high, unit }
    }

    /// `k` of `n` examples, with Wilson's interval.
    pub fn share(name: &str, label: &str, k: usize, n: usize, options: &MeasureOptions) -> Number {
        let interval = wilson(k, n, options.bootstrap.level);
        Number::new(name, label, k as f64 / n as f64, Some(interval), Unit::Share)
    }

    /// The value with its interval: `6.0 % (3.5 to 10.2)`.
    pub fn shown(&self) -> String {
        let value = self.unit.shown(self.value);
        match (self.low, self.high) {
            (Some(low), Some(high)) => format!("{value} ({} to {})", self.unit.bare(low), self.unit.bare(high)),
            _ => value,
        }
    }
}

impl Unit {
    /// A value with its unit.
    pub fn shown(self, value: f64) -> String {
        match self {
            Unit::Share => format!("{} %", self.bare(value)),
            Unit::Points => format!("{} points", self.bare(value)),
            Unit::Count | Unit::Plain => self.bare(value),
        }
    }

    fn bare(self, value: f64) -> String {
        let text = match self {
            Unit::Count => format!("{value:.0}"),
            Unit::Share | Unit::Points => format!("{:.1}", value * 100.0),
            Unit::Plain => format!("{value:.3}"),
        };
        // What rounds to nothing has no sign.
        let is_nothing = text.chars().all(|c| matches!(c, '-' | '0' | '.'));
        if is_nothing { text.trim_start_matches('-').to_owned() } else { text }
    }
}

impl Table {
    /// As it is shown.
    pub fn grid(&self) -> Grid {
        let cell = |cell: &Option<f64>| cell.map_or_else(|| "–".into(), |value| self.unit.shown(value));
        let row = |(name, cells): (&String, &Vec<Option<f64>>)| {
            std::iter::once(name.clone()).chain(cells.iter().map(cell)).collect()
        };
        let header = std::iter::once(String::new()).chain(self.columns.iter().cloned()).collect();
        Grid { header, rows: self.rows.iter().zip(&self.cells).map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(label: &str, value: f64, interval: Option<(f64, f64)>, unit: Unit) -> Number {
        let (low, high) = interval.unzip();
        Number { name: label.replace(' ', "_"), label: label.into(), value, low, high, unit }
    }

    #[test]
    fn tasks_with_other_numbers_stand_in_one_overview() {
        let task = |name: &str, numbers| TaskMeasure {
            name: name.into(),
            metric: "acc".into(),
            n: 5,
            numbers,
            ..TaskMeasure::default()
        };
        let share = number("negative flips", 0.06, Some((0.035, 0.102)), Unit::Share);
        let loss = number("mean loss", 0.125, None, Unit::Points);
        let result = MeasureResult {
            tasks: vec![task("a", vec![share]), task("b", vec![loss])],
            ..MeasureResult::new(&compatibility::MEASURE)
        };
        let grid = result.overview();
        assert_eq!(grid.header, ["task", "metric", "n", "negative flips", "mean loss"]);
        assert_eq!(grid.rows[0], ["a", "acc", "5", "6.0 % (3.5 to 10.2)", "–"]);
        assert_eq!(grid.rows[1], ["b", "acc", "5", "–", "12.5 points"]);
    }

    #[test]
    fn a_part_of_a_task_is_known_by_its_name() {
        let named = |name: &str, tasks: &[&str]| TaskMeasure {
            name: name.into(),
            tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
            ..TaskMeasure::default()
        };
        assert_eq!(named("boolq-log_p", &["boolq"]).subject(), "boolq");
        assert_eq!(named("boolq", &[]).subject(), "boolq");
        // What is over one task by chance, and a task whose name begins like another's.
        assert_eq!(named("all skills", &["boolq"]).subject(), "all skills");
        assert_eq!(named("boolq2-log_p", &["boolq"]).subject(), "boolq2-log_p");
        assert_eq!(named("boolq-all", &["boolq", "piqa"]).subject(), "boolq-all");
    }

    #[test]
    fn measures_are_found_by_name_and_names_are_apart() {
        for (i, measure) in MEASURES.iter().enumerate() {
            assert_eq!(find(measure.name).map(|found| found.question).ok(), Some(measure.question));
            assert!(MEASURES[..i].iter().all(|other| other.name != measure.name));
            assert!(measure.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "it names a directory");
        }
        let message = find("compatability").map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("did you mean `compatibility`?"), "{message}");
    }
}
