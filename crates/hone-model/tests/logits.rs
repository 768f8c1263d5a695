//! Logits against `transformers`, on a small random checkpoint of every family and on real models
//! (`tools/golden/logits.py`).
//!
//! In f32 the largest difference is at most 1e-4 of the largest logit. In bf16 ours lie no further from `transformers`'
//! f32 logits than 1.5 times what its own bf16 logits do.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::Golden;
use hone_engine::ops::head_logits;
use hone_engine::{DType, Tensor};
use hone_model::files::ModelFiles;
use hone_model::spec::DecoderSpec;
use hone_model::{Context, Decoder, LoadOptions, NoHooks, TokenBatch};

const TINY: [&str; 10] = [
    "llama",
    "llama3-rope",
    "linear-rope",
    "yarn-rope",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gemma3",
];

fn decoder(path: &Path, dtype: DType, keep_quantised: bool) -> Arc<Decoder> {
    let files = ModelFiles::open(path).expect("a model");
    let config = files.config().expect("a config");
    let spec = DecoderSpec::from_config(&files.config_path(), &config).expect("a known architecture");
    let weights = files.weights().expect("weights");
    Arc::new(Decoder::load(spec, &weights, LoadOptions { dtype, keep_quantised }).expect("tensors that fit"))
}

/// Logits of every token of a batch, `[tokens, vocabulary]`.
fn logits(decoder: &Arc<Decoder>, batch: &TokenBatch, dtype: DType) -> Tensor {
    let cx = Context::inference(Arc::new(NoHooks), dtype);
    let hidden = decoder.hidden(&cx, batch).value;
    let rows: Vec<u32> = (0..batch.len() as u32).collect();
    head_logits(&hidden, &decoder.head(&cx), &rows, decoder.spec.logit_soft_cap)
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest, v| largest.max(v.abs()))
}

/// Largest difference over largest expected value; NaN counts as infinite.
fn worst(ours: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let differences = ours.iter().zip(expected).map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { a - b });
    largest(differences) / largest(expected.iter().copied())
}

fn mean_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / a.len() as f64
}

#[test]
fn small_checkpoints_of_every_family_give_the_logits_of_transformers() {
    for name in TINY {
        let path = Path::new("tests/golden/tiny").join(name);
        let golden = Golden::open(&path.join("golden.safetensors"));
        let sequences = [golden.ids("ids.0"), golden.ids("ids.1")];
        let batch = TokenBatch::from_sequences(&sequences);
        let expected: Vec<f32> = ["f32.0", "f32.1"].iter().flat_map(|n| golden.floats(n)).collect();
        let rounded: Vec<f32> = ["bf16.0", "bf16.1"].iter().flat_map(|n| golden.floats(n)).collect();

        let ours = logits(&decoder(&path, DType::F32, false), &batch, DType::F32).to_vec_f32();
        let worst = worst(&ours, &expected);
        eprintln!("{name}: f32 {worst:.1e} of the largest logit");
        assert!(worst <= 1e-4, "{name}: {worst:e} of the largest logit");

        let ours = logits(&decoder(&path, DType::BF16, false), &batch, DType::BF16).to_vec_f32();
        let (to_exact, theirs) = (mean_distance(&ours, &expected), mean_distance(&rounded, &expected));
        eprintln!("{name}: bf16 at {to_exact:.4} from f32, transformers at {theirs:.4}");
        assert!(to_exact <= 1.5 * theirs, "{name}: bf16 at {to_exact} from f32, transformers at {theirs}");
    }
}

#[test]
fn stories260k_gives_the_logits_of_transformers() {
    let golden = Golden::open(Path::new("tests/golden/stories260k.safetensors"));
    let path = Path::new("../../assets/stories260k");
    check_real("stories260k", path, &golden);
}

#[test]
fn real_models_give_the_logits_of_transformers() {
    for (name, file) in common::GGUF_MODELS {
        let Some(path) = common::cached(file) else { continue };
        let golden = Golden::open(Path::new(&format!("tests/golden/{name}.safetensors")));
        check_real(name, &path, &golden);
    }
}

#[test]
fn weights_kept_in_their_blocks_give_the_same_logits() {
    let Some(path) = common::cached(common::GGUF_MODELS[0].1) else { return };
    let batch = TokenBatch::from_sequences(&[vec![504u32, 2436, 3000, 17, 99, 28000]]);
    let expanded = logits(&decoder(&path, DType::F32, false), &batch, DType::F32);
    let kept = logits(&decoder(&path, DType::F32, true), &batch, DType::F32);
    let worst = worst(kept.as_slice::<f32>(), expanded.as_slice::<f32>());
    assert!(worst <= 1e-4, "{worst:e} of the largest logit");
}

/// What rounding activations to 8 bits costs: the next token hardly ever changes, logits move a little.
#[test]
fn eight_bit_products_stay_near_the_exact_logits() {
    for (name, file) in common::GGUF_MODELS {
        let Some(path) = common::cached(file) else { continue };
        let golden = Golden::open(Path::new(&format!("tests/golden/{name}.safetensors")));
        let prompt = golden.ids("prompt.0");
        let batch = TokenBatch::from_sequences(&[prompt[..prompt.len().min(32)].to_vec()]);
        let exact = decoder(&path, DType::F32, true);
        let expected = logits(&exact, &batch, DType::F32).to_vec_f32();
        let rounding = decoder(&path, DType::F32, true);
        let matrices = rounding.linears().count() + 1;
        assert_eq!(rounding.round_activations(), matrices, "{name}: every matrix of the file is quantised");
        let ours = logits(&rounding, &batch, DType::F32).to_vec_f32();
        assert_ne!(ours, expected, "{name}: nothing was rounded");
        let spread = {
            let mean = expected.iter().sum::<f32>() / expected.len() as f32;
            mean_distance(&expected, &vec![mean; expected.len()])
        };
        let moved = mean_distance(&ours, &expected) / spread;
        eprintln!("{name}: eight-bit products move logits by {:.2} % of their spread", 100.0 * moved);
        assert!(moved < 0.05, "{name}: {moved}");
    }
}

fn check_real(name: &str, path: &Path, golden: &Golden) {
    let sequences: Vec<Vec<u32>> = (0..3).map(|i| golden.ids(&format!("ids.{i}"))).collect();
    let batch = TokenBatch::from_sequences(&sequences);
    for dtype in [DType::F32, DType::BF16] {
        let decoder = decoder(path, dtype, false);
        let all = logits(&decoder, &batch, dtype);
        let (mut ours_to_exact, mut theirs_to_exact) = (0.0, 0.0);
        for (i, segment) in batch.segments.iter().enumerate() {
            let ours = all.narrow(segment.start..segment.start + segment.len);
            let expected = golden.floats(&format!("f32.{i}"));
            let chosen = match golden.try_ids(&format!("columns.{i}")) {
                Some(columns) => pick(&ours, &columns),
                None => ours.to_vec_f32(),
            };
            if dtype == DType::BF16 {
                ours_to_exact += mean_distance(&chosen, &expected);
                theirs_to_exact += mean_distance(&golden.floats(&format!("bf16.{i}")), &expected);
                continue;
            }
            let worst = worst(&chosen, &expected);
            eprintln!("{name}: prompt {i}: f32 {worst:.1e} of the largest logit");
            assert!(worst <= 1e-4, "{name}: prompt {i}: {worst:e} of the largest logit");
            // Where only some columns are kept, the log-sum-exp and the largest logit speak for the rest.
            if let Some(sums) = golden.try_floats(&format!("logsumexp.{i}")) {
                let largest_logit = golden.floats(&format!("largest.{i}"))[0];
                for (row, sum) in sums.into_iter().enumerate() {
                    let ours = log_sum_exp(ours.narrow(row..row + 1).as_slice::<f32>());
                    assert!((ours - sum).abs() <= 1e-4 * largest_logit, "{name}: prompt {i} row {row}: {ours} {sum}");
                }
                assert!((largest(ours.as_slice::<f32>().iter().copied()) / largest_logit - 1.0).abs() <= 1e-4);
            }
        }
        if dtype == DType::BF16 {
            eprintln!(
                "{name}: bf16 at {:.4} from f32, transformers at {:.4}",
                ours_to_exact / 3.0,
                theirs_to_exact / 3.0
            );
            assert!(ours_to_exact <= 1.5 * theirs_to_exact, "{name}: {ours_to_exact} against {theirs_to_exact}");
        }
    }
}

/// Of each row of `logits` the values at that row's `columns`.
fn pick(logits: &Tensor, columns: &[u32]) -> Vec<f32> {
    let (rows, vocabulary) = logits.rows_cols();
    let row = |r: usize| &logits.as_slice::<f32>()[r * vocabulary..(r + 1) * vocabulary];
    let chosen = columns.chunks(columns.len() / rows).enumerate();
    chosen.flat_map(|(r, columns)| columns.iter().map(move |&c| row(r)[c as usize])).collect()
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|v| f64::from(v - highest).exp()).sum();
    highest + sum.ln() as f32
}
