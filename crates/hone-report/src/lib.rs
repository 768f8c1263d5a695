//! `hone-report`: one self-contained page about one comparison. The one crate that knows HTML and plots.
//!
//! It reads plain data ([`Report`]: a ledger, and, where there was a run, its loss curve, its invariants and where everything
//! came from) and writes a page that answers, in this order: is it better, what did it lose, can I trust it, where are
//! the examples; or the same as Markdown. Numbers lead to the rows they were made from. It knows nothing of models.
//!
//! Plots are drawn by `plotters` as SVG; the page is a `minijinja` template. Colours in the SVG are names in disguise: each
//! is a fixed colour that the style sheet maps to a variable, so that one drawing serves light and dark ([`theme`]).

mod charts;
mod grid;
mod links;
mod markdown;
pub mod measures;
mod page;
pub mod study;
pub mod theme;

use hone_eval::ledger::Ledger;
use hone_eval::scorecard::ScorecardHeader;
use serde::{Deserialize, Serialize};

pub use links::{Side, Source};
pub use markdown::markdown;
pub use page::render;

/// Everything a page shows. Only the ledger is required.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Heading, such as the run's name.
    pub title: String,
    /// The comparison.
    pub ledger: Ledger,
    /// Headers of the scorecards behind it (base and tuned, task by task).
    pub scorecards: Vec<ScorecardHeader>,
    /// Where the scorecards lie, as seen from the page.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// The tuning run, where the comparison belongs to one.
    pub run: Option<RunSummary>,
    /// What was checked at run time.
    pub invariants: Vec<InvariantResult>,
    /// Where everything came from: label and value, in order.
    pub provenance: Vec<(String, String)>,
    /// The command that reproduces the page.
    pub command: String,
}

/// A tuning run in numbers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunSummary {
    /// Label and value, in order: method, steps, tokens, time, memory …
    pub facts: Vec<(String, String)>,
    /// Training loss by step.
    pub training_loss: Vec<(f64, f64)>,
    /// Validation loss by step.
    pub validation_loss: Vec<(f64, f64)>,
}

/// A run-time invariant and how it came out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InvariantResult {
    /// What was checked.
    pub name: String,
    /// `held`, `failed`, `not checked`.
    pub status: String,
    /// What was measured.
    pub detail: String,
}

/// What can go wrong while a page is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A plot could not be drawn.
    #[error("the {chart} plot could not be drawn: {reason}")]
    Plot {
        /// Which plot.
        chart: &'static str,
        /// The plotting library's reason.
        reason: String,
    },
    /// The page's template failed.
    #[error("the report's template failed: {0}")]
    Template(#[from] minijinja::Error),
}
