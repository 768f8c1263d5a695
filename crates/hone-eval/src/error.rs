//! What can go wrong in an evaluation because of files, rows or models. Every variant names the place, what was found and
//! what to do.

use std::path::PathBuf;

use hone_model::ModelError;

use crate::code::CodeError;
use crate::metrics::MetricError;

/// Errors of `hone-eval`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A task that is not known by name and no file.
    #[error("no task `{name}`{hint}; known: {known}; or give the path of a task file")]
    UnknownTask {
        /// As asked for.
        name: String,
        /// `; did you mean …?`
        hint: String,
        /// Those there are.
        known: String,
    },
    /// A task file whose contents are not what they should be.
    #[error("{file}: {place}: {problem}")]
    TaskFile {
        /// The file.
        file: String,
        /// Key, or line.
        place: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A task that is right, but of a kind that is not read: it needs Python, promptsource, pictures or sound.
    #[error("{file}: {place}: {problem}")]
    NotRead {
        /// The file.
        file: String,
        /// The key.
        place: String,
        /// What is not read, and what could stand there.
        problem: String,
    },
    /// A metric of a task file.
    #[error("{file}: metric_list: {source}")]
    Metric {
        /// The task file.
        file: String,
        /// What is wrong.
        source: MetricError,
    },
    /// A data file that is nowhere.
    #[error("{task}: data file `{file}` not found; looked in {looked}; set the data root (`HONE_DATA`, `--data-root`)")]
    NoData {
        /// The task.
        task: String,
        /// As the task names it.
        file: String,
        /// The places.
        looked: String,
    },
    /// A data set that is neither here nor in the hub's cache.
    #[error(
        "{file}: dataset_path: `{data_set}` is no file, no directory, no data set in the hub's cache, and no reader ({readers}); give \
         local files in `dataset_kwargs.data_files`, or fetch the data set first (`hf download --repo-type dataset {data_set}`)"
    )]
    NoDataSet {
        /// The task file.
        file: String,
        /// As the task names it.
        data_set: String,
        /// The readers there are.
        readers: String,
    },
    /// A row of a data file that is not what the task needs.
    #[error("{file}, row {row}: {problem}")]
    Row {
        /// The data file.
        file: String,
        /// Line, from 1; or item, from 1.
        row: usize,
        /// Field, found, expected.
        problem: String,
    },
    /// A task without examples.
    #[error("{task}: no examples in {place}")]
    Empty {
        /// The task.
        task: String,
        /// File and split.
        place: String,
    },
    /// A request that cannot be scored with this model.
    #[error("{task}, example {id}: {problem}")]
    Request {
        /// The task.
        task: String,
        /// The example.
        id: String,
        /// What is wrong, what to do.
        problem: String,
    },
    /// A server that does not answer as it should.
    #[error("{url}: {problem}")]
    Endpoint {
        /// Where it was asked.
        url: String,
        /// What came back, and what to do.
        problem: String,
    },
    /// A data file's side.
    #[error(transparent)]
    Data(#[from] hone_data::DataError),
    /// The model's side.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A scorecard or ledger file whose contents are not what they should be.
    #[error("{path}, line {line}: {problem}")]
    Scorecard {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Found, expected, what to do.
        problem: String,
    },
    /// A scorecard that somebody else is making.
    #[error("{path}: another process is making this scorecard; wait until it is done, or name another `--out`")]
    Busy {
        /// The scorecard.
        path: PathBuf,
    },
    /// Two scorecards that must not be paired.
    #[error("{task}: the two scorecards cannot be paired: {difference}")]
    NotComparable {
        /// The task.
        task: String,
        /// What differs, on both sides, and what to do.
        difference: String,
    },
    /// A `fail_if` rule or a target that cannot be checked.
    #[error("{what}: {problem}")]
    Rule {
        /// `fail_if` or `target`.
        what: &'static str,
        /// What is wrong, and what there is.
        problem: String,
    },
    /// A measure that is not known.
    #[error("no measure `{name}`{hint}; known: {known}")]
    UnknownMeasure {
        /// As asked for.
        name: String,
        /// `; did you mean …?`
        hint: String,
        /// Those there are.
        known: String,
    },
    /// A scorecard that does not hold what a measure needs, such as one of an earlier version.
    #[error(
        "{task}: the measure `{measure}` needs {needs}, and example {id} of the scorecard of {model} does not hold it; \
         evaluate that model again with this version"
    )]
    MeasureNeeds {
        /// The measure.
        measure: &'static str,
        /// The task.
        task: String,
        /// The model and edit the card is of.
        model: String,
        /// The first example without it.
        id: String,
        /// What is missing, with its key.
        needs: &'static str,
    },
    /// A model whose numbers overflowed.
    #[error(
        "the log-probability of token `{token}` is not a number: the weights or the edit are damaged, or were tuned until \
         they overflowed; fetch the model again, or go back to an earlier adapter"
    )]
    NotANumber {
        /// The id of the token.
        token: u32,
    },
    /// A task that runs programs, where nobody said that they may be run.
    #[error(
        "{task}: the metric `{metric}` runs programs that the model writes; allow it with `--run-code` (they are run in a sandbox: \
         no network, no files but their own, little time and memory)"
    )]
    CodeNotAllowed {
        /// The task.
        task: String,
        /// The metric.
        metric: String,
    },
    /// An example whose programs could not be run or counted.
    #[error("{task}, example {id}: {source}")]
    Code {
        /// The task.
        task: String,
        /// The example.
        id: String,
        /// What is wrong, what to do.
        source: CodeError,
    },
    /// The user stopped it.
    #[error("stopped after {done} of {total} examples of {task}")]
    Stopped {
        /// The task.
        task: String,
        /// Examples scored.
        done: usize,
        /// Examples in all.
        total: usize,
    },
}

/// `; did you mean `x`?` for the closest known word, or nothing if none is close.
pub(crate) fn did_you_mean<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    let close = known.map(|word| (strsim::damerau_levenshtein(found, word), word)).min();
    match close {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => format!("; did you mean `{word}`?"),
        _ => String::new(),
    }
}
