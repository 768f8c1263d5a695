//! `hone bench step`.

use std::path::{Path, PathBuf};

use hone_edit::{Base, Edit, EditStack, registry};
use hone_engine::{DType, ceiling, profile};
use hone_model::Quantise;
use hone_train::bench::{self, StepBench, StepFigures};
use hone_train::recipe::Optimizer;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::load::load_model_as;
use crate::args::Common;
use crate::fail::Failure;
use crate::progress;

/// Seconds of products at full speed, before the steps and after them.
const CEILING_SECONDS: f64 = 1.0;

/// Arguments of `hone bench step`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  hone bench step --model smollm2-135m-instruct --method lora --dtype bf16 --batch 4 --seq 256 --json"
)]
pub(super) struct Step {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    #[arg(long)]
    model: String,
    /// `forward` reads only; else the method to train.
    #[arg(long, default_value = "lora", value_name = "lora|full|forward")]
    method: String,
    /// Type to compute in.
    #[arg(long, default_value = "bf16", value_name = "f32|bf16")]
    dtype: DType,
    /// Keep the frozen linear maps in few bits.
    #[arg(long, value_name = Quantise::WORDS)]
    quantize: Option<Quantise>,
    /// Sequences a step.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens a sequence.
    #[arg(long, default_value_t = 256)]
    seq: usize,
    /// LoRA's rank, on all linear maps.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Steps timed.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Steps before them, which are not timed.
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Compute layers again on the way back instead of keeping what they made.
    #[arg(long)]
    recompute: bool,
    /// The optimiser, as a recipe names it.
    #[arg(long, default_value = "adamw", value_name = "adamw|adamw8bit|sgd")]
    optimizer: String,
    /// Also the share of each operation, forward and backward.
    #[arg(long)]
    profile: bool,
    /// Token ids to use instead of random ones: a JSON list of batches of rows, taken in turn.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Of the random tokens.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Serialize)]
struct Output {
    model: String,
    method: String,
    optimizer: String,
    dtype: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantize: Option<String>,
    batch: usize,
    seq: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    threads: usize,
    #[serde(flatten)]
    figures: StepFigures,
    gflops: f64,
    ceiling_gflops: f64,
    ceiling_share: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profile: Vec<Share>,
}

/// What one operation took.
#[derive(Serialize)]
struct Share {
    operation: &'static str,
    pass: &'static str,
    /// Of the timed steps, 0 to 1.
    share: f64,
    milliseconds_per_step: f64,
    calls_per_step: f64,
}

fn optimizer(word: &str) -> Result<Optimizer, Failure> {
    serde_json::from_value(Value::from(word)).map_err(|_| {
        Failure::user(format!("`--optimizer {word}`: there is no such optimiser"), "take adamw, adamw8bit or sgd")
    })
}

fn read_ids(path: &Path) -> Result<Vec<Vec<Vec<u32>>>, Failure> {
    let hint = "it should be a JSON list of batches, each a list of rows of token ids";
    let text = std::fs::read_to_string(path).map_err(|e| Failure::user(format!("{}: {e}", path.display()), hint))?;
    serde_json::from_str(&text).map_err(|e| Failure::user(format!("{}: {e}", path.display()), hint))
}

impl Step {
    pub(super) fn run(self, common: &Common) -> Result<u8, Failure> {
        let model = load_model_as(&self.model, self.dtype, self.quantize, common)?;
        let stack = match self.method.as_str() {
            "forward" => None,
            word => {
                let method = registry::from_recipe(&self.method_fields(word), &mut Vec::new())?;
                Some(EditStack::training(Edit::new(method, &Base::of(&model), self.seed)?))
            }
        };
        let before = self.ceiling();
        let bench = StepBench {
            batch: self.batch,
            seq: self.seq,
            steps: self.steps,
            warmup: self.warmup,
            dtype: self.dtype,
            recompute: self.recompute,
            optimizer: optimizer(&self.optimizer)?,
            seed: self.seed,
            ids: self.ids.as_deref().map(read_ids).transpose()?,
        };
        let bar = progress::bar((self.warmup + self.steps) as u64, "steps", common.quiet || common.json);
        let figures = bench::run(&model, stack, &bench, |done| {
            bar.set_position(done as u64);
            if self.profile && done == self.warmup {
                profile::start();
            }
        })?;
        let rows = if self.profile { profile::stop() } else { Vec::new() };
        bar.finish_and_clear();
        let ceiling_gflops = before.max(self.ceiling());
        let step_seconds = figures.step_seconds_mean;
        let gflops = figures.operations_per_step / figures.step_seconds_median / 1e9;
        let profile = self.shares(&rows, step_seconds);
        let output = Output {
            rank: (self.method == "lora").then_some(self.rank),
            model: self.model,
            method: self.method,
            optimizer: self.optimizer,
            dtype: self.dtype.to_string(),
            quantize: self.quantize.map(|quantise| quantise.to_string()),
            batch: self.batch,
            seq: self.seq,
            threads: rayon::current_num_threads(),
            figures,
            gflops,
            ceiling_gflops,
            ceiling_share: gflops / ceiling_gflops,
            profile,
        };
        super::print(&output, common)?;
        if !common.json {
            output.profile.iter().for_each(|row| {
                let (share, time) = (100.0 * row.share, row.milliseconds_per_step);
                println!(
                    "{:<24} {:<9} {share:>5.1} %  {time:>8.2} ms  {:>5.0} calls",
                    row.operation, row.pass, row.calls_per_step
                );
            });
        }
        Ok(0)
    }

    fn shares(&self, rows: &[profile::Row], step_seconds: f64) -> Vec<Share> {
        let steps = self.steps as f64;
        let share = |row: &profile::Row| Share {
            operation: row.name,
            pass: row.pass.name(),
            share: row.time.as_secs_f64() / steps / step_seconds,
            milliseconds_per_step: row.time.as_secs_f64() * 1e3 / steps,
            calls_per_step: row.calls as f64 / steps,
        };
        rows.iter().map(share).collect()
    }

    /// The method as a recipe would name it. LoRA: as the peers are set, all linear maps and twice the rank as alpha.
    fn method_fields(&self, word: &str) -> Map<String, Value> {
        let fields = match word {
            "lora" => {
                json!({ "type": word, "r": self.rank, "lora_alpha": 2 * self.rank, "target_modules": "all-linear" })
            }
            _ => json!({ "type": word }),
        };
        fields.as_object().cloned().unwrap_or_default()
    }

    fn ceiling(&self) -> f64 {
        match self.dtype {
            DType::BF16 => ceiling::measure_bf16_gflops(CEILING_SECONDS),
            _ => ceiling::measure_f32_gflops(CEILING_SECONDS),
        }
    }
}
