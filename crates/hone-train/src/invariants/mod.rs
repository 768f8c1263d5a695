//! What every run proves about itself: checked, recorded in `invariants.json`, and failing loudly.
//!
//! | check | what it guards against |
//! |---|---|
//! | `trained_share` | a mask that trains everything or nothing |
//! | `chat_text` | a tokenizer that does not say what the template wrote |
//! | `end_of_turn_trained` | a model that never learns to stop |
//! | `packed_loss` | documents of a row that see each other |
//! | `accumulation` | a loss that depends on how a step is cut into batches |
//! | `adapter_loads` | files that do not hold what was trained |
//! | `adapter_changes_the_model` | training that did nothing |
//! | `merge_difference` | weights that lose the edit when it is folded in |
//! | `state_round_trip` | checkpoints that do not continue to the bit |
//!
//! Each check is a function of plain inputs, so a test can hand it something broken and see it caught.

pub mod data;
pub mod edit;
pub mod numeric;

use std::path::{Path, PathBuf};

use hone_data::PreviewExample;
use hone_edit::atomic;
use serde::Serialize;

use crate::error::TrainError;

/// The file's name in a run.
pub const FILE: &str = "invariants.json";

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Which.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// What was measured.
    pub found: String,
    /// What should hold.
    pub expected: String,
    /// What to do if it does not.
    #[serde(skip)]
    pub next: String,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It holds.
    Held,
    /// It holds, with something to look at.
    Warned,
    /// It does not hold: the run stops.
    Failed,
    /// It does not apply; `found` says why.
    Skipped,
}

impl Check {
    /// A check that was made.
    pub fn new(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        expected: impl Into<String>,
        next: impl Into<String>,
    ) -> Check {
        Check { name, status, found: found.into(), expected: expected.into(), next: next.into() }
    }

    /// A check that does not apply.
    pub fn skipped(name: &'static str, why: impl Into<String>, expected: impl Into<String>) -> Check {
        Check::new(name, Status::Skipped, why, expected, "")
    }

    fn failure(&self) -> Option<TrainError> {
        (self.status == Status::Failed).then(|| TrainError::Invariant {
            name: self.name,
            found: self.found.clone(),
            expected: self.expected.clone(),
            next: self.next.clone(),
        })
    }
}

/// The checks of a run so far, and the examples they were shown on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// In the order they were made.
    pub checks: Vec<Check>,
    /// Three examples with the trained tokens marked.
    pub examples: Vec<PreviewExample>,
    #[serde(skip)]
    file: PathBuf,
}

impl Record {
    /// An empty record kept in `run`.
    pub fn new(run: &Path) -> Record {
        Record { file: run.join(FILE), ..Record::default() }
    }

    /// Adds a check (in the place of an earlier one of that name) and writes the record. A failed check is an error, once
    /// it is on file.
    pub fn add(&mut self, check: Check) -> Result<(), TrainError> {
        self.checks.retain(|c| c.name != check.name);
        let failure = check.failure();
        self.checks.push(check);
        self.write()?;
        failure.map_or(Ok(()), Err)
    }

    /// Writes the record.
    pub fn write(&self) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        Ok(atomic::write_file(&self.file, text.as_bytes())?)
    }
}
