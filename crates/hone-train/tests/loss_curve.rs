//! A training run against PyTorch + PEFT: the same start, data, objective and settings (golden files by
//! `tools/golden/loss_curve.py`).

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{example, prepared, recipe, stories, train_with};
use hone_edit::{EditStack, load_edit};
use hone_engine::{DType, Gradients, Tape, Tensor};
use hone_model::{Context, Model};
use hone_train::objective::next_token_loss;
use hone_train::{PreparedData, Recipe, Start};
use safetensors::SafeTensors;
use serde_json::Value;

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/loss_curve")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn setting(dtype: &str) -> (Arc<Model>, EditStack, Arc<PreparedData>, Recipe, Value) {
    let run: Value = serde_json::from_str(&std::fs::read_to_string(golden().join("run.json")).unwrap()).unwrap();
    let s = &run["settings"];
    let train = format!(
        "steps: {}, batch_size: {}, gradient_accumulation: {}, learning_rate: {}, warmup_steps: {}, weight_decay: {}, \
         max_grad_norm: {}, eps: {}, dtype: {dtype}",
        s["steps"],
        s["batch_size"],
        s["gradient_accumulation"],
        s["learning_rate"],
        s["warmup_steps"],
        s["weight_decay"],
        s["max_grad_norm"],
        s["eps"],
    );
    let recipe = recipe(&train, "shuffle: false");
    let examples = run["examples"].as_array().unwrap().iter().enumerate().map(|(row, e)| {
        let ids = e["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let trained = e["trained"].as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect();
        example(ids, trained, row + 1)
    });
    let data = prepared(examples.collect(), Vec::new(), &recipe);
    let model = stories(if dtype == "f32" { DType::F32 } else { DType::BF16 });
    let mut stack = load_edit(&golden().join("adapter"), &model).unwrap();
    stack.entries[0].trained = true;
    (model, stack, data, recipe, run)
}

#[test]
fn the_first_gradients_are_pytorchs() {
    let (model, stack, data, ..) = setting("f32");
    let batches = data.micro_batches(0);
    let trained: usize = batches.iter().map(|b| b.rows.len()).sum();
    let mut gradients = Gradients::new();
    for batch in &batches {
        let cx = Context { training: true, ..Context::new(Tape::recording(), stack.hooks(DType::F32), DType::F32) };
        let out = next_token_loss(&model, &cx, batch, trained as f32);
        cx.tape.backward(&out.loss, Tensor::full(out.loss.value.dims(), DType::F32, 1.0), &mut gradients);
    }
    let bytes = std::fs::read(golden().join("gradients.safetensors")).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let mut worst = 0f64;
    for (id, param) in stack.trained_params() {
        let view = theirs.tensor(&param.key).unwrap();
        let theirs: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let ours = gradients.param(id).unwrap_or_else(|| panic!("no gradient for {}", param.key));
        let (mut apart, mut size) = (0f64, 0f64);
        for (a, b) in ours.as_slice::<f32>().iter().zip(&theirs) {
            apart += f64::from(a - b).powi(2);
            size += f64::from(*b).powi(2);
        }
        let relative = (apart / size).sqrt();
        assert!(relative <= 1e-4, "{}: {relative:.1e}", param.key);
        worst = worst.max(relative);
    }
    eprintln!("gradients: at most {worst:.1e} apart");
}

fn largest_distance(dtype: &str) -> f64 {
    let (model, stack, data, recipe, golden) = setting(dtype);
    let directory = tempfile::tempdir().unwrap();
    let run = train_with(&model, stack, &data, &recipe, directory.path(), Start::Fresh, &mut |_, _| {});
    run.outcome.as_ref().unwrap();
    let (ours, theirs) = (run.losses(), numbers(&golden["losses"]));
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max)
}

#[test]
fn the_loss_curve_is_pytorchs() {
    let apart = largest_distance("f32");
    eprintln!("f32 losses: at most {apart:.1e} apart");
    assert!(apart <= 0.01, "{apart}");
}

#[test]
fn bf16_follows_the_f32_curve() {
    let apart = largest_distance("bf16");
    eprintln!("bf16 losses: at most {apart:.1e} from PyTorch's f32");
    assert!(apart <= 0.1, "{apart}");
}
