//! What can go wrong with a model's files. Every variant names the place, what was found and what to do.

use std::path::PathBuf;

/// Errors of `hone-model`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose contents are not what they should be.
    #[error("{path}: {place}: found {found}, expected {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Header, tensor name, field …
        place: String,
        /// What was found.
        found: String,
        /// What was expected, and what to do.
        expected: String,
    },
    /// An architecture without code.
    #[error("{path}: architecture `{found}` is not known; known architectures: {known}")]
    UnknownArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name found.
        found: String,
        /// The known ones.
        known: String,
    },
}
