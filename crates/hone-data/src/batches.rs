//! Batches: which rows a training step reads, as a function of the step's number alone. Nothing is carried from step to
//! step, so a run resumed at step `s` reads exactly what it would have read.
//!
//! **Order.** Epoch `e` is a permutation of the rows. A permutation is drawn by Fisher and Yates's shuffle from SplitMix64
//! (Steele, Lea and Flood 2014), seeded with the first 8 bytes of `SHA-256("hone-data order 1" ‖ seed ‖ stream ‖ index)`
//! (little-endian `u64`s); a draw below `n` is the high half of a 128-bit product, with rejection (Lemire 2019, arXiv
//! 1805.10941). Stream 0 with index `e` is the order of epoch `e`; stream `1 + p` with index `c` is the order in which source
//! `p` of a mix is gone through for the `c`-th time.
//!
//! **Mixing.** An epoch has as many rows as there are. Without weights each comes once. With weights source `p` gives
//! `w_p / Σw` of them (largest remainder, at least one): it is gone through again and again, and an epoch goes on where the one
//! before it stopped. So a small source with a large weight repeats, a large one with a small weight is seen in parts.
//! Unpacked, a row is an example; packed, it is nearly a fixed number of tokens, so weights are shares of examples or of tokens.

use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::config::DataConfig;
use crate::encode::TokenisedExample;
use crate::error::DataError;
use crate::packing::{TrainRow, pack};

/// How rows are put together into steps.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOptions {
    /// Rows a step.
    pub batch_size: usize,
    /// A new order each epoch.
    pub shuffle: bool,
    /// Seed of the orders.
    pub seed: u64,
    /// A weight a source; empty for every row once an epoch.
    pub weights: Vec<f64>,
}

/// Which rows each step reads.
#[derive(Debug)]
pub struct BatchPlan {
    rows: Vec<TrainRow>,
    sources: Vec<Source>,
    batch_size: usize,
    shuffle: bool,
    seed: u64,
    /// The last epoch asked for: steps of one epoch come one after another.
    last: Mutex<Option<(usize, Arc<Vec<usize>>)>>,
}

/// A source of the mix: its rows and how many of them an epoch reads.
#[derive(Debug)]
struct Source {
    rows: Vec<usize>,
    quota: usize,
}

impl BatchPlan {
    /// Plans over packed (or single) rows. Fails without rows, with a batch size of 0, and where a source of the mix has no
    /// rows but a weight.
    pub fn new(rows: Vec<TrainRow>, options: PlanOptions) -> Result<BatchPlan, DataError> {
        let PlanOptions { batch_size, shuffle, seed, weights } = options;
        if batch_size == 0 {
            return Err(DataError::config("batch_size", "0", "at least 1", "set the batch size to 1 or more"));
        }
        if rows.is_empty() {
            let next = "check the data with `hone data show`".into();
            return Err(DataError::Nothing { what: "training", found: "no rows to put into batches".into(), next });
        }
        let parts = rows.iter().map(|r| r.part + 1).max().unwrap_or(0).max(weights.len());
        let mut by_part: Vec<Vec<usize>> = vec![Vec::new(); parts];
        for (index, row) in rows.iter().enumerate() {
            by_part[row.part].push(index);
        }
        let sizes: Vec<usize> = by_part.iter().map(Vec::len).collect();
        let quotas = if weights.is_empty() { sizes } else { quotas(&sizes, &weights)? };
        let sources = by_part.into_iter().zip(quotas).map(|(rows, quota)| Source { rows, quota }).collect();
        Ok(BatchPlan { rows, sources, batch_size, shuffle, seed, last: Mutex::new(None) })
    }

    /// Packs `examples` as the recipe says and plans over the rows. `max_length` is what the examples were encoded with.
    pub fn for_examples(
        examples: &[TokenisedExample],
        config: &DataConfig,
        max_length: usize,
        batch_size: usize,
    ) -> Result<BatchPlan, DataError> {
        let rows = pack(examples, config.packing, config.sequence_length.unwrap_or(max_length))?;
        let weights = config.weights();
        BatchPlan::new(rows, PlanOptions { batch_size, shuffle: config.shuffle, seed: config.seed, weights })
    }

    /// All rows, in the order of the data.
    pub fn rows(&self) -> &[TrainRow] {
        &self.rows
    }

    /// Rows an epoch reads.
    pub fn rows_per_epoch(&self) -> usize {
        self.sources.iter().map(|s| s.quota).sum()
    }

    /// Steps of an epoch; the last may be smaller than the batch size.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows_per_epoch().div_ceil(self.batch_size)
    }

    /// The rows step `step` reads (counted from 0 over all epochs).
    pub fn rows_of_step(&self, step: usize) -> Vec<&TrainRow> {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.order(epoch);
        let from = within * self.batch_size;
        let to = (from + self.batch_size).min(order.len());
        order[from..to].iter().map(|&r| &self.rows[r]).collect()
    }

    /// The documents step `step` reads, row by row.
    pub fn step(&self, step: usize) -> Vec<usize> {
        self.rows_of_step(step).into_iter().flat_map(|row| row.documents.iter().copied()).collect()
    }

    /// The order of an epoch, as indices of rows.
    pub fn order(&self, epoch: usize) -> Arc<Vec<usize>> {
        // A thread that panicked while holding the lock left at worst an order that is recomputed.
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*last {
            Some((of, order)) if *of == epoch => order.clone(),
            _ => {
                let order = Arc::new(self.make_order(epoch));
                *last = Some((epoch, order.clone()));
                order
            }
        }
    }

    fn make_order(&self, epoch: usize) -> Vec<usize> {
        let drawn: Vec<Vec<usize>> = (0..self.sources.len()).map(|p| self.draw(p, epoch)).collect();
        if !self.shuffle {
            return interleave(&drawn);
        }
        let drawn = drawn.concat();
        permutation(drawn.len(), self.seed, 0, epoch as u64).into_iter().map(|i| drawn[i]).collect()
    }

    /// The rows source `part` gives epoch `epoch`.
    fn draw(&self, part: usize, epoch: usize) -> Vec<usize> {
        let Source { rows, quota } = &self.sources[part];
        if *quota == rows.len() {
            return rows.clone();
        }
        let mut drawn = Vec::with_capacity(*quota);
        let mut at = epoch * quota;
        while drawn.len() < *quota {
            let (cycle, from) = (at / rows.len(), at % rows.len());
            let to = rows.len().min(from + quota - drawn.len());
            if self.shuffle {
                let order = permutation(rows.len(), self.seed, 1 + part as u64, cycle as u64);
                drawn.extend(order[from..to].iter().map(|&i| rows[i]));
            } else {
                drawn.extend_from_slice(&rows[from..to]);
            }
            at += to - from;
        }
        drawn
    }
}

/// Rows of an epoch by weight: `Σ sizes` shared out by largest remainder, every source at least one.
fn quotas(sizes: &[usize], weights: &[f64]) -> Result<Vec<usize>, DataError> {
    if weights.len() != sizes.len() {
        let found = format!("{} weights for {} sources", weights.len(), sizes.len());
        return Err(DataError::config("mix", found, "a weight a source", "give every entry of `mix` a `weight`"));
    }
    if let Some(part) = sizes.iter().position(|&n| n == 0) {
        return Err(DataError::config(
            format!("mix[{part}]"),
            "no example left to train on",
            "at least one",
            "remove the source, or see with `hone data show` why its rows were dropped",
        ));
    }
    let total: usize = sizes.iter().sum();
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| total as f64 * w / sum).collect();
    let mut quotas: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..sizes.len()).collect();
    by_remainder.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    let missing = total.saturating_sub(quotas.iter().sum());
    for &part in by_remainder.iter().cycle().take(missing) {
        quotas[part] += 1;
    }
    while let Some(none) = quotas.iter().position(|&q| q == 0) {
        // There are at least as many rows as sources, so another one has two.
        let most = (0..quotas.len()).max_by_key(|&p| quotas[p]).unwrap_or(none);
        quotas[most] -= 1;
        quotas[none] += 1;
    }
    Ok(quotas)
}

/// Merges lists evenly: the next row comes from the list that is furthest behind its share (the first of several).
fn interleave(lists: &[Vec<usize>]) -> Vec<usize> {
    let mut keyed: Vec<(usize, usize, usize)> = Vec::new();
    for (list, rows) in lists.iter().enumerate() {
        keyed.extend((0..rows.len()).map(|at| (list, at, rows.len())));
    }
    // The place of row `at` of `len` in the merged order is (at + 1/2) / len; compared without rounding.
    keyed.sort_by(|a, b| {
        let place = |x: &(usize, usize, usize), other: usize| (2 * x.1 as u128 + 1) * other as u128;
        place(a, b.2).cmp(&place(b, a.2)).then(a.0.cmp(&b.0))
    });
    keyed.into_iter().map(|(list, at, _)| lists[list][at]).collect()
}

/// A permutation of `0..len`, a function of the seed, the stream and the index; see the module's text.
pub fn permutation(len: usize, seed: u64, stream: u64, index: u64) -> Vec<usize> {
    let mut random = SplitMix64::seeded("hone-data order 1", &[seed, stream, index]);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    order
}

/// The generator of the module's text.
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// Seeded with the first 8 bytes of the hash of `label` and these words.
    pub(crate) fn seeded(label: &str, words: &[u64]) -> SplitMix64 {
        let mut hash = Sha256::new();
        hash.update(label);
        for word in words {
            hash.update(word.to_le_bytes());
        }
        let digest = hash.finalize();
        let mut key = [0; 8];
        key.copy_from_slice(&digest[..8]);
        SplitMix64(u64::from_le_bytes(key))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, each as likely.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        loop {
            let product = u128::from(self.next()) * u128::from(n);
            // `2^64 mod n` of the low halves would favour some results.
            if product as u64 >= n.wrapping_neg() % n {
                return (product >> 64) as u64;
            }
        }
    }
}
