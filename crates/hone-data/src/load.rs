//! From a recipe's `data` part to examples, and from examples to token ids: the one way through this crate.
//!
//! [`load`] reads the files, understands the rows, drops what is empty, counts duplicates and splits. [`tokenise`] encodes
//! both sides. Everything that is left out on the way is counted in the [`DataReport`].

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::codec::{Abilities, Codec};
use crate::config::{DataConfig, Duplicates, OnBadRow, SourceConfig};
use crate::drops::DropReason;
use crate::duplicates::{ContentHash, content_hash, row_hash};
use crate::encode::{EncodeOptions, TokenisedExample, encode_all};
use crate::error::DataError;
use crate::example::{Body, Example, SourceRef};
use crate::formats::{DETECTION_ROWS, Interpreter};
use crate::readers::{DataFile, RawRow, ReaderOptions, open, resolve};
use crate::report::{DataReport, FileReport, split_report};
use crate::shots::with_shots;
use crate::split::is_validation;

/// A data set that was read and split, in the order of the files.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Examples to train on.
    pub train: Vec<Example>,
    /// Examples held out.
    pub validation: Vec<Example>,
    /// What was read and dropped.
    pub report: DataReport,
}

/// A data set as token ids.
#[derive(Clone, Debug)]
pub struct Tokenised {
    /// Sequences to train on.
    pub train: Vec<TokenisedExample>,
    /// Sequences held out.
    pub validation: Vec<TokenisedExample>,
    /// What the sequences were cut to.
    pub max_length: usize,
    /// What was read, dropped and cut.
    pub report: DataReport,
}

/// Reads a data set. Relative paths start at `base` (the recipe's directory); `abilities` are the model's.
pub fn load(config: &DataConfig, base: &Path, abilities: Abilities) -> Result<Loaded, DataError> {
    let mut loader = Loader { config, base, abilities, seen: HashSet::new(), report: DataReport::default() };
    let sources = config.sources()?;
    let mut train = Vec::new();
    let mut validation = Vec::new();
    for (part, source) in sources.iter().enumerate() {
        let key = if config.mix.is_empty() { String::new() } else { format!("mix[{part}].") };
        for (row, hash) in loader.source(source, part, false, &key)? {
            match config.validation_fraction > 0.0 && is_validation(&hash, config.validation_fraction) {
                true => validation.extend(row),
                false => train.extend(row),
            }
        }
    }
    if let Some(source) = config.validation_source() {
        let trained: HashSet<ContentHash> = std::mem::take(&mut loader.seen);
        for (row, hash) in loader.source(&source, 0, true, "")? {
            loader.report.validation_in_training += if trained.contains(&hash) { row.len() } else { 0 };
            validation.extend(row);
        }
        if validation.is_empty() {
            return Err(nothing("validation", &loader.report));
        }
    }
    if train.is_empty() {
        return Err(nothing("training", &loader.report));
    }
    let mut report = loader.report;
    report.train.examples = train.len();
    report.validation.examples = validation.len();
    report.notes.extend(notes(config, abilities, &train, &validation, &report));
    Ok(Loaded { train, validation, report })
}

/// Encodes both sides of a data set for the model behind `codec`.
pub fn tokenise(loaded: &Loaded, config: &DataConfig, codec: &dyn Codec) -> Result<Tokenised, DataError> {
    let options = EncodeOptions::new(config, codec)?;
    let mut report = loaded.report.clone();
    let train = encode_all(&loaded.train, codec, &options, &mut report.drops)?;
    let validation = encode_all(&loaded.validation, codec, &options, &mut report.drops)?;
    if train.is_empty() {
        return Err(nothing("training", &report));
    }
    if validation.is_empty() && !loaded.validation.is_empty() {
        return Err(nothing("validation", &report));
    }
    let ends: Vec<u32> = codec.end_of_turn_ids().iter().copied().chain(codec.eos()).collect();
    report.train = split_report(loaded.train.len(), &train, &ends);
    report.validation = split_report(loaded.validation.len(), &validation, &ends);
    if report.train.without_end == report.train.sequences {
        report.notes.push(
            "no sequence trains an end-of-turn or end-of-text token, so the model will not learn where to stop: look at the \
             end of the examples in `hone data show`, and at `max_length`"
                .into(),
        );
    }
    Ok(Tokenised { train, validation, max_length: options.max_length, report })
}

/// A row as it was understood.
struct Understood {
    /// What it says, in each of its wordings.
    bodies: Vec<Body>,
    /// What it is told apart by, where that is not what it says.
    own: Option<ContentHash>,
    source: SourceRef,
}

struct Loader<'a> {
    config: &'a DataConfig,
    base: &'a Path,
    abilities: Abilities,
    seen: HashSet<ContentHash>,
    report: DataReport,
}

/// Rows, each as its examples (several where it has several wordings), with the hash of the first one: a row is on one side of
/// the split.
type Hashed = Vec<(Vec<Example>, ContentHash)>;

impl Loader<'_> {
    fn source(&mut self, source: &SourceConfig, part: usize, validation: bool, key: &str) -> Result<Hashed, DataError> {
        let patterns: Vec<String> = source.path.iter().chain(&source.files).cloned().collect();
        if patterns.is_empty() {
            let next = "add `path: train.jsonl`";
            return Err(DataError::config(format!("{key}path"), "no file", "`path` or `files`", next));
        }
        let interpreter = Interpreter::new(source, self.abilities, key)?;
        let mut kept = Vec::new();
        for file in resolve(&patterns, self.base, source.reader)? {
            let left = source.limit.map(|l| l.saturating_sub(kept.len()));
            if left == Some(0) {
                break;
            }
            let (bytes, sha256) = fingerprint(&file.path)?;
            let mut report = FileReport {
                path: file.path.to_path_buf(),
                bytes,
                sha256,
                part,
                validation,
                detection: None,
                rows: 0,
                examples: 0,
                limited: false,
            };
            self.file(&file, (source, key), &interpreter, left, &mut report, &mut kept)?;
            self.report.rows_read += report.rows;
            if let Some(detection) = &report.detection {
                *self.report.formats.entry(detection.format.clone()).or_default() += report.examples;
            }
            self.report.files.push(report);
        }
        Ok(kept)
    }

    fn file(
        &mut self,
        file: &DataFile,
        (source, key): (&SourceConfig, &str),
        interpreter: &Interpreter,
        limit: Option<usize>,
        report: &mut FileReport,
        kept: &mut Hashed,
    ) -> Result<(), DataError> {
        let options =
            ReaderOptions { field: source.field.clone(), sample_by: source.sample_by, ..ReaderOptions::default() };
        let mut rows = open(file, &options)?;
        let mut first: Vec<Result<RawRow, DataError>> = Vec::new();
        let mut readable = 0;
        while readable < DETECTION_ROWS
            && let Some(row) = rows.next()
        {
            readable += usize::from(row.is_ok());
            first.push(row);
        }
        let sample: Vec<RawRow> = first.iter().flatten().cloned().collect();
        let rows = first.into_iter().chain(rows);
        let rows = match source.shots {
            0 => Box::new(rows),
            count => with_shots(rows, count, limit, self.config.seed, key)?,
        };
        if sample.is_empty() {
            // Nothing but malformed rows, if any.
            return self.examples(rows.filter_map(Result::err).map(Err), limit, report, kept);
        }
        let reading = interpreter.detect(&file.path, &sample)?;
        report.detection = Some(reading.detection.clone());
        let understood = rows.map(|row| {
            let row = row?;
            let own = (source.shots > 0).then(|| row_hash(&row.columns));
            Ok(Understood { bodies: reading.read(&row)?, own, source: row.source })
        });
        self.examples(understood, limit, report, kept)
    }

    /// Keeps a file's rows as examples, up to `limit`.
    fn examples(
        &mut self,
        rows: impl Iterator<Item = Result<Understood, DataError>>,
        limit: Option<usize>,
        report: &mut FileReport,
        kept: &mut Hashed,
    ) -> Result<(), DataError> {
        let before = kept.len();
        for row in rows {
            if limit.is_some_and(|l| kept.len() - before >= l) {
                report.limited = true;
                break;
            }
            report.rows += 1;
            if let Some(row) = self.row(row, report.part)? {
                report.examples += row.0.len();
                kept.push(row);
            }
        }
        Ok(())
    }

    /// A row as its examples, all of them or none: `None` where it was dropped.
    fn row(
        &mut self,
        row: Result<Understood, DataError>,
        part: usize,
    ) -> Result<Option<(Vec<Example>, ContentHash)>, DataError> {
        let skip = self.config.on_bad_row == OnBadRow::Skip;
        let Understood { bodies, own, source } = match row {
            Ok(row) => row,
            Err(DataError::Row(error)) if skip => {
                let field = error.field.as_ref().map_or_else(String::new, |f| format!("`{f}`: "));
                let detail = format!("{field}found {}, expected {}", error.found, error.expected);
                self.report.drops.add(DropReason::Malformed, &error.place, detail);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // What the row says is what its first wording says.
        let Some(hash) = own.or_else(|| bodies.first().map(content_hash)) else { return Ok(None) };
        if !self.is_kept(&bodies, hash, &source) {
            return Ok(None);
        }
        let example = |(wording, body)| Example { source: source.clone(), part, wording, body };
        Ok(Some((bodies.into_iter().enumerate().map(example).collect(), hash)))
    }

    /// Whether a row says something, and, where the recipe asks for that, something new.
    fn is_kept(&mut self, bodies: &[Body], hash: ContentHash, source: &SourceRef) -> bool {
        if let Some(body) = bodies.iter().find(|body| body.is_empty()) {
            let detail = match body {
                Body::Text(_) => "no text",
                Body::Preference { .. } => "an answer without text",
                Body::PromptCompletion { .. } | Body::Conversation { .. } => "no answer",
            };
            self.report.drops.add(DropReason::Empty, source, detail);
            return false;
        }
        if !self.seen.insert(hash) {
            self.report.duplicates += 1;
            if self.config.duplicates == Duplicates::Drop {
                self.report.drops.add(DropReason::Duplicate, source, "says the same as an earlier row");
                return false;
            }
        }
        true
    }
}

/// Size and SHA-256 of a file.
fn fingerprint(path: &Path) -> Result<(u64, String), DataError> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(DataError::io(path))? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((bytes, hex))
}

fn nothing(what: &'static str, report: &DataReport) -> DataError {
    let found = match report.rows_read {
        0 => {
            let files: Vec<String> = report.files.iter().map(|f| format!("`{}`", f.path.display())).collect();
            format!("not a row in {}", files.join(", "))
        }
        rows => format!("{rows} rows read; dropped: {}", report.drops.summary()),
    };
    let next = match what {
        _ if report.rows_read == 0 => "check that these are the files you mean, and that they are whole",
        "validation" => "give other `validation_files`, or correct the reasons above",
        _ => "see `hone data show`; check `format`, `columns`, `train_on` and `max_length` against the reasons above",
    };
    DataError::Nothing { what, found, next: next.into() }
}

fn notes(
    config: &DataConfig,
    abilities: Abilities,
    train: &[Example],
    validation: &[Example],
    report: &DataReport,
) -> Vec<String> {
    let mut notes = Vec::new();
    if config.validation_fraction > 0.0 && validation.is_empty() {
        notes.push(format!(
            "no example fell into the validation split: {} of {} examples were to be expected; raise \
             `validation_fraction` or give `validation_files`",
            (train.len() as f64 * config.validation_fraction).round(),
            train.len()
        ));
    }
    let with_tools = |e: &&Example| match &e.body {
        Body::Conversation { variables, .. } => variables.contains_key("tools"),
        _ => false,
    };
    let tools = train.iter().filter(with_tools).count();
    if tools > 0 && !abilities.tool_calls {
        notes.push(format!("{tools} examples come with `tools`, which the model's chat template does not show"));
    }
    if report.duplicates > 0 && config.duplicates == Duplicates::Keep {
        notes.push(format!(
            "{} examples say the same as an earlier one and are kept; `duplicates: drop` leaves them out",
            report.duplicates
        ));
    }
    if report.validation_in_training > 0 {
        notes.push(format!(
            "{} of {} validation examples are also in the training data: their loss says nothing about unseen data",
            report.validation_in_training,
            validation.len()
        ));
    }
    notes
}
