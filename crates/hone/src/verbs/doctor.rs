//! `hone doctor`: what this machine can do, what is in the cache, and a self-check of about five seconds.

use std::sync::Arc;
use std::time::Instant;

use hone_engine::{DType, Tensor, cpu, matmul};
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{LoadOptions, Model, NoHooks, pull};
use serde::Serialize;

use crate::args::Common;
use crate::fail::{Failure, OURS};
use crate::print::outln;

/// Arguments of `hone doctor`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  hone doctor --json | jq .self_check")]
pub struct Doctor {}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    processor: Processor,
    memory: Memory,
    cache: Cache,
    self_check: Vec<Check>,
}

#[derive(Serialize)]
struct Processor {
    name: String,
    processors: usize,
    threads: usize,
    features: Vec<&'static str>,
    bf16_kernel: &'static str,
    f32_kernel: &'static str,
    bf16_gflops: f64,
    f32_gflops: f64,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Memory {
    available_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Cache {
    directory: String,
    models: Vec<CachedModel>,
}

#[derive(Serialize)]
struct CachedModel {
    name: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Doctor {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let features = cpu::features();
        let mut notes = features.notes.clone();
        notes.extend(cpu::environment_problem());
        let processor = Processor {
            name: features.brand.clone(),
            processors: features.processors,
            threads: features.threads,
            features: features.levels.iter().map(|level| level.name()).collect(),
            bf16_kernel: cpu::bf16_kernel_name(),
            f32_kernel: cpu::f32_kernel_name(),
            bf16_gflops: gflops(DType::BF16),
            f32_gflops: gflops(DType::F32),
            notes,
        };
        let memory = Memory { available_bytes: hone_train::machine::available_memory() };
        let cached = pull::cached()?;
        let models = cached.into_iter().map(|m| CachedModel { name: m.name, bytes: m.bytes }).collect();
        let cache = Cache { directory: pull::models_directory()?.display().to_string(), models };
        let self_check = vec![products_agree(), tells_its_story()];
        let findings = Findings { version: env!("CARGO_PKG_VERSION"), processor, memory, cache, self_check };
        let healthy = findings.self_check.iter().all(|check| check.ok);
        if common.json {
            outln!("{}", serde_json::to_string(&findings)?)?;
        } else {
            print(&findings)?;
        }
        Ok(if healthy { 0 } else { OURS })
    }
}

/// Rate of a product the size of a small model's layer, best of about a second.
fn gflops(dtype: DType) -> f64 {
    let (m, n, k) = (1024, 1536, 576);
    let a = Tensor::full([m, k], dtype, 0.5);
    let b = Tensor::full([n, k], dtype, 0.25);
    let operations = 2.0 * (m * n * k) as f64;
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < 1.0 {
        let once = Instant::now();
        let _ = matmul::matmul_nt(&a, &b, dtype);
        best = best.min(once.elapsed().as_secs_f64());
    }
    operations / best / 1e9
}

/// The fast bf16 product against plain f64 sums.
fn products_agree() -> Check {
    let (m, n, k) = (37, 29, 83);
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 64.0;
    let a: Vec<f32> = (0..m * k).map(value).collect();
    let b: Vec<f32> = (0..n * k).map(|i| value(i + 7)).collect();
    let (a, b) =
        (Tensor::from_slice([m, k], &a).to_dtype(DType::BF16), Tensor::from_slice([n, k], &b).to_dtype(DType::BF16));
    let fast = matmul::matmul_nt(&a, &b, DType::F32).to_vec_f32();
    let (a, b) = (a.to_vec_f32(), b.to_vec_f32());
    let exact = |i: usize, j: usize| -> f64 { (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l])).sum() };
    let worst = (0..m * n).map(|at| (f64::from(fast[at]) - exact(at / n, at % n)).abs()).fold(0.0, f64::max);
    Check {
        name: "matrix products agree with f64 sums",
        ok: worst < 1e-3,
        detail: format!("{} kernel, largest difference {worst:.1e}", cpu::bf16_kernel_name()),
    }
}

/// The tiny model that ships with hone begins its story as it should.
fn tells_its_story() -> Check {
    const EXPECTED: &str = ", there was a little girl named Lily.";
    let name = "a model loads and generates";
    let told = || -> Result<String, Failure> {
        let path = pull::resolve("stories260k", &mut |_| {})?;
        let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
        let model = Model::load(&path.to_string_lossy(), options)?;
        let ids = model.tokenizer.encode("Once upon a time", true)?.ids;
        let config = GenerationConfig { max_new_tokens: 24, ..GenerationConfig::default() };
        let made = generate(&model, Arc::new(NoHooks), DType::F32, &[ids], &config, &mut |_, _| true)?;
        Ok(made.first().map(|g| g.text.clone()).unwrap_or_default())
    };
    match told() {
        Ok(text) => Check { name, ok: text.starts_with(EXPECTED), detail: format!("Once upon a time{text}") },
        Err(failure) => Check { name, ok: false, detail: failure.causes.join(": ") },
    }
}

fn print(findings: &Findings) -> Result<(), Failure> {
    let processor = &findings.processor;
    outln!("hone {}", findings.version)?;
    outln!("processor   {} ({} processors, {} threads used)", processor.name, processor.processors, processor.threads)?;
    outln!("  features  {}", processor.features.join(", "))?;
    outln!("  bf16      {} kernel, {:.0} GFLOP/s", processor.bf16_kernel, processor.bf16_gflops)?;
    outln!("  f32       {} kernel, {:.0} GFLOP/s", processor.f32_kernel, processor.f32_gflops)?;
    processor.notes.iter().try_for_each(|note| outln!("  note: {note}"))?;
    if let Some(bytes) = findings.memory.available_bytes {
        outln!("memory      {:.1} GiB free", bytes as f64 / f64::from(1 << 30))?;
    }
    outln!("cache       {}", findings.cache.directory)?;
    for model in &findings.cache.models {
        outln!("  {:<44} {:>7.1} MB", model.name, model.bytes as f64 / 1e6)?;
    }
    for check in &findings.self_check {
        outln!("{} {}: {}", if check.ok { "✓" } else { "✗" }, check.name, check.detail)?;
    }
    Ok(())
}
