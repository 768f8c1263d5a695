//! What can go wrong while looking: questions without a passage, templates that change it, maps that do not fit. Every
//! variant names the place, what was found and what to do.

use hone_data::DataError;
use hone_eval::EvalError;
use hone_model::ModelError;

/// Errors of `hone-locate`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocateError {
    /// A task whose questions have no passage to look at, or that asks no questions.
    #[error("{task}: {problem}")]
    Task {
        /// The task's file.
        task: String,
        /// What is missing, and what to do.
        problem: String,
    },
    /// A question or a row that cannot be asked.
    #[error("{place}: {problem}")]
    Row {
        /// File and row, or task and example.
        place: String,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// The chat template, asked of a model without one, or one that does not show the user's text as it is.
    #[error("{model}: {problem}")]
    Template {
        /// The model.
        model: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Two results that must not be compared.
    #[error("the two cannot be compared: {difference}")]
    NotComparable {
        /// What differs, on both sides, and what to do.
        difference: String,
    },
    /// Nothing was left to look at.
    #[error("{place}: nothing to look at: {problem}")]
    Nothing {
        /// Task or file.
        place: String,
        /// Why, and what to do.
        problem: String,
    },
    /// The user stopped it.
    #[error("stopped after {done} of {total} examples")]
    Stopped {
        /// Examples done.
        done: usize,
        /// Examples in all.
        total: usize,
    },
    /// Tasks and scores.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The model's side.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A data file's side.
    #[error(transparent)]
    Data(#[from] DataError),
}
