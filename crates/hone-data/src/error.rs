//! What can go wrong with training data. Every message names the place, what was found, what was expected and what to do.

use std::path::{Path, PathBuf};

use crate::example::SourceRef;

/// What a [`crate::Codec`] fails with (the tokenizer's or the chat template's own message).
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Errors of `hone-data`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file that could not be opened or read.
    #[error("{path}: {source}; next step: check that the file is there and may be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path, glob or directory that leads to no file that can be read.
    #[error("{pattern}: {found}; expected {expected}; next step: {next}")]
    Files {
        /// The path as the recipe has it, resolved.
        pattern: String,
        /// What was found there.
        found: String,
        /// What was expected.
        expected: String,
        /// What to do.
        next: String,
    },
    /// A file that is not what its reader reads, so that no further row can be had from it.
    #[error("{path}: {place}: found {found}, expected {expected}; next step: {next}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Header, byte, element …
        place: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
        /// What to do.
        next: String,
    },
    /// One malformed row; the rows after it can still be read (`on_bad_row: skip` does so).
    #[error(transparent)]
    Row(#[from] Box<RowError>),
    /// No format fits the rows.
    #[error(
        "{path}: no known format fits the columns {columns}; known formats: {known}; \
         next step: name one with `format`, map columns with `columns: {{prompt: …, completion: …}}`, or write a \
         `prompt_template` and a `completion_template`"
    )]
    NotDetected {
        /// The file whose rows were looked at.
        path: PathBuf,
        /// Its columns.
        columns: String,
        /// The formats and the columns each needs.
        known: String,
    },
    /// A setting of the recipe's `data` part that cannot be followed.
    #[error("recipe, `data.{key}`: found {found}, expected {expected}; next step: {next}")]
    Config {
        /// The key.
        key: String,
        /// What it says.
        found: String,
        /// What was expected.
        expected: String,
        /// What to do.
        next: String,
    },
    /// The tokenizer or the chat template refused a row.
    #[error("{place}: {message}; next step: {next}")]
    Codec {
        /// The row.
        place: SourceRef,
        /// What the codec said.
        message: String,
        /// What to do.
        next: String,
    },
    /// Nothing is left to train on.
    #[error("no {what} examples: {found}; next step: {next}")]
    Nothing {
        /// `training` or `validation`.
        what: &'static str,
        /// Rows read and where they went.
        found: String,
        /// What to do.
        next: String,
    },
    /// A tokenised example that does not fit a packed row.
    #[error(
        "example {index} ({place}) has {length} tokens, a packed row holds {sequence_length}; next step: raise \
         `data.sequence_length` or lower `data.max_length`"
    )]
    LongerThanRow {
        /// Index of the example.
        index: usize,
        /// Where it came from.
        place: SourceRef,
        /// Its length in tokens.
        length: usize,
        /// Tokens a row holds.
        sequence_length: usize,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.to_path_buf();
        move |source| DataError::Io { path, source }
    }

    pub(crate) fn config(
        key: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
        next: impl Into<String>,
    ) -> DataError {
        DataError::Config { key: key.into(), found: found.into(), expected: expected.into(), next: next.into() }
    }
}

/// A malformed row.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{place}{}: found {found}, expected {expected}; next step: {next}", in_field(.field))]
pub struct RowError {
    /// File, row and line.
    pub place: SourceRef,
    /// The field, `messages[2].content`; `None` where the row as a whole is meant.
    pub field: Option<String>,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub next: String,
}

fn in_field(field: &Option<String>) -> String {
    field.as_ref().map_or_else(String::new, |f| format!(", field `{f}`"))
}

/// A value in a few words, for "found …".
pub(crate) fn describe(value: &serde_json::Value) -> String {
    use serde_json::Value::*;
    match value {
        Null => "null".into(),
        Bool(b) => format!("the truth value {b}"),
        Number(n) => format!("the number {n}"),
        String(s) => format!("the text {:?}", shorten(s, 40)),
        Array(items) => format!("a list of {} items", items.len()),
        Object(fields) => format!("an object with {}", names(fields.keys())),
    }
}

/// Names in back quotes, the first twelve of them.
pub(crate) fn names<'a>(all: impl IntoIterator<Item = &'a String>) -> String {
    let mut all = all.into_iter();
    let mut shown: Vec<String> = all.by_ref().take(12).map(|n| format!("`{}`", shorten(n, 40))).collect();
    let more = all.count();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    if shown.is_empty() { "no fields".into() } else { shown.join(", ") }
}

/// The first `limit` characters, with an ellipsis where something was cut.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
