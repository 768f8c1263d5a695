//! Scorecards and ledgers on disk. A scorecard is JSON lines: the header, then a row an example.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::EvalError;
use crate::ledger::Ledger;
use crate::measures::MeasureResult;
use crate::scorecard::{Scorecard, ScorecardHeader, ScorecardRow};
use crate::tally::Tally;

/// Longest line read, in bytes: prompts of the longest contexts fit many times.
const MAX_LINE: u64 = 64 << 20;

/// Whether a name that may be from anywhere stays in the directory where a file is called after it: it has no slashes.
pub fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\\'])
}

/// Writes a file by a temporary file beside it, so that a reader sees the old contents or the new, whatever happens.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), EvalError> {
    let io = |source| EvalError::Io { path: path.to_owned(), source };
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(io)?;
    let file = tempfile::Builder::new().prefix(".hone-").tempfile_in(directory).map_err(io)?;
    let mut buffered = std::io::BufWriter::new(file);
    write(&mut buffered).map_err(io)?;
    let file = buffered.into_inner().map_err(|e| io(e.into_error()))?;
    file.as_file().sync_all().map_err(io)?;
    make_readable(file.as_file()).map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// Temporary files are private to the user; a report is there to be shown to others.
#[cfg(unix)]
fn make_readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_file: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

/// Makes `directory` and tries whether files can be made in it, so that work is not done in vain.
pub fn check_writable(directory: &Path) -> Result<(), EvalError> {
    let io = |source| EvalError::Io { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    tempfile::Builder::new().prefix(".hone-").tempfile_in(directory).map(drop).map_err(io)
}

/// Writes a scorecard.
pub fn write_scorecard(path: &Path, card: &Scorecard) -> Result<(), EvalError> {
    write_atomically(path, |out| {
        serde_json::to_writer(&mut *out, &card.header)?;
        writeln!(out)?;
        for row in &card.rows {
            serde_json::to_writer(&mut *out, row)?;
            writeln!(out)?;
        }
        Ok(())
    })
}

/// Writes a ledger.
pub fn write_ledger(path: &Path, ledger: &Ledger) -> Result<(), EvalError> {
    write_atomically(path, |out| {
        serde_json::to_writer_pretty(&mut *out, ledger)?;
        writeln!(out)
    })
}

/// Writes what measures say of every example: `DIRECTORY/MEASURE/TASK.jsonl`, a JSON object a line.
pub fn write_measure_rows(directory: &Path, measures: &[MeasureResult]) -> Result<(), EvalError> {
    for measure in measures {
        for task in measure.tasks.iter().filter(|task| !task.rows.is_empty()) {
            let path = directory.join(&measure.name).join(format!("{}.jsonl", task.name));
            // The name is from a scorecard, which may be from anywhere.
            if !is_file_name(&task.name) {
                let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "a task's name has no slashes");
                return Err(EvalError::Io { path, source });
            }
            write_atomically(&path, |out| {
                for row in &task.rows {
                    serde_json::to_writer(&mut *out, row)?;
                    writeln!(out)?;
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Reads a scorecard; a bad line is named by its number.
pub fn read_scorecard(path: &Path) -> Result<Scorecard, EvalError> {
    let mut rows = Vec::new();
    let header = read_rows(path, &mut |row| rows.push(row))?;
    Ok(Scorecard { header, rows })
}

/// Reads a scorecard's header and its rows' numbers; texts are forgotten row by row.
pub fn read_tally(path: &Path) -> Result<(ScorecardHeader, Tally), EvalError> {
    let mut tally = Tally::default();
    let header = read_rows(path, &mut |row| tally.add(&row))?;
    Ok((header, tally))
}

/// Hands over a scorecard's rows, one after the other.
fn read_rows(path: &Path, each: &mut dyn FnMut(ScorecardRow)) -> Result<ScorecardHeader, EvalError> {
    let io = |source| EvalError::Io { path: path.to_owned(), source };
    let bad = |line: usize, problem: String| EvalError::Scorecard { path: path.to_owned(), line, problem };
    let mut reader = BufReader::new(std::fs::File::open(path).map_err(io)?);
    let mut text = String::new();
    let mut number = 0;
    let mut next_line = |text: &mut String| -> Result<usize, EvalError> {
        text.clear();
        number += 1;
        let read = reader.by_ref().take(MAX_LINE).read_line(text).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => bad(number, "not UTF-8 text; is this a scorecard?".into()),
            _ => io(error),
        })?;
        if read as u64 == MAX_LINE {
            return Err(bad(number, format!("longer than {} MiB; is this a scorecard?", MAX_LINE >> 20)));
        }
        Ok(if read == 0 { 0 } else { number })
    };
    if next_line(&mut text)? == 0 {
        return Err(bad(1, "the file is empty; expected a scorecard's header".into()));
    }
    let header: ScorecardHeader = serde_json::from_str(&text)
        .map_err(|e| bad(1, format!("not a scorecard's header: {e}; name a directory that `hone eval --out` wrote")))?;
    let mut read = 0;
    loop {
        let line = next_line(&mut text)?;
        if line == 0 {
            break;
        }
        let row: ScorecardRow =
            serde_json::from_str(&text).map_err(|e| bad(line, format!("not a scorecard's row: {e}")))?;
        each(row);
        read += 1;
    }
    if read != header.n {
        let problem = format!("the header says {} rows, found {read}; evaluate again", header.n);
        return Err(bad(read + 1, problem));
    }
    Ok(header)
}

/// Reads every scorecard of a run: `DIR/scorecards/*.jsonl`, or `DIR/*.jsonl`, or one file; in the order of their names.
pub fn read_scorecards(run: &Path) -> Result<Vec<Scorecard>, EvalError> {
    if run.is_file() {
        return Ok(vec![read_scorecard(run)?]);
    }
    let inner = run.join("scorecards");
    let directory = if inner.is_dir() { inner } else { run.to_owned() };
    let io = |source| EvalError::Io { path: directory.clone(), source };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(EvalError::Empty {
            task: "compare".into(),
            place: format!("{}: no scorecards (*.jsonl) there; make them with `hone eval --out`", directory.display()),
        });
    }
    paths.sort();
    paths.iter().map(|path| read_scorecard(path)).collect()
}
