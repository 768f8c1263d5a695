//! Dropped rows: each has a reason, each is counted, and the first few of every reason are kept to be shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::example::SourceRef;

/// Why a row is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The row could not be read or understood (`on_bad_row: skip` only; otherwise an error).
    Malformed,
    /// No text, or no answer.
    Empty,
    /// Says the same as an earlier row (`duplicates: drop` only).
    Duplicate,
    /// More than `max_length` tokens (`too_long: drop` only).
    TooLong,
    /// No token is trained: a conversation without an assistant's turn, a text of one token.
    NoTrainedTokens,
    /// Every trained token lies behind `max_length`.
    AllTruncated,
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DropReason::Malformed => "malformed",
            DropReason::Empty => "empty",
            DropReason::Duplicate => "duplicate",
            DropReason::TooLong => "too long",
            DropReason::NoTrainedTokens => "no trained tokens",
            DropReason::AllTruncated => "all trained tokens cut off",
        })
    }
}

/// A dropped row, kept to be shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Where it was.
    pub source: SourceRef,
    /// What about it.
    pub detail: String,
}

/// Dropped rows by reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drops {
    /// How many, by reason.
    pub counts: BTreeMap<DropReason, usize>,
    /// The first few of each reason.
    pub first: BTreeMap<DropReason, Vec<Dropped>>,
}

/// Rows of each reason kept to be shown.
const SHOWN: usize = 3;

impl Drops {
    /// Counts a row.
    pub fn add(&mut self, reason: DropReason, source: &SourceRef, detail: impl Into<String>) {
        *self.counts.entry(reason).or_default() += 1;
        let first = self.first.entry(reason).or_default();
        if first.len() < SHOWN {
            first.push(Dropped { source: source.clone(), detail: detail.into() });
        }
    }

    /// Counts the rows of `other` after these.
    pub fn merge(&mut self, other: Drops) {
        for (reason, count) in other.counts {
            *self.counts.entry(reason).or_default() += count;
        }
        for (reason, dropped) in other.first {
            let first = self.first.entry(reason).or_default();
            first.extend(dropped);
            first.truncate(SHOWN);
        }
    }

    /// All dropped rows.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// How many for one reason.
    pub fn count(&self, reason: DropReason) -> usize {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// One line: `3 empty, 1 malformed`; and the first row of each reason.
    pub fn summary(&self) -> String {
        if self.counts.is_empty() {
            return "none dropped".into();
        }
        let part = |(reason, count): (&DropReason, &usize)| {
            let first = self.first.get(reason).and_then(|f| f.first());
            let shown = first.map_or_else(String::new, |d| format!(" (first: {}: {})", d.source, d.detail));
            format!("{count} {reason}{shown}")
        };
        self.counts.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}
