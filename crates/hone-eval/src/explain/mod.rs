//! How a number came about, down to the examples: what `hone explain` prints.
//!
//! | asked about | room |
//! |---|---|
//! | a metric of a scorecard | [`card`] |
//! | a task of a comparison | [`comparison`] |
//! | a number of a measure | [`measured`] |
//!
//! Each makes an [`Explanation`]: what the number is, the steps to it with this run's values filled in, its interval and how
//! that was made, and the examples behind it, those that matter most first. Everything is computed anew from the rows, and a
//! number that its rows do not make is said to be one.
//!
//! What it does not know: why a model answered as it did.

pub mod card;
pub mod comparison;
mod filled;
pub mod measured;
mod shown;
mod steps;

use serde::Serialize;

use crate::error::did_you_mean;
use crate::statistics::BootstrapOptions;

/// Examples shown of a number where the user does not say.
pub const EXAMPLES: usize = 5;

/// What stands where the texts of a sensitive task would.
pub const WITHHELD: &str = "(withheld: the task is marked sensitive; `--show-sensitive` shows it)";

/// Settings.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Examples shown at most.
    pub limit: usize,
    /// Whether texts of tasks marked sensitive are shown.
    pub show_sensitive: bool,
    /// Resampling, for the interval.
    pub bootstrap: BootstrapOptions,
}

impl Default for Options {
    fn default() -> Self {
        Options { limit: EXAMPLES, show_sensitive: false, bootstrap: BootstrapOptions::default() }
    }
}

/// How a number came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// The task.
    pub task: String,
    /// The metric, or the measure and its number.
    pub metric: String,
    /// The model, or both.
    pub model: String,
    /// What the number is.
    pub definition: String,
    /// The value; finite.
    pub value: f64,
    /// From the rows to the value, one line each.
    pub steps: Vec<String>,
    /// Ends of its interval, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// Other ways of asking the task, with their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Way>,
    /// Examples there are.
    pub n: usize,
    /// In which order `examples` stand.
    pub order: String,
    /// Those shown.
    pub examples: Vec<Example>,
}

/// A way of asking a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// The task with the variant's name.
    pub task: String,
    /// Its value; of a comparison, the difference.
    pub value: f64,
}

/// An example behind a number.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Example {
    /// Its id.
    pub id: String,
    /// By how much the value is higher with it than without it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub influence: Option<f64>,
    /// What was asked, compared and scored, in order.
    pub facts: Vec<Fact>,
}

/// Something about an example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// What it is.
    pub label: String,
    /// The text or number; several lines are several choices.
    pub value: String,
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// No such number.
    #[error("no metric `{name}` in {place}{hint}; there are: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        place: String,
        /// `; did you mean …?`
        hint: String,
        /// Those there are.
        known: String,
    },
    /// No such task.
    #[error("no task `{name}` in {place}{hint}; there are: {known}")]
    UnknownTask {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        place: String,
        /// `; did you mean …?`
        hint: String,
        /// Those there are.
        known: String,
    },
    /// Files or cards that cannot be used.
    #[error(transparent)]
    Eval(#[from] crate::EvalError),
}

impl ExplainError {
    /// No metric `name` in `place`, where there are `known`.
    pub fn unknown(name: &str, place: &str, known: &[&str]) -> ExplainError {
        let hint = did_you_mean(name, known.iter().copied());
        ExplainError::Unknown { name: name.into(), place: place.into(), hint, known: known.join(", ") }
    }

    /// No task `name` in `place`, where there are `known`.
    pub fn unknown_task(name: &str, place: &str, known: &[&str]) -> ExplainError {
        let hint = did_you_mean(name, known.iter().copied());
        ExplainError::UnknownTask { name: name.into(), place: place.into(), hint, known: known.join(", ") }
    }
}

impl Example {
    fn fact(&mut self, label: &str, value: impl Into<String>) {
        self.facts.push(Fact { label: label.into(), value: value.into() });
    }
}

/// Whether `asked` names this metric: its name, or its name without the filter behind it (`exact_match` of
/// `exact_match,strict`).
pub fn names(asked: &str, metric: &str) -> bool {
    asked == metric || metric.split(',').next() == Some(asked)
}

/// How an interval over questions was made.
fn how(options: &BootstrapOptions, what: &str) -> String {
    format!("percentiles of {} resamples of {what} (bootstrap, seed {})", thousands(options.resamples), options.seed)
}

/// `10,000`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with the digits that say something.
fn number(value: f64) -> String {
    let text = match value.abs() {
        whole if whole.fract() == 0.0 && whole < 1e9 => format!("{value}"),
        huge if huge >= 1e9 => format!("{value:.2e}"),
        large if large >= 1000.0 => format!("{value:.1}"),
        middle if middle >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [0.0, -3.0, 0.624, 12_345.678, 1.5e12, 0.000_012].map(number),
            ["0", "−3", "0.6240", "12345.7", "1.50e12", "1.20e−5"]
        );
        assert_eq!([0, 999, 1000, 10_000, 1_234_567].map(thousands), ["0", "999", "1,000", "10,000", "1,234,567"]);
    }

    #[test]
    fn a_metric_is_named_with_or_without_its_filter() {
        assert!(names("exact_match", "exact_match,strict") && names("exact_match,strict", "exact_match,strict"));
        assert!(!names("exact", "exact_match,strict") && !names("exact_match,loose", "exact_match,strict"));
        let error = ExplainError::unknown("acc_nrom", "cards", &["acc", "acc_norm"]).to_string();
        assert!(error.contains("did you mean `acc_norm`?") && error.contains("there are: acc, acc_norm"), "{error}");
        // However many there are, each of them may be the one that was meant.
        let many: Vec<String> = (0..60).map(|i| format!("number_{i}")).collect();
        let known: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = ExplainError::unknown("else", "cards", &known).to_string();
        assert!(error.ends_with("number_58, number_59"), "{error}");
    }
}
