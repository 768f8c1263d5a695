//! `hone bench decode`.

use std::sync::Arc;
use std::time::Instant;

use hone_engine::{DType, profile};
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{LoadOptions, Model, NoHooks};
use hone_train::machine::{cpu_seconds, peak_memory};
use serde::Serialize;

use super::super::pull;
use crate::args::Common;
use crate::fail::Failure;

/// Arguments of `hone bench decode`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  hone bench decode --model model.gguf --prompt 512 --new 128 --batch 1 --json")]
pub(super) struct Decode {
    /// A Hugging Face directory, a GGUF file (its blocks stay as they are), or a name that `hone pull` knows.
    #[arg(long)]
    model: String,
    /// Type of the activations.
    #[arg(long, default_value = "bf16", value_name = "f32|bf16")]
    dtype: DType,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens to write.
    #[arg(long, default_value_t = 128)]
    new: usize,
    /// Sequences at once.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Multiply the file's blocks by the activations as they are, not rounded to 8 bits (slower).
    #[arg(long)]
    exact: bool,
    /// Also what each operation took of reading and writing together.
    #[arg(long)]
    profile: bool,
    /// Times it is done; the figures are medians.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
}

#[derive(Serialize)]
struct Output {
    model: String,
    dtype: String,
    prompt: usize,
    new: usize,
    batch: usize,
    threads: usize,
    load_seconds: f64,
    /// From the start of loading to the first token of the first run.
    first_token_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    /// Processor seconds of reading and writing once, the mean of the runs; where the system says.
    work_cpu_seconds: Option<f64>,
    peak_rss_mib: f64,
}

impl Decode {
    pub(super) fn run(self, common: &Common) -> Result<u8, Failure> {
        let path = pull::resolve(&self.model, common)?;
        let start = Instant::now();
        let mut model = Model::load(&path.to_string_lossy(), LoadOptions { dtype: self.dtype, keep_quantised: true })?;
        if !self.exact {
            model.decoder.round_activations();
        }
        let load_seconds = start.elapsed().as_secs_f64();
        // Every sequence is written to its full length, so that there is something to count.
        model.end_ids.clear();
        let longest = model.spec.max_position_embeddings;
        if self.prompt == 0 || self.batch == 0 || self.repeats == 0 || self.new < 2 || self.prompt + self.new > longest
        {
            let what = format!("{} and {} tokens, {} times {}", self.prompt, self.new, self.repeats, self.batch);
            return Err(Failure::user(
                what,
                format!("take at least a prompt of 1 and 2 new tokens, at most {longest} together"),
            ));
        }
        let (mut first_token_seconds, mut reading, mut writing) = (0.0, Vec::new(), Vec::new());
        let mut work_cpu_seconds = Some(0.0);
        for repeat in 0..self.repeats {
            let Once { read, write, cpu } = self.once(&model)?;
            work_cpu_seconds = work_cpu_seconds.zip(cpu).map(|(sum, cpu)| sum + cpu / self.repeats as f64);
            if repeat == 0 {
                first_token_seconds = load_seconds + read;
            }
            if self.profile && repeat == 0 {
                profile::start();
            }
            reading.push(read);
            writing.push(write);
        }
        let output = Output {
            prefill_tokens_per_second: (self.batch * self.prompt) as f64 / median(reading),
            decode_tokens_per_second: (self.batch * (self.new - 1)) as f64 / median(writing),
            model: self.model,
            dtype: self.dtype.to_string(),
            prompt: self.prompt,
            new: self.new,
            batch: self.batch,
            threads: rayon::current_num_threads(),
            load_seconds,
            first_token_seconds,
            work_cpu_seconds,
            peak_rss_mib: peak_memory() as f64 / f64::from(1 << 20),
        };
        super::print(&output, common)?;
        for row in profile::stop().iter().filter(|_| self.profile && !common.json) {
            let milliseconds = row.time.as_secs_f64() * 1e3;
            println!("{:<24} {:>8} calls  {milliseconds:>9.2} ms", row.name, row.calls);
        }
        Ok(0)
    }

    fn once(&self, model: &Model) -> Result<Once, Failure> {
        let vocabulary = model.spec.vocab_size as u32;
        // Prompts that share no beginning, or it would be read once for all.
        let prompt = |lane: usize| -> Vec<u32> {
            (0..self.prompt as u32).map(|i| (i * 7919 + 104_729 * lane as u32 + 100) % vocabulary).collect()
        };
        let prompts: Vec<Vec<u32>> = (0..self.batch).map(prompt).collect();
        let run = |max_new_tokens: usize| -> Result<f64, Failure> {
            let config = GenerationConfig { max_new_tokens, ..GenerationConfig::default() };
            let start = Instant::now();
            generate(model, Arc::new(NoHooks), self.dtype, &prompts, &config, &mut |_, _| true)?;
            Ok(start.elapsed().as_secs_f64())
        };
        let read = run(1)?;
        let before = cpu_seconds();
        let whole = run(self.new)?;
        let cpu = cpu_seconds().zip(before).map(|(after, before)| after - before);
        Ok(Once { read, write: (whole - read).max(1e-9), cpu })
    }
}

/// All prompts read and continued once.
struct Once {
    /// Seconds of reading up to the first token.
    read: f64,
    /// Seconds of the tokens after it.
    write: f64,
    /// Processor seconds of both.
    cpu: Option<f64>,
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
