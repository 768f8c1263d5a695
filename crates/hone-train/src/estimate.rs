//! What lies ahead, said before the first step: time, memory, tokens, trained parameters. Tokens are counted exactly, from
//! the very plan the run follows; speed and memory come from a timed forward and backward pass over some of the run's own
//! documents, which changes nothing.

use std::time::Instant;

use hone_data::{BatchPlan, StepBatch, TokenisedExample};
use hone_engine::pool;
use hone_model::Sharing;
use serde::Serialize;

use crate::machine::{available_memory, peak_memory};

/// Tokens the timed pass reads at most (at least one document).
const PROBE_TOKENS: usize = 1024;
/// Reading only, without a backward pass, takes about a third of the time (one of three equal products).
const FORWARD_SHARE: f64 = 1.0 / 3.0;

/// What lies ahead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Steps left.
    pub steps: usize,
    /// Passes over the data in all.
    pub epochs: f64,
    /// Training examples (sequences).
    pub examples: usize,
    /// Tokens the steps left will read.
    pub tokens: u64,
    /// Trained tokens among them.
    pub trained_tokens: u64,
    /// Trained parameters.
    pub trained_parameters: usize,
    /// Parameters of the model.
    pub model_parameters: usize,
    /// Bytes of the model's weights as they are held: in the compute type, or in few bits (`quantize`).
    pub model_bytes: u64,
    /// Validations left.
    pub validations: usize,
    /// Wall seconds, validations included.
    pub seconds: f64,
    /// Tokens a second the timed pass made.
    pub tokens_per_second: f64,
    /// Largest memory the process will hold, in bytes.
    pub peak_memory: u64,
    /// Memory that can be had beyond what is held now, in bytes, where the system tells it.
    pub available_memory: Option<u64>,
}

impl Estimate {
    /// What to say if the run will not fit.
    pub fn memory_warning(&self) -> Option<String> {
        let room = self.available_memory? + peak_memory();
        (self.peak_memory > room).then(|| {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            format!(
                "the run will take about {:.1} GiB and {:.1} GiB are there: lower `train.batch_size` (and raise \
                 `train.gradient_accumulation`), or set `train.recompute: true`",
                gib(self.peak_memory),
                gib(room)
            )
        })
    }
}

/// Rows that virtual tokens add to a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct VirtualRows {
    /// Virtual tokens before a sequence.
    pub tokens: usize,
    /// Which sequences share them.
    pub sharing: Sharing,
}

impl VirtualRows {
    /// Before a batch of so many documents.
    pub fn before(self, documents: usize) -> usize {
        match self.sharing {
            Sharing::All => self.tokens,
            Sharing::Group | Sharing::Sequence => self.tokens * documents,
        }
    }
}

/// Tokens of the steps `from..to`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Workload {
    /// Tokens.
    pub tokens: u64,
    /// Trained tokens among them.
    pub trained_tokens: u64,
    /// Virtual tokens computed beside them.
    pub virtual_tokens: u64,
    /// Tokens of the largest micro-batch, virtual ones included.
    pub largest_batch: usize,
}

/// Counts the tokens of steps `from..to`, `batch_size` rows a micro-batch.
pub fn workload(
    plan: &BatchPlan,
    examples: &[TokenisedExample],
    from: usize,
    to: usize,
    batch_size: usize,
    virtual_rows: VirtualRows,
) -> Workload {
    let mut load = Workload::default();
    for step in from..to {
        for rows in plan.rows_of_step(step).chunks(batch_size) {
            let documents = || rows.iter().flat_map(|row| &row.documents).map(|&d| &examples[d]);
            let tokens: usize = documents().map(|d| d.ids.len()).sum();
            load.tokens += tokens as u64;
            load.trained_tokens += documents().map(|d| d.trained_tokens() as u64).sum::<u64>();
            let virtual_tokens = virtual_rows.before(documents().count());
            load.virtual_tokens += virtual_tokens as u64;
            load.largest_batch = load.largest_batch.max(tokens + virtual_tokens);
        }
    }
    load
}

/// What the timed pass measured; virtual tokens count as tokens.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    tokens: usize,
    seconds: f64,
    /// Bytes of tensors it held beyond what was held before.
    activations: u64,
}

/// Times `pass` (forward and backward) over the first documents, as many as fit [`PROBE_TOKENS`].
pub fn time_a_pass(examples: &[TokenisedExample], virtual_rows: VirtualRows, pass: impl FnOnce(&StepBatch)) -> Timing {
    let mut documents: Vec<usize> = Vec::new();
    let mut tokens = 0;
    for (index, example) in examples.iter().enumerate() {
        if index > 0 && tokens + example.ids.len() > PROBE_TOKENS {
            break;
        }
        documents.push(index);
        tokens += example.ids.len();
    }
    tokens += virtual_rows.before(documents.len());
    let before = pool::stats();
    let start = Instant::now();
    pass(&StepBatch::new(examples, &documents));
    let activations = pool::stats().peak.saturating_sub(before.live) as u64;
    Timing { tokens, seconds: start.elapsed().as_secs_f64(), activations }
}

impl Timing {
    /// Tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }

    /// Seconds for `trained` tokens of training and `read` tokens of validation.
    pub fn seconds_for(&self, trained: u64, read: u64) -> f64 {
        (trained as f64 + read as f64 * FORWARD_SHARE) / self.tokens_per_second()
    }

    /// Peak memory of the run: what the process has held already, the optimiser's memory, and activations in
    /// proportion to the largest batch.
    pub fn peak_memory(&self, largest_batch: usize, optimizer_bytes: usize) -> u64 {
        let more = (largest_batch as f64 / self.tokens.max(1) as f64 - 1.0).max(0.0);
        peak_memory() + optimizer_bytes as u64 + (self.activations as f64 * more) as u64
    }

    /// Memory that can still be had.
    pub fn available_memory(&self) -> Option<u64> {
        available_memory()
    }
}
