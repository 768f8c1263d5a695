//! What was read, kept, dropped and encoded, as plain data: for the screen, the run's files and the report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::drops::Drops;
use crate::encode::TokenisedExample;
use crate::formats::Detection;
use crate::packing::TrainRow;

/// Everything about a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// The training files, then the validation files.
    pub files: Vec<FileReport>,
    /// Examples kept, by format.
    pub formats: BTreeMap<String, usize>,
    /// Rows read from all files, malformed ones included.
    pub rows_read: usize,
    /// Rows that were dropped, by reason; those dropped while encoding are added by then. `rows_read` is the number of
    /// examples kept and of rows dropped.
    pub drops: Drops,
    /// Examples that say the same as an earlier one, dropped or not.
    pub duplicates: usize,
    /// Validation examples that say the same as a training example.
    pub validation_in_training: usize,
    /// What else is to be said aloud.
    pub notes: Vec<String>,
    /// Training examples by length and share of trained tokens; set once they are encoded.
    pub train: SplitReport,
    /// Validation examples.
    pub validation: SplitReport,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
    /// The mix's entry it belongs to.
    pub part: usize,
    /// Whether it is a validation file.
    pub validation: bool,
    /// What its rows were taken for; `None` where it has none.
    pub detection: Option<Detection>,
    /// Rows read, malformed ones included.
    pub rows: usize,
    /// Examples kept.
    pub examples: usize,
    /// Reading stopped at `limit`.
    pub limited: bool,
}

/// Examples of one side of the split, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Examples before encoding.
    pub examples: usize,
    /// Sequences after encoding (more than examples where long ones were split).
    pub sequences: usize,
    /// Tokens of all sequences.
    pub tokens: usize,
    /// Tokens with a loss.
    pub trained_tokens: usize,
    /// Share of trained tokens by sequence.
    pub trained_share: Range,
    /// Length of the sequences in tokens.
    pub lengths: Lengths,
    /// Sequences that train no end-of-turn and no end-of-text token: from them the model does not learn where to stop.
    pub without_end: usize,
    /// Sequences that were cut.
    pub truncated_sequences: usize,
    /// Tokens cut off.
    pub truncated_tokens: usize,
}

/// Smallest, mean and largest of some numbers; zeros of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Largest.
    pub max: f64,
}

/// Lengths in tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Half are at most this long.
    pub median: usize,
    /// 95 in 100 are at most this long.
    pub p95: usize,
    /// Longest.
    pub max: usize,
    /// How many of which length, shortest first, up to the longest; buckets without any in between are kept.
    pub histogram: Vec<Bucket>,
}

/// Sequences of `from..below` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Shortest length.
    pub from: usize,
    /// The next bucket's shortest length.
    pub below: usize,
    /// How many.
    pub count: usize,
}

/// What packing made of the sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PackingReport {
    /// Rows.
    pub rows: usize,
    /// Documents in them.
    pub documents: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// Tokens as a share of what the rows could hold.
    pub fill: f64,
}

/// Numbers of one side of the split; `ends` are the model's end-of-turn and end-of-text ids.
pub fn split_report(examples: usize, sequences: &[TokenisedExample], ends: &[u32]) -> SplitReport {
    let endless =
        |s: &&TokenisedExample| !s.ids.iter().zip(&s.trained).any(|(id, trained)| *trained && ends.contains(id));
    let share = |s: &TokenisedExample| s.trained_tokens() as f64 / s.ids.len().max(1) as f64;
    let cut = |s: &&TokenisedExample| s.truncated > 0;
    SplitReport {
        examples,
        sequences: sequences.len(),
        tokens: sequences.iter().map(|s| s.ids.len()).sum(),
        trained_tokens: sequences.iter().map(TokenisedExample::trained_tokens).sum(),
        trained_share: range(sequences.iter().map(share)),
        lengths: lengths(sequences.iter().map(|s| s.ids.len()).collect()),
        without_end: sequences.iter().filter(endless).count(),
        truncated_sequences: sequences.iter().filter(cut).count(),
        truncated_tokens: sequences.iter().map(|s| s.truncated).sum(),
    }
}

/// Numbers of a packing.
pub fn packing_report(rows: &[TrainRow], examples: &[TokenisedExample], sequence_length: usize) -> PackingReport {
    let documents = rows.iter().map(|r| r.documents.len()).sum();
    let tokens = rows.iter().flat_map(|r| &r.documents).map(|&d| examples[d].ids.len()).sum();
    let room = (rows.len() * sequence_length).max(1);
    PackingReport { rows: rows.len(), documents, tokens, fill: tokens as f64 / room as f64 }
}

fn range(values: impl Iterator<Item = f64>) -> Range {
    let (mut n, mut sum, mut min, mut max) = (0usize, 0.0, f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (n, sum, min, max) = (n + 1, sum + value, min.min(value), max.max(value));
    }
    if n == 0 { Range::default() } else { Range { min, mean: sum / n as f64, max } }
}

fn lengths(mut all: Vec<usize>) -> Lengths {
    all.sort_unstable();
    let (Some(&min), Some(&max)) = (all.first(), all.last()) else { return Lengths::default() };
    let quantile = |share: f64| all[((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1];
    // Powers of two from 16.
    let mut histogram = Vec::new();
    let (mut from, mut below) = (0, 16);
    while from <= max {
        let count = all.partition_point(|&l| l < below) - all.partition_point(|&l| l < from);
        if count > 0 || !histogram.is_empty() {
            histogram.push(Bucket { from, below, count });
        }
        (from, below) = (below, below.saturating_mul(2));
    }
    Lengths { min, median: quantile(0.5), p95: quantile(0.95), max, histogram }
}
