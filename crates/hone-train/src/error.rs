//! What can go wrong in a training run. Every variant names the place, what was found and what to do.

use std::path::PathBuf;

use hone_data::DataError;
use hone_edit::EditError;
use hone_model::ModelError;

/// Errors of `hone-train`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or directory that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A recipe that is no YAML, or says something it cannot mean.
    #[error("{place}: {what}")]
    Recipe {
        /// File and line, or the `--set` that said it.
        place: String,
        /// What is wrong and what was expected.
        what: String,
    },
    /// A checkpoint that cannot be continued.
    #[error("{path}: {what}; {next}")]
    Checkpoint {
        /// The checkpoint's directory or file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        next: String,
    },
    /// The loss or the gradients are no longer numbers.
    #[error(
        "step {step}: the {what} is {found}: training has diverged. Nothing of this step was kept; {kept}. \
         Lower `train.learning_rate` (it is {learning_rate:e}) or lengthen `train.warmup_steps`{more_precision}"
    )]
    NotFinite {
        /// The step.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// `NaN`, `inf`.
        found: String,
        /// The recipe's learning rate.
        learning_rate: f64,
        /// Advice to train in f32, where that was not done.
        more_precision: &'static str,
        /// Which checkpoint is left.
        kept: String,
    },
    /// A run-time invariant that does not hold.
    #[error("this run fails a check of its own: {name}: found {found}, expected {expected}; {next}")]
    Invariant {
        /// The check.
        name: &'static str,
        /// What was measured.
        found: String,
        /// What should hold.
        expected: String,
        /// What to do.
        next: String,
    },
    /// Data and settings that do not go together.
    #[error("{what}; {next}")]
    Setup {
        /// What is wrong.
        what: String,
        /// What to do.
        next: String,
    },
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The edit.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// An error of the file system at `path`.
pub(crate) fn io_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.to_path_buf();
    move |source| TrainError::Io { path, source }
}
