//! The file of an evaluation that is not finished: `TASK.jsonl.part`, beside the scorecard that is to be.
//!
//! It holds JSON lines: what the rows depend on (as a hash), then two lines an example: its row as the card will have it, and a mark
//! with its place, its prompts that were cut and the seconds so far. Rows stand as they were made, which within a wave is any order.
//! An example is there if its mark is whole; what stands behind the last such mark (half a line, a row without its mark) is cut off.
//! A part of another evaluation, or of an older form, is not gone on with but replaced. A part is made, cut off or replaced with the
//! first rows that are added, so that an evaluation that comes to nothing leaves nothing behind and takes nothing away. While it is
//! open nobody else has it ([`Lock`]).
//!
//! Rows are in the system's hands before the next are worked on: a process that is killed loses none of them. The disk is made to
//! keep them at most once a second, and no sooner than more rows come. So a power cut may take what was written within a second of
//! the sync before; what it leaves is read up to the first line that is damaged.
//!
//! In memory a row is its scores and no text ([`Tally`]), but for those that came before their turn: fewer than a wave.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use crate::error::EvalError;
use crate::evaluate::{Done, Finished, WAVE};
use crate::files::write_atomically;
use crate::scorecard::{ScorecardHeader, ScorecardRow};
use crate::tally::Tally;

/// The form of the file.
const FORM: u32 = 2;

/// How long rows may be in the system's hands alone, if more come.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beginning {
    /// [`FORM`].
    part: u32,
    /// What the rows depend on.
    identity: String,
}

/// The line behind a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// The example's place.
    example: usize,
    /// Its prompts that were cut.
    truncated: usize,
    /// Seconds spent so far.
    seconds: f64,
}

/// What comes in any order of places, given back in theirs.
struct InOrder<T> {
    /// The place that is next.
    next: usize,
    waiting: BTreeMap<usize, T>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        InOrder { next: 0, waiting: BTreeMap::new() }
    }
}

impl<T> InOrder<T> {
    /// Whether something may come for this place: nothing has, and it is of the wave that is worked on.
    fn is_open(&self, at: usize) -> bool {
        at >= self.next && at / WAVE == self.next / WAVE && !self.waiting.contains_key(&at)
    }

    /// Takes what is next, if it is there.
    fn take(&mut self) -> Option<T> {
        let what = self.waiting.remove(&self.next)?;
        self.next += 1;
        Some(what)
    }
}

/// The examples of a part.
#[derive(Default)]
struct Kept {
    /// Numbers of those from the first on.
    tally: Tally,
    /// Rows further on.
    further: InOrder<ScorecardRow>,
    /// Prompts cut among all of them.
    truncated: usize,
    /// Seconds that they took.
    seconds: f64,
}

impl Kept {
    fn add(&mut self, at: usize, row: ScorecardRow, truncated: usize) {
        self.truncated += truncated;
        self.further.waiting.insert(at, row);
        while let Some(row) = self.further.take() {
            self.tally.add(&row);
        }
    }
}

/// The file of an evaluation that is not finished.
pub(super) struct Part {
    path: PathBuf,
    identity: String,
    /// Opened for the first rows.
    file: Option<BufWriter<File>>,
    /// Where what is kept ends in the file; 0 where nothing is, or no file.
    end: u64,
    kept: Kept,
    /// Seconds that earlier runs took.
    earlier: f64,
    since: Instant,
    synced: Option<Instant>,
    _lock: Lock,
}

impl Part {
    /// The part beside `scorecard`: as it was left, if it is there and one of the same evaluation, else empty. The file stays as it is.
    ///
    /// # Errors
    /// Another process has it open; or it cannot be read.
    pub fn open(scorecard: &Path, identity: &str) -> Result<Part, EvalError> {
        let mut name = scorecard.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let io = |source| EvalError::Io { path: path.clone(), source };
        let lock = Lock::take(scorecard)?;
        let mut part = Part {
            path: path.clone(),
            identity: identity.into(),
            file: None,
            end: 0,
            kept: Kept::default(),
            earlier: 0.0,
            since: Instant::now(),
            synced: None,
            _lock: lock,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(part),
            Err(error) => return Err(io(error)),
        };
        let (kept, end) = left_over(&file, identity).map_err(io)?;
        part.earlier = kept.seconds;
        (part.kept, part.end) = (kept, end);
        Ok(part)
    }

    /// The file, ready for what comes behind what is kept. (Its directory is there since the lock is.)
    fn ready(&self) -> std::io::Result<BufWriter<File>> {
        let mut file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
        file.set_len(self.end)?;
        file.seek(SeekFrom::Start(self.end))?;
        let mut file = BufWriter::new(file);
        if self.end == 0 {
            write_line(&mut file, &Beginning { part: FORM, identity: self.identity.clone() })?;
        }
        Ok(file)
    }

    /// What is done.
    pub fn done(&self) -> Done {
        let Kept { tally, further, truncated, .. } = &self.kept;
        Done { examples: tally.len(), beyond: further.waiting.keys().copied().collect(), truncated: *truncated }
    }

    /// The numbers of all examples, once all are there.
    pub fn tally(&self) -> &Tally {
        &self.kept.tally
    }

    /// Seconds spent so far, by earlier runs and this one.
    pub fn seconds(&self) -> f64 {
        self.earlier + self.since.elapsed().as_secs_f64()
    }

    fn io(&self, source: std::io::Error) -> EvalError {
        EvalError::Io { path: self.path.clone(), source }
    }

    /// Adds examples that are done. When this returns no kill takes them away.
    pub fn append(&mut self, examples: Vec<Finished>) -> Result<(), EvalError> {
        self.write(&examples).map_err(|source| self.io(source))?;
        for Finished { at, row, truncated } in examples {
            self.kept.add(at, row, truncated);
        }
        Ok(())
    }

    fn write(&mut self, examples: &[Finished]) -> std::io::Result<()> {
        let seconds = self.seconds();
        let file = match self.file.take() {
            Some(file) => file,
            None => self.ready()?,
        };
        let file = self.file.insert(file);
        for Finished { at, row, truncated } in examples {
            write_line(file, row)?;
            write_line(file, &Mark { example: *at, truncated: *truncated, seconds })?;
        }
        file.flush()?;
        if self.synced.is_none_or(|synced| synced.elapsed() >= SYNC_EVERY) {
            file.get_ref().sync_data()?;
            self.synced = Some(Instant::now());
        }
        Ok(())
    }

    /// The scorecard in the part's place, its rows in the order of the examples.
    pub fn finish(mut self, scorecard: &Path, header: &ScorecardHeader) -> Result<(), EvalError> {
        let file = self.file.take().map_or_else(|| self.ready(), Ok);
        file.and_then(|mut file| file.flush()).map_err(|source| self.io(source))?;
        let mut part = BufReader::new(File::open(&self.path).map_err(|source| self.io(source))?);
        write_atomically(scorecard, |out| {
            write_line(out, header)?;
            whole_line(&mut part)?;
            let mut rows = InOrder::default();
            while let Some((row, mark, _)) = example(&mut part)? {
                rows.waiting.insert(mark.example, row);
                while let Some(row) = rows.take() {
                    out.write_all(&row)?;
                    writeln!(out)?;
                }
            }
            match rows.next == header.n {
                true => Ok(()),
                false => Err(std::io::Error::other(format!(
                    "{} was changed by somebody else: rows are missing; run the same command again",
                    self.path.display()
                ))),
            }
        })?;
        std::fs::remove_file(&self.path).map_err(|source| self.io(source))
    }
}

/// What `file` holds of the evaluation `identity`, and where that ends; or nothing.
fn left_over(file: &File, identity: &str) -> std::io::Result<(Kept, u64)> {
    let mut part = BufReader::new(file);
    let mut kept = Kept::default();
    let Some(line) = whole_line(&mut part)? else { return Ok((kept, 0)) };
    match serde_json::from_slice(&line) {
        Ok(Beginning { part: FORM, identity: found }) if found == identity => {}
        _ => return Ok((kept, 0)),
    }
    let mut end = line.len() as u64 + 1;
    while let Some((row, mark, bytes)) = example(&mut part)? {
        let Ok(row) = serde_json::from_slice(&row) else { break };
        if !kept.further.is_open(mark.example) {
            break;
        }
        kept.add(mark.example, row, mark.truncated);
        kept.seconds = mark.seconds;
        end += bytes;
    }
    Ok((kept, end))
}

/// The next example of a part: the line of its row, its mark, and the bytes of both. Nothing where that is not whole.
fn example(part: &mut impl BufRead) -> std::io::Result<Option<(Vec<u8>, Mark, u64)>> {
    let (Some(row), Some(line)) = (whole_line(part)?, whole_line(part)?) else { return Ok(None) };
    let bytes = (row.len() + line.len() + 2) as u64;
    Ok(serde_json::from_slice(&line).ok().map(|mark| (row, mark, bytes)))
}

/// The next line without its end; nothing where it has none.
fn whole_line(part: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    part.read_until(b'\n', &mut line)?;
    Ok((line.pop() == Some(b'\n')).then_some(line))
}

fn write_line(out: &mut (impl Write + ?Sized), line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(at: usize) -> ScorecardRow {
        let text = json!({ "id": at.to_string(), "prompt_sha256": "", "prompt": "p", "target": "t", "answer": "a",
            "scores": { "acc": 0.1 * at as f64 }, "score": 0.1 * at as f64 });
        serde_json::from_value(text).unwrap()
    }

    /// Example `at`, with a prompt cut if it is odd.
    fn finished(at: usize) -> Finished {
        Finished { at, row: row(at), truncated: at % 2 }
    }

    fn append(part: &mut Part, places: &[usize]) {
        part.append(places.iter().map(|at| finished(*at)).collect()).unwrap();
    }

    /// The finished card's bytes.
    fn card(part: Part, place: &Path, n: usize) -> Vec<u8> {
        let sum: f64 = part.tally().scores("acc").iter().fold(0.0, |sum, score| sum + score);
        let header =
            ScorecardHeader { n, truncated: part.done().truncated, task: sum.to_string(), ..Default::default() };
        part.finish(place, &header).unwrap();
        std::fs::read(place).unwrap()
    }

    /// A wave and a bit. The first wave came in this order, several at once.
    const CAME: [&[usize]; 6] = [&[3], &[0, 1], &[5], &[2, 4], &[63], &[62, 61]];

    #[test]
    fn killed_at_any_byte_a_part_keeps_every_example_whose_mark_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("task.jsonl");
        // Undisturbed, in order.
        let mut part = Part::open(&place, "this").unwrap();
        append(&mut part, &(0..WAVE).collect::<Vec<_>>());
        append(&mut part, &[WAVE, WAVE + 1]);
        let expected = card(part, &place, WAVE + 2);
        assert!(!directory.path().join("task.jsonl.part").exists());

        let mut part = Part::open(&place, "this").unwrap();
        CAME.iter().for_each(|places| append(&mut part, places));
        let path = part.path.clone();
        drop(part);
        let whole = std::fs::read(&path).unwrap();
        let order: Vec<usize> = CAME.concat();
        let mut counts = Vec::new();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut part = Part::open(&place, "this").unwrap();
            let marks = whole[..cut].split_inclusive(|byte| *byte == b'\n').skip(1).skip(1).step_by(2);
            let there = marks.filter(|line| line.ends_with(b"\n")).count();
            let mut known = order[..there].to_vec();
            known.sort_unstable();
            let done = part.done();
            let found: Vec<usize> = (0..done.examples).chain(done.beyond.iter().copied()).collect();
            assert_eq!(found, known, "cut at {cut}");
            assert_eq!(done.truncated, known.iter().map(|at| at % 2).sum::<usize>(), "cut at {cut}");
            counts.push(there);
            // The rest, from behind, and the next wave. A cut in every line is enough.
            if cut % 37 == 0 {
                let rest: Vec<usize> = (0..WAVE).rev().filter(|at| !known.contains(at)).collect();
                rest.chunks(7).for_each(|places| append(&mut part, places));
                append(&mut part, &[WAVE + 1]);
                drop(part);
                let mut part = Part::open(&place, "this").unwrap();
                assert_eq!((part.done().examples, part.done().count()), (WAVE, WAVE + 1));
                append(&mut part, &[WAVE]);
                assert!(card(part, &place, WAVE + 2) == expected, "cut at {cut}");
            }
        }
        assert_eq!(counts.last(), Some(&order.len()));
    }

    #[test]
    fn what_cannot_be_of_this_evaluation_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("task.jsonl");
        let count = |identity: &str| Part::open(&place, identity).unwrap().done().count();
        let mut part = Part::open(&place, "this").unwrap();
        append(&mut part, &[1, 0]);
        let path = part.path.clone();
        drop(part);
        let sound = std::fs::read_to_string(&path).unwrap();
        let line = |at: usize| serde_json::to_string(&row(at)).unwrap();
        let mark = |at: usize| format!(r#"{{"example":{at},"truncated":0,"seconds":1.0}}"#);
        for (more, expected) in [
            (format!("{}\n{}\n", line(2), mark(2)), 3),
            // A place that is taken, one of the next wave, a mark for no row, a row for no mark, and no JSON.
            (format!("{}\n{}\n", line(1), mark(1)), 2),
            (format!("{}\n{}\n", line(WAVE), mark(WAVE)), 2),
            (format!("{}\n{}\n", mark(2), mark(3)), 2),
            (format!("{}\n{}\n", line(2), line(3)), 2),
            ("not a part\nat all\n".into(), 2),
        ] {
            std::fs::write(&path, format!("{sound}{more}{}\n{}\n", line(4), mark(4))).unwrap();
            // Behind what is wrong nothing is believed.
            assert_eq!(count("this"), if expected == 3 { 4 } else { expected }, "{more}");
            // An evaluation that adds rows cuts it off.
            append(&mut Part::open(&place, "this").unwrap(), &[7]);
            assert_eq!(count("this"), if expected == 3 { 5 } else { expected + 1 }, "and it is gone: {more}");
        }
        std::fs::write(&path, &sound).unwrap();
        let left = std::fs::read(&path).unwrap();
        assert_eq!(count("another"), 0);
        assert!(std::fs::read(&path).unwrap() == left, "nothing was added: nothing is cut off");
        assert_eq!(count("this"), 2, "another evaluation that came to nothing took nothing away");
        append(&mut Part::open(&place, "another").unwrap(), &[0]);
        assert_eq!((count("this"), count("another")), (0, 1), "its first rows replace it");
        // The form before: rows, and a mark behind each wave.
        std::fs::write(
            &path,
            format!("{{\"identity\":\"this\"}}\n{}\n{{\"through\":1,\"truncated\":0,\"seconds\":1.0}}\n", line(0)),
        )
        .unwrap();
        assert_eq!(count("this"), 0);
    }

    #[test]
    fn one_process_at_a_time_has_a_part() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("task.jsonl");
        let mut part = Part::open(&place, "this").unwrap();
        append(&mut part, &[0]);
        let refused = Part::open(&place, "this").err().expect("it is open");
        assert!(matches!(refused, EvalError::Busy { .. }), "{refused}");
        append(&mut part, &[1]);
        let header = ScorecardHeader { n: 2, ..Default::default() };
        part.finish(&place, &header).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, ["task.jsonl"], "neither part nor lock is left");
    }

    /// A part whose rows are all there, with more behind them that is not to be believed.
    #[test]
    fn what_is_cut_off_does_not_come_into_the_card() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("task.jsonl");
        let mut part = Part::open(&place, "this").unwrap();
        append(&mut part, &[0, 1]);
        let path = part.path.clone();
        drop(part);
        let sound = std::fs::read_to_string(&path).unwrap();
        let line = serde_json::to_string(&row(2)).unwrap();
        let doubtful = format!("{{\n{{\"example\":9,\"truncated\":0,\"seconds\":1.0}}\n{line}\n");
        let mark = "{\"example\":2,\"truncated\":0,\"seconds\":1.0}\n";
        std::fs::write(&path, format!("{sound}{doubtful}{mark}")).unwrap();
        let part = Part::open(&place, "this").unwrap();
        assert_eq!(part.done().count(), 2);
        card(part, &place, 2);
        assert_eq!(std::fs::read_to_string(&place).unwrap().lines().count(), 3);
    }

    /// A score that is no number stands in a file as `null`: it ends nothing.
    #[test]
    fn rows_behind_a_score_that_is_no_number_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("task.jsonl");
        let mut part = Part::open(&place, "this").unwrap();
        let mut rows: Vec<Finished> = (0..3).map(finished).collect();
        rows[1].row.score = f64::NAN;
        rows[1].row.scores.insert("acc".into(), f64::NAN);
        rows[1].row.parts.insert("acc".into(), vec![f64::NAN, 1.0]);
        part.append(rows).unwrap();
        drop(part);
        let part = Part::open(&place, "this").unwrap();
        assert_eq!(part.done().examples, 3);
        assert!(part.tally().scores("acc")[1].is_nan() && part.tally().of_metric("acc")[1].parts[0].is_nan());
        part.finish(&place, &ScorecardHeader { n: 3, ..Default::default() }).unwrap();
        let card = crate::files::read_scorecard(&place).unwrap();
        assert!(card.rows[1].score.is_nan() && card.rows[2].score == 0.2);
    }

    #[test]
    fn a_part_that_lost_rows_makes_no_card() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("task.jsonl");
        let mut part = Part::open(&place, "this").unwrap();
        append(&mut part, &[0, 1, 2]);
        let text = std::fs::read_to_string(&part.path).unwrap();
        let fewer: Vec<&str> = text.lines().take(5).collect();
        std::fs::write(&part.path, fewer.join("\n") + "\n").unwrap();
        let error = part.finish(&place, &ScorecardHeader { n: 3, ..Default::default() }).unwrap_err();
        assert!(error.to_string().contains("rows are missing"), "{error}");
        assert!(!place.exists());
    }
}
