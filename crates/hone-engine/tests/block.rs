//! Operations together against torch and transformers (`tools/golden/block.py`), and the same bits every time.

use std::sync::Arc;

use hone_engine::ops::linear::LinearPart;
use hone_engine::ops::{Activation, Dropout, LowRank};
use hone_engine::ops::{add, dropout, embedding, gated, layer_norm, linear, linears, lm_head_loss, rms_norm};
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor, Var, Weight, WeightRef};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/block.json")).unwrap()
}

#[test]
fn a_half_block_with_lora_under_a_cross_entropy_equals_torch() {
    let golden = golden();
    let names = ["x", "norm", "gate", "up", "down", "a", "b", "final_norm", "head"];
    let var = |name: &str| {
        let shape: Vec<usize> = numbers(&golden["shapes"][name]).iter().map(|d| *d as usize).collect();
        let id = names.iter().position(|n| *n == name).unwrap() as u32;
        Var::param(ParamId(id), Tensor::from_slice(&shape[..], &numbers(&golden["values"][name])))
    };
    let weight = |name: &str| WeightRef::Trained(var(name));
    let tape = Tape::recording();
    let x = var("x");
    let h = rms_norm(&tape, &x, &var("norm"), 1e-5, 0.0);
    let (gate, up) = (weight("gate"), weight("up"));
    let parts = [&gate, &up].map(|weight| LinearPart { weight, bias: None, terms: &[] });
    let inner = linears(&tape, &h, &parts);
    let act = gated(&tape, &inner[0], &inner[1], Activation::Silu);
    let term = LowRank { a: var("a"), b: var("b"), scale: 1.5, dropout: None };
    let y = linear(&tape, &act, &weight("down"), None, &[term]);
    let hidden = rms_norm(&tape, &add(&tape, &x, &y), &var("final_norm"), 1e-5, 1.0);
    let targets = numbers(&golden["targets"]);
    let (rows, targets): (Vec<u32>, Vec<u32>) =
        (0u32..).zip(targets).filter(|(_, t)| *t >= 0.0).map(|(i, t)| (i, t as u32)).unzip();
    let ones = vec![1.0; rows.len()];
    let loss = lm_head_loss(&tape, &hidden, &weight("head"), &rows, &targets, &ones, rows.len() as f32, None);

    let want = golden["loss"].as_f64().unwrap();
    assert!(
        (loss.loss.value.item() as f64 - want).abs() < 1e-6 * want,
        "loss {}, torch {want}",
        loss.loss.value.item()
    );
    let mut grads = Gradients::new();
    tape.backward(&loss.loss, Tensor::full([1], DType::F32, 1.0), &mut grads);
    for (id, name) in (0..).zip(names) {
        let got = grads.param(ParamId(id)).unwrap().to_vec_f32();
        let want = numbers(&golden["gradients"][name]);
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(&want) {
            assert!((g - w).abs() <= 2e-6 * largest, "gradient of {name}: {g}, torch {w}");
        }
    }
}

#[test]
fn norms_in_bf16_round_as_transformers_does() {
    let golden = &golden()["bf16"];
    let tensor = |name: &str, shape: &[usize]| Tensor::from_slice(shape, &numbers(&golden[name])).to_dtype(DType::BF16);
    let (x, w) = (Var::constant(tensor("x", &[8, 64])), Var::constant(tensor("weight", &[64])));
    for (model, offset) in [("llama", 0.0), ("gemma", 1.0)] {
        let got = rms_norm(&Tape::off(), &x, &w, 1e-5, offset).value.to_vec_f32();
        let want = numbers(&golden[model]);
        assert_eq!(got, want, "{model}");
    }
}

/// A pass over most operations, large enough to be cut between threads: output and every gradient.
fn run(dtype: DType, threads: usize) -> Vec<Vec<f32>> {
    const TOKENS: usize = 190;
    const WIDTH: usize = 160;
    const VOCABULARY: usize = 700;
    let root = RandomKey::new(1);
    let random = |name: &str, shape: &[usize]| {
        let key = root.named(name);
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n as u64).map(|i| key.normal(i) * 0.2).collect();
        Tensor::from_slice(shape, &values).to_dtype(dtype)
    };
    let param = |id: u32, shape: &[usize]| Var::param(ParamId(id), random(&format!("parameter {id}"), shape));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let tape = Tape::recording();
        let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 37 % VOCABULARY as u32).collect();
        let table = WeightRef::Trained(param(0, &[VOCABULARY, WIDTH]));
        let x = embedding(&tape, &table, &ids, 3.0, dtype);
        let h = rms_norm(&tape, &x, &param(1, &[WIDTH]), 1e-5, 0.0);
        let frozen = |name: &str| WeightRef::Frozen(Arc::new(Weight::dense(random(name, &[WIDTH, WIDTH]))));
        let mask = Dropout { p: 0.1, key: root.named("dropout") };
        let term = LowRank { a: param(2, &[8, WIDTH]), b: param(3, &[WIDTH, 8]), scale: 2.0, dropout: Some(mask) };
        let bias = param(4, &[WIDTH]);
        let (gate, up) = (frozen("gate"), frozen("up"));
        let inner = linears(
            &tape,
            &h,
            &[
                LinearPart { weight: &gate, bias: Some(&bias), terms: std::slice::from_ref(&term) },
                LinearPart { weight: &up, bias: None, terms: &[] },
            ],
        );
        let h = gated(&tape, &inner[0], &inner[1], Activation::GeluTanh);
        let h = add(&tape, &x, &dropout(&tape, &h, mask));
        let h = layer_norm(&tape, &h, &param(5, &[WIDTH]), Some(&param(6, &[WIDTH])), 1e-5);
        let rows: Vec<u32> = (0..TOKENS as u32).filter(|i| i % 3 != 0).collect();
        let weights = vec![1.0; rows.len()];
        let targets = &ids[..rows.len()];
        let loss = lm_head_loss(&tape, &h, &table, &rows, targets, &weights, rows.len() as f32, Some(10.0));
        let mut grads = Gradients::new();
        tape.backward(&loss.loss, Tensor::full([1], DType::F32, 1.0), &mut grads);
        let params = (0..7).map(|id| grads.param(ParamId(id)).unwrap().to_vec_f32());
        std::iter::once(h.value.to_vec_f32()).chain(params).collect()
    })
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    for dtype in [DType::F32, DType::BF16] {
        for threads in [1, 2, 3] {
            let first = run(dtype, threads);
            assert!(first.iter().flatten().all(|v| v.is_finite()));
            for _ in 0..3 {
                assert!(run(dtype, threads) == first, "{dtype} with {threads} threads");
            }
        }
    }
}
