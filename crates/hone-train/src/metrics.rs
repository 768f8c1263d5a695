//! `metrics.jsonl`: a line a step and a line a validation, appended as they happen. A resumed run cuts it back to its
//! checkpoint first, so no step stands twice.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use hone_edit::atomic;
use serde::Serialize;
use serde_json::Value;

use crate::error::{TrainError, io_error};

/// The file's name.
pub const FILE: &str = "metrics.jsonl";

/// The open file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file in `run`, keeping lines up to step `keep` (a line that was cut short by a crash is dropped).
    pub fn open(run: &Path, keep: usize) -> Result<MetricsFile, TrainError> {
        let path = run.join(FILE);
        if path.exists() {
            let text = kept_lines(&path, keep)?;
            atomic::write_file(&path, text.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io_error(&path))?;
        Ok(MetricsFile { path, file })
    }

    /// Appends a line: `kind` and the fields of `row`.
    pub fn append(&mut self, kind: &str, row: &impl Serialize) -> Result<(), TrainError> {
        let mut line = serde_json::Map::from_iter([("kind".to_string(), Value::from(kind))]);
        if let Ok(Value::Object(fields)) = serde_json::to_value(row) {
            line.extend(fields);
        }
        // One write a line, so that a crash leaves whole lines (and at most one part of a line).
        let text = format!("{}\n", Value::Object(line));
        self.file.write_all(text.as_bytes()).map_err(io_error(&self.path))
    }
}

fn kept_lines(path: &Path, keep: usize) -> Result<String, TrainError> {
    let mut text = String::new();
    for line in BufReader::new(File::open(path).map_err(io_error(path))?).lines() {
        let line = line.map_err(io_error(path))?;
        let step = serde_json::from_str::<Value>(&line).ok().and_then(|v| v.get("step")?.as_u64());
        if step.is_some_and(|step| step <= keep as u64) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_cuts_back_to_the_step_and_drops_a_broken_line() {
        let run = tempfile::tempdir().unwrap();
        let row = |step: usize| serde_json::json!({ "step": step, "loss": 1.5 });
        let mut file = MetricsFile::open(run.path(), 0).unwrap();
        (1..=4).for_each(|step| file.append("train", &row(step)).unwrap());
        file.file.write_all(b"{\"kind\":\"train\",\"st").unwrap();
        MetricsFile::open(run.path(), 3).unwrap().append("train", &row(4)).unwrap();
        let text = std::fs::read_to_string(run.path().join(FILE)).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert_eq!(text.lines().last().unwrap(), r#"{"kind":"train","step":4,"loss":1.5}"#);
    }
}
