//! What can go wrong with a prediction. Every variant says what was found and what to do.

use hone_eval::EvalError;

/// Errors of `hone-predict`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// Too few models to correlate anything.
    #[error("{found} models; correlations over models need at least {needed}, and mean something from about 8")]
    TooFew {
        /// Models given.
        found: usize,
        /// Fewest.
        needed: usize,
    },
    /// Not one compute a model.
    #[error("{models} models and {computes} numbers of compute; give one for each, in the same order")]
    Computes {
        /// Models given.
        models: usize,
        /// Numbers given.
        computes: usize,
    },
    /// A compute that is no amount.
    #[error("compute {found} of {model}: expected a positive number, such as 1e15 (6 · parameters · tokens)")]
    Compute {
        /// Found.
        found: f64,
        /// Of which model.
        model: String,
    },
    /// The same compute everywhere.
    #[error("all models have the same compute ({found}), so nothing can go with it; give each its own")]
    SameCompute {
        /// Found.
        found: f64,
    },
    /// No task with choices in common.
    #[error(
        "no task with choices that all models were evaluated on; there are: {there}; evaluate all on the same tasks"
    )]
    NoTask {
        /// Tasks of the first model.
        there: String,
    },
    /// A task whose questions cannot be used.
    #[error("{task}: none of {questions} questions was asked of all models and has one right answer among its choices")]
    NoQuestion {
        /// The task.
        task: String,
        /// Questions of the first model.
        questions: usize,
    },
    /// Scorecards that do not belong together.
    #[error(transparent)]
    Eval(#[from] EvalError),
}
