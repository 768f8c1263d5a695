//! How fast a model reads and writes: tokens a second of prompts, and of continuations for one and for several lanes.
//!
//! `cargo run --release -p hone-model --example generation_speed -- MODEL [f32|bf16]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use hone_engine::DType;
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{LoadOptions, Model, NoHooks};

const PROMPT: usize = 512;
const NEW: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let reference = arguments.next().ok_or("a model: a directory or a GGUF file")?;
    let types: Vec<DType> = match arguments.next() {
        Some(dtype) => vec![dtype.parse()?],
        None => vec![DType::F32, DType::BF16],
    };
    for dtype in types {
        let started = Instant::now();
        let mut model = Model::load(&reference, LoadOptions { dtype, keep_quantised: false })?;
        println!("{dtype}: loaded in {:.2} s", started.elapsed().as_secs_f64());
        // Every continuation runs to its full length, so that there is something to count.
        model.end_ids.clear();
        let prompt = |length: usize| -> Vec<u32> {
            (0..length as u32).map(|i| 100 + i * 7919 % (model.spec.vocab_size as u32 - 100)).collect()
        };
        let run = |prompts: &[Vec<u32>], max_new_tokens: usize| -> Result<Duration, hone_model::ModelError> {
            let config = GenerationConfig { max_new_tokens, ..GenerationConfig::default() };
            let started = Instant::now();
            generate(&model, Arc::new(NoHooks), dtype, prompts, &config, &mut |_, _| true)?;
            Ok(started.elapsed())
        };
        let prompts = [prompt(PROMPT)];
        run(&prompts, 1)?; // packs the weights
        let reading = best(|| run(&prompts, 1))?;
        println!("{dtype}: prompt of {PROMPT}: {:.0} tokens/s", PROMPT as f64 / reading.as_secs_f64());
        for lanes in [1, 8, 32] {
            let prompts = vec![prompt(16); lanes];
            let start = best(|| run(&prompts, 1))?;
            let whole = best(|| run(&prompts, 1 + NEW))?;
            let rate = (lanes * NEW) as f64 / (whole.saturating_sub(start)).as_secs_f64();
            println!("{dtype}: {lanes} lanes: {rate:.1} tokens/s, {:.2} ms a step", lanes as f64 / rate * 1e3);
        }
    }
    Ok(())
}

/// The fastest of three: what the machine can do, not what else it was doing.
fn best<E>(mut run: impl FnMut() -> Result<Duration, E>) -> Result<Duration, E> {
    let mut best = run()?;
    for _ in 0..2 {
        best = best.min(run()?);
    }
    Ok(best)
}
