//! What can go wrong with a study. Every variant names the place, what was found and what to do.

use std::path::PathBuf;

use hone_eval::EvalError;

/// Errors of `hone-study`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A name that is no study.
    #[error("no study `{name}`{hint}; known: {known}; or give the path of a study file")]
    Unknown {
        /// As asked for.
        name: String,
        /// `; did you mean …?`
        hint: String,
        /// Those there are.
        known: String,
    },
    /// A study whose contents are not what they should be.
    #[error("{place}: {problem}")]
    Study {
        /// File and line.
        place: String,
        /// Key, what was found, what was expected.
        problem: String,
    },
    /// Data that the study needs and that are nowhere.
    #[error(
        "{study}: data files are missing: {missing}; looked in {looked}; set the data root (`HONE_DATA`, `--data-root`)"
    )]
    NoData {
        /// The study.
        study: String,
        /// The files.
        missing: String,
        /// The places.
        looked: String,
    },
    /// A directory that holds the run of another study.
    #[error("{directory} holds a run of the study `{found}`, not of `{expected}`; choose another `--out`")]
    OtherStudy {
        /// The directory.
        directory: PathBuf,
        /// Whose run it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A step that did not end well.
    #[error("step `{step}` failed ({ended}): {command}\n  its messages are in {log}; the last of them:\n{tail}")]
    StepFailed {
        /// The step.
        step: String,
        /// Exit code or signal.
        ended: String,
        /// The command, as it can be typed.
        command: String,
        /// The file with its messages.
        log: PathBuf,
        /// The last lines of that file.
        tail: String,
    },
    /// A step that could not be started.
    #[error("step `{step}`: {command}: {source}")]
    NotStarted {
        /// The step.
        step: String,
        /// The command.
        command: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A number that cannot be read out of what a step wrote.
    #[error("measure `{measure}`: {file}: {problem}")]
    Measure {
        /// The measure.
        measure: String,
        /// The file.
        file: PathBuf,
        /// What is wrong, and what there is.
        problem: String,
    },
    /// A formula that cannot be computed.
    #[error("{what}: `{formula}`: {problem}")]
    Formula {
        /// The claim, table or plot it belongs to.
        what: String,
        /// The formula.
        formula: String,
        /// What is wrong.
        problem: String,
    },
    /// A scorecard that cannot be read.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

impl StudyError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> StudyError {
        let path = path.into();
        move |source| StudyError::Io { path, source }
    }
}

/// `; did you mean `x`?` for the closest known word, or nothing if none is close.
pub(crate) fn did_you_mean<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    let close = known.map(|word| (strsim::damerau_levenshtein(found, word), word)).min();
    match close {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => format!("; did you mean `{word}`?"),
        _ => String::new(),
    }
}
