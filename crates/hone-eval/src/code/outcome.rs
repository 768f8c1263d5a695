//! How a program under test ended: one word for each way, so that a score of 0 says why.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It ran to its end, tests included.
    Passed,
    /// It raised an exception (a test that does not hold is one), could not be read as Python, or ended before its end.
    Failed {
        /// The exception's line, shortened.
        message: String,
    },
    /// It ran longer than the wall or processor time allowed.
    TimedOut,
    /// It asked for more memory than allowed.
    OutOfMemory,
    /// It printed more than allowed.
    TooMuchOutput,
    /// It started more threads than allowed.
    TooManyThreads,
    /// It wrote more, or more files, than allowed.
    DiskLimit,
    /// It failed at something that the sandbox does not allow: a process, a socket, a file elsewhere.
    Forbidden {
        /// What that was, with the exception's line.
        what: String,
    },
    /// A signal ended it: its own, of an interpreter that ran out of stack, or of a kernel that ran out of memory (9).
    Crashed {
        /// The signal's number.
        signal: i32,
    },
}

impl Outcome {
    /// Whether its tests hold.
    pub fn passed(&self) -> bool {
        *self == Outcome::Passed
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed => f.write_str("passed"),
            Outcome::Failed { message } => write!(f, "failed: {message}"),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::OutOfMemory => f.write_str("out of memory"),
            Outcome::TooMuchOutput => f.write_str("too much output"),
            Outcome::TooManyThreads => f.write_str("too many threads"),
            Outcome::DiskLimit => f.write_str("too much written to disk"),
            Outcome::Forbidden { what } => write!(f, "forbidden: {what}"),
            Outcome::Crashed { signal: 9 } => {
                f.write_str("killed by signal 9, its own or the kernel's for want of memory")
            }
            Outcome::Crashed { signal } => write!(f, "crashed by signal {signal}"),
        }
    }
}
