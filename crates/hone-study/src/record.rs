//! What is kept about a step: whether it is done, and with what it was done. `steps/NAME/step.json`.
//!
//! A step is done again when its command, its files, the data, hone's version or a step whose directory it reads have changed:
//! all of them are in its fingerprint.

use std::path::{Path, PathBuf};

use hone_eval::files::write_atomically;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::StudyError;
use crate::plan::{FILES, Plan, STEPS, Step};

/// The record of a step, below its directory.
pub const FILE: &str = "step.json";
/// What the step printed: one JSON document.
pub const RESULT: &str = "result.json";
/// The step's messages.
pub const LOG: &str = "log.txt";

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Begun, and not known to have ended well.
    Started,
    /// Done.
    Done,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// How far it is.
    pub state: State,
    /// See [`fingerprints`].
    pub fingerprint: String,
    /// Wall seconds spent on it, interrupted parts included where they ended orderly.
    pub seconds: f64,
    /// Version of hone.
    pub version: String,
    /// SHA-256 of the program.
    pub program_sha256: String,
}

/// A step's directory.
pub fn directory(run: &Path, step: &Step) -> PathBuf {
    run.join(STEPS).join(&step.name)
}

/// The record in a step's directory; `None` if there is none that can be read.
pub fn read(directory: &Path) -> Option<Record> {
    serde_json::from_str(&std::fs::read_to_string(directory.join(FILE)).ok()?).ok()
}

/// Writes the record.
pub fn write(directory: &Path, record: &Record) -> Result<(), StudyError> {
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    write_text(&directory.join(FILE), &text)
}

/// Writes a text file whole or not at all.
pub fn write_text(path: &Path, text: &str) -> Result<(), StudyError> {
    Ok(write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()))?)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What each step depends on, as a hash. `data` are the hashes of the study's data files.
pub fn fingerprints(plan: &Plan, data: &[String], version: &str) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for step in &plan.steps {
        let texts = || step.words.iter().chain(step.files.iter().map(|(_, text)| text));
        let reads = |directory: &str| texts().any(|text| mentions(text, directory));
        let mut parts: Vec<String> = vec![version.into()];
        parts.extend(data.iter().cloned());
        parts.extend(texts().cloned());
        parts.extend(step.files.iter().map(|(name, _)| name.clone()));
        let files = plan.files.iter().filter(|(name, _)| reads(&format!("{FILES}/{name}")));
        parts.extend(files.map(|(name, text)| format!("{name} {text}")));
        let before = plan.steps.iter().zip(&known).filter(|(other, _)| reads(&format!("{STEPS}/{}", other.name)));
        parts.extend(before.map(|(_, fingerprint)| fingerprint.clone()));
        // Lengths keep parts apart that would run into each other.
        let whole: String = parts.iter().map(|part| format!("{} {part}\n", part.len())).collect();
        known.push(sha256(whole.as_bytes()));
    }
    known
}

/// Whether a text holds a path, and not only one that begins with it.
fn mentions(text: &str, path: &str) -> bool {
    let ends =
        |at: usize| !text[at + path.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || "-_.".contains(c));
    text.match_indices(path).any(|(at, _)| ends(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Source;

    fn plan(second: &str, file: &str) -> Plan {
        let text = format!(
            "title: t\npaper: p\nabout: a\nminutes: 1\nvariables: {{n: [1, 11]}}\nfiles: {{task.yaml: {file}}}\nsteps:\n\
             - {{name: \"first-{{n}}\", hone: \"eval {{files}}/task.yaml --limit {{n}}\"}}\n\
             - {{name: second, hone: {second}}}\n- {{name: third, hone: doctor}}\n\
             measures: {{m: {{of: \"1\"}}}}\nclaims: [{{claim: c, measured: m, holds: \"> 0\"}}]\n"
        );
        let source = Source { name: "s".into(), text, path: None };
        let study = crate::read(&source).unwrap_or_else(|e| panic!("{e}"));
        Plan::new(&source, &study, "data").unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_step_changes_with_what_it_reads_and_with_nothing_else() {
        let base = fingerprints(&plan("\"compare {steps}/first-1 --x\"", "one"), &[], "1");
        let changed = |other: Vec<String>| base.iter().zip(&other).map(|(a, b)| a != b).collect::<Vec<_>>();
        assert_eq!(changed(fingerprints(&plan("\"compare {steps}/first-1 --x\"", "one"), &[], "1")), [false; 4]);
        assert_eq!(
            changed(fingerprints(&plan("\"compare {steps}/first-1 --y\"", "one"), &[], "1")),
            [false, false, true, false]
        );
        // The task file changes the steps that read it, and the one that reads those.
        assert_eq!(
            changed(fingerprints(&plan("\"compare {steps}/first-1 --x\"", "two"), &[], "1")),
            [true, true, true, false]
        );
        assert_eq!(
            changed(fingerprints(&plan("\"compare {steps}/first-1 --x\"", "one"), &["d".into()], "1")),
            [true; 4]
        );
        assert!(!mentions("steps/first-11/a", "steps/first-1") && mentions("a steps/first-1/a", "steps/first-1"));
    }
}
