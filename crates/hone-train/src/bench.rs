//! Times training steps on random tokens: the steps of [`crate::step`], so what is timed is what a run does, without its
//! files and validations.
//!
//! Operations are counted from the formulas of the products, two for a multiplication with its addition: `2·P` a token
//! forward for `P` weights met, as much again for the gradient of the input, and again for that of a trained weight; attention
//! over `c` visible tokens a query, `4·c·d` forward and twice that backward. What is recomputed on the way back is not
//! counted twice.

use std::time::Instant;

use hone_data::{DocumentRange, FlatBatch};
use hone_edit::EditStack;
use hone_engine::{DType, RandomKey};
use hone_model::{Context, Model, NoHooks};
use serde::Serialize;

use crate::error::TrainError;
use crate::machine::{cpu_seconds, peak_memory};
use crate::objective::next_token_loss;
use crate::optimizer::Optimizer;
use crate::recipe::{Optimizer as OptimizerKind, TrainConfig};
use crate::rules::Rules;
use crate::step::{self, Objective, Pass};

/// What to time.
#[derive(Clone, Debug)]
pub struct StepBench {
    /// Sequences a step.
    pub batch: usize,
    /// Tokens a sequence.
    pub seq: usize,
    /// Steps timed.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// Compute type.
    pub dtype: DType,
    /// Recompute layers on the way back.
    pub recompute: bool,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Of the tokens and the edit's first values.
    pub seed: u64,
    /// Batches of rows of token ids, to be taken in turn, instead of random ones.
    pub ids: Option<Vec<Vec<Vec<u32>>>>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepFigures {
    /// Tokens a second, by the median step.
    pub tokens_per_second: f64,
    /// Median wall seconds of a step.
    pub step_seconds_median: f64,
    /// Mean wall seconds of a step.
    pub step_seconds_mean: f64,
    /// The fastest step.
    pub step_seconds_min: f64,
    /// The slowest step.
    pub step_seconds_max: f64,
    /// Processor seconds a step, where the system tells it.
    pub cpu_seconds_per_step: Option<f64>,
    /// Largest resident memory of the process, loading included, in MiB.
    pub peak_rss_mib: f64,
    /// Loss of the first step (the base model's on the first batch).
    pub loss_first: f64,
    /// Loss of the last step.
    pub loss_last: f64,
    /// Trained parameters.
    pub trained_parameters: usize,
    /// Floating-point operations of a step, counted from the formulas.
    pub operations_per_step: f64,
}

/// Batches that alternate, so that no step sees the tokens of the one before.
const BATCHES: usize = 4;

/// Times steps of training `stack`, or of reading only where there is none.
pub fn run(
    model: &Model,
    mut stack: Option<EditStack>,
    bench: &StepBench,
    mut done: impl FnMut(usize),
) -> Result<StepFigures, TrainError> {
    let positions = model.spec.max_position_embeddings;
    if bench.batch == 0 || bench.seq < 2 || bench.seq > positions || bench.steps == 0 {
        return Err(TrainError::Setup {
            what: format!("{} steps of {} sequences of {} tokens", bench.steps, bench.batch, bench.seq),
            next: format!("take at least one of each, and 2 to {positions} tokens, which this model has places for"),
        });
    }
    model.release_pages();
    let train = TrainConfig { max_grad_norm: 0.0, optimizer: bench.optimizer, ..TrainConfig::default() };
    let mut optimizer = stack.as_ref().map(|stack| Optimizer::new(&train, stack));
    let consistency = stack.as_ref().and_then(|stack| Rules::of(stack).consistency());
    let objective = consistency.map_or(Objective::NextToken, Objective::TwoPasses);
    let batches = match &bench.ids {
        Some(given) => given.iter().map(|rows| given_batch(model, bench, rows)).collect::<Result<Vec<_>, _>>()?,
        None => (0..BATCHES).map(|index| flat(bench, random_ids(model, bench, index))).collect(),
    };
    if batches.is_empty() {
        return Err(TrainError::Setup { what: "no batch of token ids".into(), next: "give at least one".into() });
    }
    let (mut seconds, mut losses, mut cpu) = (Vec::new(), Vec::new(), None);
    for index in 0..bench.warmup + bench.steps {
        if index == bench.warmup {
            cpu = cpu_seconds();
        }
        let batch = &batches[index % batches.len()];
        let start = Instant::now();
        let targets = batch.rows.len();
        let nll = match (&mut stack, &mut optimizer) {
            (Some(stack), Some(optimizer)) => {
                let hooks = stack.hooks(bench.dtype);
                let key = Some(RandomKey::new(bench.seed).index(index as u64));
                let (dtype, recompute) = (bench.dtype, bench.recompute);
                let pass = Pass { hooks: &hooks, dtype, recompute, key, objective };
                let (sums, gradients) = step::gradients(model, &pass, std::slice::from_ref(batch), targets as f32);
                drop(hooks);
                step::update(stack, optimizer, &gradients, &train, 2e-4);
                sums.loss
            }
            _ => {
                let cx = Context::inference(std::sync::Arc::new(NoHooks), bench.dtype);
                next_token_loss(model, &cx, batch, 1.0).nll_sum
            }
        };
        losses.push(nll / targets as f64);
        if index >= bench.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
        done(index + 1);
    }
    let cpu_seconds_per_step = cpu.zip(cpu_seconds()).map(|(before, after)| (after - before) / bench.steps as f64);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    Ok(StepFigures {
        tokens_per_second: (bench.batch * bench.seq) as f64 / median,
        step_seconds_median: median,
        step_seconds_mean: seconds.iter().sum::<f64>() / seconds.len() as f64,
        step_seconds_min: seconds[0],
        step_seconds_max: seconds[seconds.len() - 1],
        cpu_seconds_per_step,
        peak_rss_mib: peak_memory() as f64 / f64::from(1 << 20),
        loss_first: losses[0],
        loss_last: losses[losses.len() - 1],
        trained_parameters: stack.as_ref().map_or(0, EditStack::trained_count),
        operations_per_step: operations(model, stack.as_ref(), bench),
    })
}

fn random_ids(model: &Model, bench: &StepBench, index: usize) -> Vec<u32> {
    let mut ids = vec![0u32; bench.batch * bench.seq];
    RandomKey::new(bench.seed).named("bench").index(index as u64).fill(0, &mut ids);
    ids.iter_mut().for_each(|id| *id %= model.spec.vocab_size as u32);
    ids
}

fn given_batch(model: &Model, bench: &StepBench, rows: &[Vec<u32>]) -> Result<FlatBatch, TrainError> {
    if rows.len() != bench.batch || rows.iter().any(|row| row.len() != bench.seq) {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        return Err(TrainError::Setup {
            what: format!("a batch of {} rows of {lengths:?} token ids", rows.len()),
            next: format!("give {} rows of {}, or other `--batch` and `--seq`", bench.batch, bench.seq),
        });
    }
    let (ids, vocabulary) = (rows.concat(), model.spec.vocab_size);
    match ids.iter().find(|id| **id as usize >= vocabulary) {
        Some(id) => Err(TrainError::Setup {
            what: format!("token id {id}"),
            next: format!("this model has ids below {vocabulary}"),
        }),
        None => Ok(flat(bench, ids)),
    }
}

/// Sequences one after another, all of whose tokens but the first are trained.
fn flat(bench: &StepBench, ids: Vec<u32>) -> FlatBatch {
    let seq = bench.seq as u32;
    let rows: Vec<u32> = (0..ids.len() as u32).filter(|row| row % seq != seq - 1).collect();
    FlatBatch {
        positions: (0..ids.len() as u32).map(|row| row % seq).collect(),
        segments: (0..bench.batch).map(|i| DocumentRange { start: i * bench.seq, len: bench.seq }).collect(),
        groups: vec![0; bench.batch],
        first_wordings: (0..bench.batch as u32).collect(),
        targets: rows.iter().map(|row| ids[*row as usize + 1]).collect(),
        weights: vec![1.0; rows.len()],
        rows,
        ids,
    }
}

/// Floating-point operations of a step.
fn operations(model: &Model, stack: Option<&EditStack>, bench: &StepBench) -> f64 {
    let spec = &model.spec;
    let tokens = (bench.batch * bench.seq) as f64;
    let linear: f64 = model.decoder.linears().map(|l| l.weight.elements() as f64).sum();
    // The last token of a sequence predicts nothing.
    let head = (spec.vocab_size * spec.hidden_size) as f64 * (1.0 - 1.0 / bench.seq as f64);
    let visible = |window: Option<usize>| {
        let (seq, window) = (bench.seq as f64, window.unwrap_or(bench.seq).min(bench.seq) as f64);
        // Rows below the window see all before them, the others a window each.
        (window * (window + 1.0) / 2.0 + (seq - window) * window) / seq
    };
    let attention: f64 = spec.layers.iter().map(|l| 4.0 * visible(l.window) * spec.query_width() as f64).sum();
    let forward = 2.0 * (linear + head) + attention;
    let Some(stack) = stack else { return tokens * forward };
    let trained = stack.trained_count() as f64;
    // Of full tuning everything is trained; an adapter's own maps are met beside the frozen ones.
    let whole = trained >= linear;
    let through = 2.0 * (linear + head) + 2.0 * attention;
    let own = if whole { 2.0 * (linear + head) } else { 6.0 * trained };
    tokens * (forward + through + own)
}
