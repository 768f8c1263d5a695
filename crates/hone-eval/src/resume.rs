//! Evaluations that outlive the process. Rows go to `TASK.jsonl.part` as they are made; when all are there, the scorecard is written
//! beside it and the part goes away. A run that was stopped or killed goes on behind the last whole wave of examples, and ends in
//! the bytes it would have ended in (but for the seconds it says it took).
//!
//! The part holds JSON lines: what the rows depend on (as a hash), then rows, and behind every wave a mark with how far that is.
//! What stands behind the last mark is from a wave that was not finished, and is cut off. A part of another evaluation (other
//! weights, another edit, another task or setting) is not gone on with but replaced. A part is made with its first rows, so that an
//! evaluation that comes to nothing leaves nothing behind. A server that ends an evaluation, or the user, does so between two
//! examples: then the mark stands behind the last one that was answered ([`crate::endpoint`]).
//!
//! A finished scorecard says in its header what its rows depend on, too, and is not made again while that is the same: of several
//! tasks those that are done stay. (Of a model behind a server only the name is known; delete a card to have it asked anew.)
//!
//! In memory a row is its scores and no text ([`Tally`]): eight bytes a metric and example.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hone_engine::DType;
use hone_model::{Hooks, Model};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::endpoint::Endpoint;
use crate::error::EvalError;
use crate::evaluate::{Done, EvalOptions, Progress, Subject, Summary, WAVE, evaluate_rows, header};
use crate::files::write_atomically;
use crate::rewards::Rewards;
use crate::scorecard::{ScorecardHeader, ScorecardRow};
use crate::tally::Tally;
use crate::task::Task;
use crate::task::data::hex;

/// Evaluates into the scorecard at `path`, going on with what an earlier run left there. `contents` names what is
/// done with the model (its edits' contents, for one); the other arguments are those of [`crate::evaluate()`].
#[allow(clippy::too_many_arguments)]
pub fn evaluate_to(
    path: &Path,
    contents: &str,
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    task: &Task,
    options: &EvalOptions,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
) -> Result<ScorecardHeader, EvalError> {
    kept(path, &Subject::of(model, dtype), contents, task, options, |done, sink| {
        evaluate_rows(model, hooks, dtype, task, options, done, progress, stop, sink)
    })
}

/// The same for what a server answers; see [`crate::endpoint`].
pub fn ask_into(
    path: &Path,
    endpoint: &Endpoint,
    task: &Task,
    options: &EvalOptions,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
) -> Result<ScorecardHeader, EvalError> {
    kept(path, &endpoint.subject(), "", task, options, |done, sink| {
        endpoint.ask(task, options, done, progress, stop, sink)
    })
}

/// Where the rows of a wave go, with how far that is.
pub type Sink<'a> = dyn FnMut(Vec<ScorecardRow>, Done) -> Result<(), EvalError> + 'a;

/// The scorecard at `path` of the rows that `evaluate` makes behind those that are there.
fn kept(
    path: &Path,
    subject: &Subject,
    contents: &str,
    task: &Task,
    options: &EvalOptions,
    evaluate: impl FnOnce(Done, &mut Sink<'_>) -> Result<Summary, EvalError>,
) -> Result<ScorecardHeader, EvalError> {
    let started = Instant::now();
    let identity = identity(subject, contents, task, options);
    if let Some(finished) = finished(path).filter(|header| header.identity.as_deref() == Some(&identity)) {
        return Ok(finished);
    }
    let mut part = Part::open(path, &identity)?;
    let done = Done { examples: part.tally.len(), truncated: part.marked.truncated };
    let summary = evaluate(done, &mut |rows, done| part.append(rows, done))?;
    let seconds = part.marked.seconds + started.elapsed().as_secs_f64();
    let header = header(subject, task, options, summary, &part.tally, seconds)?;
    let header = ScorecardHeader { identity: Some(identity), ..header };
    part.finish(path, &header)?;
    Ok(header)
}

/// Longest header that is read, in bytes.
const MAX_HEADER: u64 = 1 << 20;

/// The header of the card at `path`, if there is one: a card appears whole or not at all.
fn finished(path: &Path) -> Option<ScorecardHeader> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?).take(MAX_HEADER).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// A hash of everything that decides what the rows are.
fn identity(subject: &Subject, contents: &str, task: &Task, options: &EvalOptions) -> String {
    let decides = json!({
        "task": task.sha256(),
        "model": [subject.model, subject.model_sha256],
        "edit": [options.edit.as_ref().map_or("", |edit| &edit.name), contents],
        "dtype": subject.dtype,
        "limit": options.limit,
        "num_fewshot": options.num_fewshot,
        "chat_template": options.chat_template,
        "multiturn": options.fewshot_as_multiturn,
        "system": options.system_instruction,
        "seed": options.seed,
        "max_length": options.max_length,
        "rewards": options.rewards.as_ref().map(Rewards::identity),
        "wave": WAVE,
        "version": env!("CARGO_PKG_VERSION"),
    });
    hex(&Sha256::digest(decides.to_string()))
}

/// How far the rows before it go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mark {
    /// Examples.
    through: usize,
    /// Prompts cut among them.
    truncated: usize,
    /// Seconds spent on them.
    seconds: f64,
}

/// A line of a part.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Identity { identity: String },
    Mark(Mark),
    Row(Box<ScorecardRow>),
}

/// The file of an evaluation that is not finished.
struct Part {
    path: PathBuf,
    /// What its rows depend on, as a hash.
    identity: String,
    /// Made with the first rows: an evaluation that has none leaves nothing behind.
    file: Option<BufWriter<File>>,
    /// The numbers of the rows so far.
    tally: Tally,
    marked: Mark,
    since: Instant,
}

impl Part {
    /// The part beside `scorecard`: as it was left, if it is there and one of the same evaluation, else empty.
    fn open(scorecard: &Path, identity: &str) -> Result<Part, EvalError> {
        let mut name = scorecard.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let io = |source| EvalError::Io { path: path.clone(), source };
        let mut part = Part {
            path: path.clone(),
            identity: identity.into(),
            file: None,
            tally: Tally::default(),
            marked: Mark::default(),
            since: Instant::now(),
        };
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(part),
            Err(error) => return Err(io(error)),
        };
        let (tally, marked, end) = left_over(&file, identity).map_err(io)?;
        file.set_len(end).map_err(io)?;
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        (part.tally, part.marked) = (tally, marked);
        let mut file = BufWriter::new(file);
        if end == 0 {
            write_line(&mut file, &Line::Identity { identity: identity.into() }).map_err(io)?;
        }
        part.file = Some(file);
        Ok(part)
    }

    /// A part with nothing in it, with the directory it lies in.
    fn begin(&self) -> std::io::Result<BufWriter<File>> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut file = BufWriter::new(File::create(&self.path)?);
        write_line(&mut file, &Line::Identity { identity: self.identity.clone() })?;
        Ok(file)
    }

    fn io(&self, source: std::io::Error) -> EvalError {
        EvalError::Io { path: self.path.clone(), source }
    }

    /// A wave's rows and the mark behind them, on the disk when this returns.
    fn append(&mut self, rows: Vec<ScorecardRow>, done: Done) -> Result<(), EvalError> {
        let seconds = self.marked.seconds + self.since.elapsed().as_secs_f64();
        let mark = Mark { through: done.examples, truncated: done.truncated, seconds };
        let mut write = || -> std::io::Result<()> {
            let file = match self.file.take() {
                Some(file) => file,
                None => self.begin()?,
            };
            let file = self.file.insert(file);
            for row in &rows {
                serde_json::to_writer(&mut *file, row)?;
                writeln!(file)?;
            }
            write_line(file, &Line::Mark(mark))?;
            file.flush()?;
            file.get_ref().sync_data()
        };
        write().map_err(|source| self.io(source))?;
        rows.iter().for_each(|row| self.tally.add(row));
        Ok(())
    }

    /// The scorecard in the part's place.
    fn finish(mut self, scorecard: &Path, header: &ScorecardHeader) -> Result<(), EvalError> {
        if let Some(file) = &mut self.file {
            file.flush().map_err(|source| EvalError::Io { path: self.path.clone(), source })?;
        }
        let read = File::open(&self.path).map_err(|source| self.io(source))?;
        write_atomically(scorecard, |out| {
            serde_json::to_writer(&mut *out, header)?;
            writeln!(out)?;
            for line in BufReader::new(read).lines() {
                let line = line?;
                if matches!(serde_json::from_str(&line)?, Line::Row(_)) {
                    writeln!(out, "{line}")?;
                }
            }
            Ok(())
        })?;
        std::fs::remove_file(&self.path).map_err(|source| self.io(source))
    }
}

/// Numbers, mark and length of what `file` holds of the evaluation `identity`: up to its last mark, or nothing.
fn left_over(file: &File, identity: &str) -> std::io::Result<(Tally, Mark, u64)> {
    let nothing = (Tally::default(), Mark::default(), 0);
    let mut reader = BufReader::new(file);
    let (mut tally, mut marked, mut known, mut at) = (Tally::default(), Mark::default(), 0, 0u64);
    let mut end = 0;
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().read_until(b'\n', &mut line)?;
        // A line without its end was cut off; damage is the same to us.
        let parsed = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        at += read as u64;
        match parsed {
            Some(Line::Identity { identity: found }) if end == 0 && tally.is_empty() => {
                if found != identity {
                    return Ok(nothing);
                }
                end = at;
            }
            Some(Line::Row(row)) if end > 0 => tally.add(&row),
            Some(Line::Mark(mark)) if end > 0 && mark.through == tally.len() => {
                (marked, known, end) = (mark, tally.len(), at);
            }
            _ => break,
        }
    }
    tally.truncate(known);
    Ok((tally, marked, end))
}

fn write_line(out: &mut impl Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: usize) -> ScorecardRow {
        let text = json!({ "id": id.to_string(), "prompt_sha256": "", "prompt": "p", "target": "t", "answer": "a",
            "scores": { "acc": 1.0 }, "score": 1.0 });
        serde_json::from_value(text).unwrap()
    }

    fn rows(range: std::ops::Range<usize>) -> Vec<ScorecardRow> {
        range.map(row).collect()
    }

    #[test]
    fn a_part_is_kept_up_to_its_last_mark_whatever_stands_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let card = directory.path().join("task.jsonl");
        let mut part = Part::open(&card, "this").unwrap();
        part.append(rows(0..3), Done { examples: 3, truncated: 1 }).unwrap();
        let kept = std::fs::read(&part.path).unwrap();
        part.append(rows(3..5), Done { examples: 5, truncated: 1 }).unwrap();
        let path = part.path.clone();
        drop(part);
        let whole = std::fs::read(&path).unwrap();
        // Killed at any byte: what was marked before is there, and what is written next follows it.
        for cut in kept.len()..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut part = Part::open(&card, "this").unwrap();
            assert_eq!((part.tally.len(), part.marked.truncated), (3, 1), "cut at {cut}");
            part.append(rows(3..5), Done { examples: 5, truncated: 1 }).unwrap();
            drop(part);
            assert_eq!(Part::open(&card, "this").unwrap().tally.len(), 5);
        }
        std::fs::write(&path, b"not a part").unwrap();
        assert_eq!(Part::open(&card, "this").unwrap().tally.len(), 0);
    }

    #[test]
    fn a_part_of_another_evaluation_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let card = directory.path().join("task.jsonl");
        let mut part = Part::open(&card, "this").unwrap();
        part.append(rows(0..3), Done { examples: 3, truncated: 0 }).unwrap();
        drop(part);
        assert_eq!(Part::open(&card, "another").unwrap().tally.len(), 0);
        assert_eq!(Part::open(&card, "this").unwrap().tally.len(), 0, "and is gone");
    }
}
