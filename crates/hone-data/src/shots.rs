//! Examples within examples: some other rows of a row's file, which its templates see as `shots`. So a model can be tuned to follow
//! examples, or to write them (Bigoulaeva et al. 2025, arXiv 2501.08716).
//!
//! Which rows is a function of `data.seed` and the row's place alone: distinct draws below the number of rows (Lemire 2019, arXiv
//! 1805.10941) from SplitMix64, seeded with the first 8 bytes of `SHA-256("hone-data shots 1" ‖ seed ‖ place)`, the row itself and its
//! copies passed over: a row never shows its own answer. They are drawn from the first `limit` rows that can be read, all of which are
//! held in memory.
//!
//! It does not know which rows will be held out or dropped: with `validation_fraction` a training example may show a held-out row.
//! `validation_files` draw from their own rows.

use std::collections::HashMap;

use serde_json::Value;

use crate::batches::SplitMix64;
use crate::duplicates::{ContentHash, row_hash};
use crate::error::{DataError, RowError};
use crate::readers::{RawRow, Rows};

/// What templates call them.
pub const COLUMN: &str = "shots";

/// Rows, each with `count` others of the first `limit` ones as its column `shots`. `key` is the source's place in the recipe.
pub fn with_shots(
    rows: impl Iterator<Item = Result<RawRow, DataError>> + Send + 'static,
    count: usize,
    limit: Option<usize>,
    seed: u64,
    key: &str,
) -> Result<Rows, DataError> {
    let mut rows = rows.fuse();
    let (mut read, mut pool) = (Vec::new(), Vec::new());
    while limit.is_none_or(|limit| pool.len() < limit)
        && let Some(row) = rows.next()
    {
        pool.extend(row.as_ref().ok().map(|row| (row_hash(&row.columns), Value::Object(row.columns.clone()))));
        read.push(row);
    }
    let mut copies: HashMap<ContentHash, usize> = HashMap::new();
    pool.iter().for_each(|(hash, _)| *copies.entry(*hash).or_default() += 1);
    if pool.len() <= count {
        return Err(DataError::config(
            format!("{key}{COLUMN}"),
            format!("{count} beside {} rows", pool.len()),
            "more rows in the file than shots, since a row is never its own",
            "lower `shots`, or raise `limit`",
        ));
    }
    let shown = read.into_iter().chain(rows).enumerate().map(move |(at, row)| {
        let mut row = row?;
        if row.columns.contains_key(COLUMN) {
            return Err(DataError::Row(Box::new(RowError {
                place: row.source,
                field: Some(COLUMN.into()),
                found: "a column of this name".into(),
                expected: "none: under it templates find the other rows that `data.shots` asks for".into(),
                next: "rename the column, or leave out `data.shots`".into(),
            })));
        }
        let own = row_hash(&row.columns);
        let others = pool.len() - copies.get(&own).copied().unwrap_or(0);
        if others < count {
            return Err(DataError::Row(Box::new(RowError {
                place: row.source,
                field: None,
                found: format!("{others} rows that differ from it"),
                expected: format!("{count}, as many as `data.shots` asks for"),
                next: "lower `shots`, or take copies of rows out of the file".into(),
            })));
        }
        let mut random = SplitMix64::seeded("hone-data shots 1", &[seed, at as u64]);
        let mut drawn: Vec<usize> = Vec::with_capacity(count);
        while drawn.len() < count {
            let next = random.below(pool.len() as u64) as usize;
            if pool[next].0 != own && !drawn.contains(&next) {
                drawn.push(next);
            }
        }
        let shots = drawn.into_iter().map(|next| pool[next].1.clone()).collect();
        row.columns.insert(COLUMN.into(), Value::Array(shots));
        Ok(row)
    });
    Ok(Box::new(shown))
}
