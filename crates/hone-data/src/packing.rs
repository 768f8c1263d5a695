//! Packing: several examples share a row of at most `sequence_length` tokens. The engine works on flat tokens without
//! padding, so a row is a budget of tokens and nothing else: documents of a row are segments of their own, never attend to
//! each other, and each starts at position 0. The loss of a packed row is the loss of its documents one by one.
//!
//! `in_order` fills rows with the examples as they come. `first_fit_decreasing` takes the longest first and puts each into
//! the first row that has room: at most 11/9 of the fewest possible rows and a small constant (Johnson 1973). Both are
//! functions of the lengths alone.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::encode::TokenisedExample;
use crate::error::DataError;

/// How examples are packed into rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// One example a row, or one row of the data in all its wordings.
    #[default]
    Off,
    /// Neighbours together, in the order of the data.
    InOrder,
    /// The longest first, each into the first row with room.
    FirstFitDecreasing,
}

/// One row of training: examples that are read in together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainRow {
    /// Indices of tokenised examples.
    pub documents: Vec<usize>,
    /// The mix's source they belong to (a packed row holds one source's examples).
    pub part: usize,
}

/// Packs `examples` into rows, source by source, each row at most `sequence_length` tokens (which [`Packing::Off`] does not
/// look at). Every example is in one row.
pub fn pack(
    examples: &[TokenisedExample],
    packing: Packing,
    sequence_length: usize,
) -> Result<Vec<TrainRow>, DataError> {
    if packing == Packing::Off {
        return Ok(together(examples));
    }
    if let Some((index, long)) = examples.iter().enumerate().find(|(_, e)| e.ids.len() > sequence_length) {
        let (place, length) = (long.source.clone(), long.ids.len());
        return Err(DataError::LongerThanRow { index, place, length, sequence_length });
    }
    let parts = examples.iter().map(|e| e.part + 1).max().unwrap_or(0);
    let mut rows = Vec::new();
    for part in 0..parts {
        let members: Vec<usize> = (0..examples.len()).filter(|&i| examples[i].part == part).collect();
        let lengths: Vec<usize> = members.iter().map(|&i| examples[i].ids.len()).collect();
        let packed = match packing {
            Packing::FirstFitDecreasing => first_fit_decreasing(&lengths, sequence_length),
            _ => in_order(&lengths, sequence_length),
        };
        let row = |row: Vec<usize>| TrainRow { documents: row.into_iter().map(|i| members[i]).collect(), part };
        rows.extend(packed.into_iter().map(row));
    }
    Ok(rows)
}

/// Examples one a row, and those that are one row of the data in several wordings in one.
fn together(examples: &[TokenisedExample]) -> Vec<TrainRow> {
    let same = |a: &TokenisedExample, b: &TokenisedExample| b.is_another_wording_of(a);
    let mut at = 0;
    let row = |wordings: &[TokenisedExample]| {
        let from = at;
        at += wordings.len();
        TrainRow { documents: (from..at).collect(), part: wordings[0].part }
    };
    examples.chunk_by(same).map(row).collect()
}

fn in_order(lengths: &[usize], room: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut left = 0;
    for (index, &length) in lengths.iter().enumerate() {
        match rows.last_mut() {
            Some(row) if length <= left => {
                row.push(index);
                left -= length;
            }
            _ => {
                rows.push(vec![index]);
                left = room - length;
            }
        }
    }
    rows
}

fn first_fit_decreasing(lengths: &[usize], room: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable, so that equal lengths keep the order of the data.
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut space = RowSpace::new(lengths.len(), room);
    for index in order {
        let row = space.take_first(lengths[index]);
        if row == rows.len() {
            rows.push(Vec::new());
        }
        rows[row].push(index);
    }
    rows
}

/// Room left in each row, as a binary tree of maxima, so that the first row with room is found in `log n` steps.
struct RowSpace {
    leaves: usize,
    /// Node `n` holds the largest room below it; children `2n` and `2n + 1`, leaves from `leaves`.
    most: Vec<usize>,
}

impl RowSpace {
    fn new(rows: usize, room: usize) -> RowSpace {
        let leaves = rows.max(1).next_power_of_two();
        RowSpace { leaves, most: vec![room; 2 * leaves] }
    }

    /// The first row with room for `length`; takes the room. With as many rows as documents there always is one.
    fn take_first(&mut self, length: usize) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.most[node] < length {
                node += 1;
            }
        }
        let row = node - self.leaves;
        self.most[node] -= length;
        while node > 1 {
            node /= 2;
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
        row
    }
}

const WORDS: [(&str, Packing); 3] =
    [("off", Packing::Off), ("in_order", Packing::InOrder), ("first_fit_decreasing", Packing::FirstFitDecreasing)];

impl Serialize for Packing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match WORDS.iter().find(|(_, p)| p == self) {
            Some((word, _)) if *self != Packing::Off => serializer.serialize_str(word),
            _ => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Packing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl serde::de::Visitor<'_> for Word {
            type Value = Packing;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`true`, `false`, `in_order` or `first_fit_decreasing`")
            }
            fn visit_bool<E>(self, on: bool) -> Result<Packing, E> {
                Ok(if on { Packing::FirstFitDecreasing } else { Packing::Off })
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Packing, E> {
                let known = WORDS.iter().find(|(w, _)| *w == word);
                known.map(|(_, p)| *p).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(word), &self))
            }
        }
        deserializer.deserialize_any(Word)
    }
}

impl JsonSchema for Packing {
    fn schema_name() -> Cow<'static, str> {
        "Packing".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How examples are packed into rows; `true` is `first_fit_decreasing`.",
            "enum": [true, false, "off", "in_order", "first_fit_decreasing"],
        })
    }
}
