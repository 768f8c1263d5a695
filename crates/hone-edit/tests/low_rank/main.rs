//! The low-rank methods among themselves: counts by formula, which of them are the same function at which settings, what
//! their first values are made of, and how AdaLoRA's ranks are shared out.

mod adalora;
#[path = "../common/mod.rs"]
mod common;

use std::path::Path;
use std::sync::Arc;

use common::{SMOL, STORIES, base, fields, planned_count};
use hone_edit::decompose::{singular_values, svd};
use hone_edit::files::{OUR_WEIGHTS, OURS, WEIGHTS, read_edit};
use hone_edit::merge::{Merger, logits};
use hone_edit::method::Role;
use hone_edit::{Base, Edit, EditStack, registry, save_edit};
use hone_engine::quant::nf4::LEVELS;
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor, matmul};
use hone_model::{LoadOptions, Model, TokenBatch};
use serde_json::json;

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn fresh(model: &Model, json: &str) -> Edit {
    let method = registry::from_recipe(&fields(json), &mut Vec::new()).unwrap();
    Edit::new(method, &Base::of(model), 7).unwrap()
}

/// The same edit with every trained parameter moved, the same way for parameters of one key.
fn moved(mut edit: Edit, by: f32) -> Edit {
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += by * key.normal(i as u64));
    }
    edit
}

fn value<'a>(edit: &'a Edit, end: &str) -> &'a Tensor {
    &edit.params.iter().find(|p| p.key.ends_with(end)).unwrap_or_else(|| panic!("no {end}")).value
}

fn set(edit: &mut Edit, end: &str, value: Tensor) {
    let param = edit.params.iter_mut().find(|p| p.key.ends_with(end)).unwrap_or_else(|| panic!("no {end}"));
    assert_eq!(param.value.dims(), value.dims());
    param.value = value;
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]])
}

fn outputs(model: &Model, edit: &Edit) -> Tensor {
    logits(&(&model.decoder, EditStack::of(edit.clone()).hooks(DType::F32)), DType::F32, &batch())
}

/// Largest difference, as a share of the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let largest = a.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
    pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

fn minus(a: &Tensor, b: &Tensor) -> Tensor {
    let values: Vec<f32> = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>()).map(|(a, b)| a - b).collect();
    Tensor::from_slice(a.dims(), &values)
}

fn times(a: &Tensor, b: &Tensor) -> Tensor {
    matmul::matmul_nn(a, b, DType::F32)
}

const Q: &str = "model.layers.1.self_attn.q_proj";
/// On one map.
const ON_Q: &str = r#""target_modules": ["layers.1.self_attn.q_proj"]"#;

fn weight(model: &Model) -> Tensor {
    Base::of(model).weight(&format!("{Q}.weight")).unwrap().to_f32()
}

/// The weight of `Q` with the edit folded in.
fn merged(model: &Model, edit: &Edit) -> Tensor {
    let (stack, base) = (EditStack::of(edit.clone()), Base::of(model));
    Merger::new(&stack, &base).unwrap().merged(&format!("{Q}.weight")).unwrap().unwrap()
}

/// Counts of Hugging Face PEFT 0.21 for the first of each method where it is known; the others are the formula's.
#[test]
fn parameter_counts_are_the_formulas() {
    let smol = base(&SMOL, false);
    let count = |json: &str| {
        let json = format!(r#"{{ {json}, "target_modules": ["q_proj", "v_proj"] }}"#);
        planned_count(&json, &smol).unwrap()
    };
    let (layers, q, v) = (30, (576, 576), (192, 576));
    let maps = |of_map: &dyn Fn((usize, usize)) -> usize| layers * (of_map(q) + of_map(v));
    assert_eq!(count(r#""type": "lora", "r": 8, "use_dora": true"#), 460_800 + maps(&|(o, _)| o));
    assert_eq!(count(r#""type": "lora", "r": 8, "lora_bias": true"#), 460_800 + maps(&|(o, _)| o));
    assert_eq!(count(r#""type": "lora", "r": 8, "trainable_token_indices": [5, 9]"#), 460_800 + 2 * 576);
    assert_eq!(count(r#""type": "lora", "r": 8, "init_lora_weights": "pissa""#), 460_800);
    assert_eq!(count(r#""type": "loha", "r": 8"#), 921_600);
    assert_eq!(count(r#""type": "lokr", "r": 8"#), 47_040);
    assert_eq!(count(r#""type": "adalora", "init_r": 12"#), 691_920);
    assert_eq!(count(r#""type": "vera", "r": 256"#), maps(&|(o, _)| o + 256));
    assert_eq!(count(r#""type": "miss", "r": 64"#), maps(&|(o, _)| 64 * o));
    assert_eq!(count(r#""type": "miss", "r": 64, "init_weights": "mini", "mini_r": 16"#), maps(&|_| 64 * 16));
    assert_eq!(count(r#""type": "miss", "r": 64, "init_weights": "bat""#), maps(&|(o, _)| 64 * o));
    let randlora = |(o, i): (usize, usize)| o.min(i).div_ceil(32) * (32 + o.min(i));
    assert_eq!(count(r#""type": "randlora", "r": 32"#), maps(&randlora));
    assert_eq!(count(r#""type": "delora", "r": 8"#), maps(&|(o, i)| 8 * (o + i) + 1));
    assert_eq!(count(r#""type": "gralora", "r": 32, "hybrid_r": 4"#), maps(&|(o, i)| 36 * (o + i)));
    let vblora = maps(&|(o, i)| 4 * (o + i) / 64 * 256);
    assert_eq!(count(r#""type": "vblora", "r": 4"#), vblora + 256 * 64);
    assert_eq!(count(r#""type": "c3a", "block_size": 64"#), maps(&|(o, i)| o * i / 64));
    assert_eq!(count(r#""type": "waveft""#), maps(&|_| 2592));
    assert_eq!(planned_count(r#"{"type": "hira", "r": 32}"#, &smol).unwrap(), 9_768_960);
    assert_eq!(planned_count(r#"{"type": "trainable_tokens", "token_indices": [1, 7, 9]}"#, &smol).unwrap(), 3 * 576);
    let table = planned_count(r#"{"type": "lora", "r": 8, "target_modules": ["embed_tokens"]}"#, &smol).unwrap();
    assert_eq!(table, 8 * (49152 + 576));
}

#[test]
fn rslora_is_lora_with_alpha_times_the_root_of_the_rank() {
    let model = stories();
    let rslora = fresh(&model, r#"{"type": "lora", "r": 4, "lora_alpha": 6, "use_rslora": true}"#);
    let lora = fresh(&model, r#"{"type": "lora", "r": 4, "lora_alpha": 12}"#);
    let (a, b) = (moved(rslora, 0.1), moved(lora, 0.1));
    assert_eq!(outputs(&model, &a).to_vec_f32(), outputs(&model, &b).to_vec_f32());
}

#[test]
fn lora_plus_makes_b_learn_faster_and_nothing_else() {
    let model = stories();
    let edit = fresh(&model, &format!(r#"{{"type": "lora", "r": 2, "loraplus_lr_ratio": 16, {ON_Q}}}"#));
    let factor = |end: &str| edit.params.iter().find(|p| p.key.ends_with(end)).unwrap().traits.learning_rate_factor;
    assert_eq!((factor("lora_A.weight"), factor("lora_B.weight")), (1.0, 16.0));
    // PEFT knows no such field; it stands beside the adapter and comes back.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter");
    save_edit(&edit, &path).unwrap();
    let config = std::fs::read_to_string(path.join("adapter_config.json")).unwrap();
    assert!(!config.contains("loraplus"), "{config}");
    assert!(std::fs::read_to_string(path.join(OURS)).unwrap().contains("\"loraplus_lr_ratio\": 16"));
    let read = read_edit(&path, &Base::of(&model)).unwrap();
    assert_eq!(read.method.fields()["loraplus_lr_ratio"], json!(16.0));
}

/// Norms of the rows of `W + s B A`.
fn row_norms(matrix: &Tensor) -> Tensor {
    let (rows, columns) = matrix.rows_cols();
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    let norms: Vec<f32> = matrix.as_slice::<f32>().chunks(columns).map(norm).collect();
    Tensor::from_slice([rows], &norms)
}

#[test]
fn dora_whose_magnitudes_are_the_norms_is_lora() {
    let model = stories();
    let mut dora = moved(fresh(&model, &format!(r#"{{"type": "lora", "r": 2, "use_dora": true, {ON_Q}}}"#)), 0.1);
    let lora = moved(fresh(&model, &format!(r#"{{"type": "lora", "r": 2, {ON_Q}}}"#)), 0.1);
    set(&mut dora, "lora_magnitude_vector", row_norms(&merged(&model, &lora)));
    let apart = distance(&outputs(&model, &lora), &outputs(&model, &dora));
    assert!(apart < 2e-6, "{apart}");
}

/// DoRA's norms are constants backward, so its gradients are derivatives only while the norms are held: when the pair
/// moves, the magnitudes have to move with the norms.
#[test]
fn doras_gradients_are_derivatives_with_the_norms_held() {
    const STEP: f32 = 0.01;
    let model = stories();
    let json = format!(r#"{{"type": "lora", "r": 2, "lora_alpha": 4, "use_dora": true, {ON_Q}}}"#);
    let dora = moved(fresh(&model, &json), 0.1);
    let weight = weight(&model);
    let norms = |edit: &Edit| {
        let change = times(value(edit, "lora_B.weight"), value(edit, "lora_A.weight"));
        let whole: Vec<f32> =
            weight.as_slice::<f32>().iter().zip(change.as_slice::<f32>()).map(|(w, c)| w + 2.0 * c).collect();
        row_norms(&Tensor::from_slice(weight.dims(), &whole))
    };
    let gradients = loss(&model, &dora).1;
    for (at, end) in ["lora_A.weight", "lora_B.weight"].into_iter().enumerate() {
        let key = RandomKey::new(5).named(end);
        let direction: Vec<f32> = (0..value(&dora, end).elements() as u64).map(|i| key.normal(i)).collect();
        let at_offset = |offset: f32| {
            let mut edit = dora.clone();
            let own = value(&dora, end);
            let values: Vec<f32> = own.as_slice::<f32>().iter().zip(&direction).map(|(v, d)| v + offset * d).collect();
            set(&mut edit, end, Tensor::from_slice(own.dims(), &values));
            let (before, now) = (norms(&dora), norms(&edit));
            let pairs = now.as_slice::<f32>().iter().zip(before.as_slice::<f32>());
            let m = value(&dora, "lora_magnitude_vector").as_slice::<f32>();
            let held: Vec<f32> = m.iter().zip(pairs).map(|(m, (now, before))| m * now / before).collect();
            set(&mut edit, "lora_magnitude_vector", Tensor::from_slice([held.len()], &held));
            loss(&model, &edit).0
        };
        let by_difference = (at_offset(STEP) - at_offset(-STEP)) / f64::from(2.0 * STEP);
        let gradient = gradients.param(ParamId(at as u32)).unwrap();
        let by_backward: f64 = gradient.as_slice::<f32>().iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let tolerance = 5e-3 + 5e-3 * by_backward.abs();
        assert!((by_difference - by_backward).abs() < tolerance, "{end}: {by_difference}, {by_backward} by backward");
    }
}

/// `Σ −ln p` of the next tokens, and its gradients.
fn loss(model: &Model, edit: &Edit) -> (f64, Gradients) {
    use hone_engine::ops;
    let (batch, stack) = (batch(), EditStack::training(edit.clone()));
    let cx = hone_model::Context {
        training: true,
        ..hone_model::Context::new(Tape::recording(), stack.hooks(DType::F32), DType::F32)
    };
    let hidden = model.decoder.hidden(&cx, &batch);
    let rows = |s: &ops::Segment| (s.start as u32..(s.start + s.len - 1) as u32).collect::<Vec<_>>();
    let rows: Vec<u32> = batch.segments.iter().flat_map(rows).collect();
    let targets: Vec<u32> = rows.iter().map(|r| batch.ids[*r as usize + 1]).collect();
    let weights = vec![1.0; rows.len()];
    let out = ops::lm_head_loss(&cx.tape, &hidden, &model.decoder.head(&cx), &rows, &targets, &weights, 1.0, None);
    let mut gradients = Gradients::new();
    cx.tape.backward(&out.loss, Tensor::full(out.loss.value.dims(), DType::F32, 1.0), &mut gradients);
    (out.nll_sum, gradients)
}

/// PEFT's conversion of PiSSA and OLoRA: `A' = [A; A₀]`, `B' = [B, −B₀]` on the weight as it was.
#[test]
fn pissa_and_olora_are_loras_of_twice_the_rank() {
    let model = stories();
    for init in ["pissa", "pissa_niter_8", "olora"] {
        let json = format!(r#"{{"type": "lora", "r": 2, "lora_alpha": 3, "init_lora_weights": "{init}", {ON_Q}}}"#);
        let edit = moved(fresh(&model, &json), 0.1);
        let mut twice = fresh(&model, &format!(r#"{{"type": "lora", "r": 4, "lora_alpha": 6, {ON_Q}}}"#));
        let (a, a0) = (value(&edit, "lora_A.weight"), value(&edit, "lora_A0.weight"));
        let (b, b0) = (value(&edit, "lora_B.weight"), value(&edit, "lora_B0.weight"));
        set(&mut twice, "lora_A.weight", Tensor::from_slice([4, 64], &[a.to_vec_f32(), a0.to_vec_f32()].concat()));
        let rows = b.as_slice::<f32>().chunks(2).zip(b0.as_slice::<f32>().chunks(2));
        let beside: Vec<f32> = rows.flat_map(|(b, b0)| [b[0], b[1], -b0[0], -b0[1]]).collect();
        set(&mut twice, "lora_B.weight", Tensor::from_slice([64, 4], &beside));
        let apart = distance(&outputs(&model, &twice), &outputs(&model, &edit));
        assert!(apart < 2e-6, "{init}: {apart}");
    }
}

#[test]
fn pissa_takes_the_largest_singular_values_out_of_the_weight() {
    let model = stories();
    let (weight, r) = (weight(&model), 4);
    let exact = svd(&weight).unwrap();
    for (init, tolerance) in [("pissa", 1e-5), ("pissa_niter_16", 1e-2)] {
        let json = format!(r#"{{"type": "lora", "r": {r}, "lora_alpha": 12, "init_lora_weights": "{init}", {ON_Q}}}"#);
        let edit = fresh(&model, &json);
        let (a, b) = (value(&edit, "lora_A.weight"), value(&edit, "lora_B.weight"));
        let taken = singular_values(&times(b, a)).unwrap();
        for (found, expected) in taken.iter().zip(&exact.s[..r]) {
            // `s` times the pair is the part of the weight.
            assert!((3.0 * found - expected).abs() < tolerance * expected, "{init}: {found}, {expected}");
        }
        let rest: Vec<f32> =
            weight.as_slice::<f32>().iter().zip(times(b, a).as_slice::<f32>()).map(|(w, p)| w - 3.0 * p).collect();
        let left = singular_values(&Tensor::from_slice(weight.dims(), &rest)).unwrap();
        assert!((left[0] - exact.s[r]).abs() < tolerance * exact.s[0], "{init}: {} is left of {}", left[0], exact.s[r]);
    }
}

#[test]
fn olora_starts_from_orthonormal_columns_and_orthogonal_from_a_product_of_nothing() {
    let model = stories();
    let json = |init: &str| format!(r#"{{"type": "lora", "r": 4, "init_lora_weights": "{init}", {ON_Q}}}"#);
    let olora = fresh(&model, &json("olora"));
    let b = value(&olora, "lora_B.weight");
    let gram = matmul::matmul_tn(b, b, DType::F32);
    let identity = |i: usize| f32::from(i.is_multiple_of(5));
    assert!(gram.as_slice::<f32>().iter().enumerate().all(|(i, v)| (v - identity(i)).abs() < 1e-5));
    let orthogonal = fresh(&model, &json("orthogonal"));
    let (a, b) = (value(&orthogonal, "lora_A.weight"), value(&orthogonal, "lora_B.weight"));
    let largest = |t: &Tensor| t.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(largest(&times(b, a)) < 1e-6 && largest(a) > 0.05 && largest(b) > 0.05);
}

#[test]
fn what_is_taken_out_comes_back_to_the_bit_and_an_adapter_of_pefts_own_makes_it_again() {
    let model = stories();
    let base = Base::of(&model);
    for init in ["pissa_niter_50", "olora"] {
        let json = format!(r#"{{"type": "lora", "r": 2, "init_lora_weights": "{init}", {ON_Q}}}"#);
        let edit = moved(fresh(&model, &json), 0.1);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adapter");
        save_edit(&edit, &path).unwrap();
        let bytes = std::fs::read(path.join(WEIGHTS)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.names().len(), 2, "{init}: PEFT's file holds what PEFT would write: {:?}", file.names());
        let read = read_edit(&path, &base).unwrap();
        assert_eq!(value(&read, "lora_A0.weight").as_bytes(), value(&edit, "lora_A0.weight").as_bytes());
        std::fs::remove_file(path.join(OUR_WEIGHTS)).unwrap();
        let made_again = read_edit(&path, &base).unwrap();
        let product = |edit: &Edit| times(value(edit, "lora_B0.weight"), value(edit, "lora_A0.weight"));
        // From another random subspace, so nearly the same; without one the same.
        let tolerance = if init == "olora" { 1e-6 } else { 1e-2 };
        assert!(distance(&product(&edit), &product(&made_again)) < tolerance, "{init}");
    }
}

#[test]
fn loftq_makes_up_for_rounding() {
    let model = stories();
    let weight = weight(&model);
    let norm = |t: &Tensor| t.as_slice::<f32>().iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    let mut last = f64::INFINITY;
    for rounds in [1, 5] {
        let json = format!(
            r#"{{"type": "lora", "r": 8, "init_lora_weights": "loftq",
            "loftq_config": {{"loftq_bits": 4, "loftq_iter": {rounds}}}, {ON_Q}}}"#
        );
        let edit = fresh(&model, &json);
        let change = times(value(&edit, "lora_B.weight"), value(&edit, "lora_A.weight"));
        let whole = merged(&model, &edit);
        let rounded = minus(&whole, &change);
        // Every block of 64 of the base is its largest magnitude times levels of NF4.
        for block in rounded.as_slice::<f32>().chunks(64) {
            let scale = block.iter().fold(0f32, |m, v| m.max(v.abs()));
            let is_level = |v: &f32| LEVELS.iter().any(|level| (v / scale - level).abs() < 1e-4);
            assert!(block.iter().all(is_level), "{rounds} rounds");
        }
        let (lost, left) = (norm(&minus(&weight, &rounded)), norm(&minus(&weight, &whole)));
        assert!(left < 0.9 * lost, "{rounds} rounds: {left} is left of {lost}");
        assert!(left < last, "{rounds} rounds: {left} after {last}");
        last = left;
    }
}

#[test]
fn a_pair_on_a_tied_table_leaves_the_head_alone_also_when_merged() {
    let model = stories();
    let edit = moved(fresh(&model, r#"{"type": "lora", "r": 2, "target_modules": ["embed_tokens"]}"#), 0.1);
    let (stack, base) = (EditStack::of(edit.clone()), Base::of(&model));
    let merger = Merger::new(&stack, &base).unwrap();
    let decoder = Arc::new(merger.decoder(&model.decoder, DType::F32).unwrap());
    let none: Arc<dyn hone_model::Hooks> = Arc::new(hone_model::NoHooks);
    let apart = distance(&outputs(&model, &edit), &logits(&(&decoder, none), DType::F32, &batch()));
    assert!(apart < 2e-6, "{apart}");
    let head = merger.merged("lm_head.weight").unwrap().unwrap();
    let table = base.weight("model.embed_tokens.weight").unwrap().to_f32();
    assert_eq!(head.as_bytes(), table.as_bytes());
    assert!(distance(&table, &merger.merged("model.embed_tokens.weight").unwrap().unwrap()) > 1e-2);
}

#[test]
fn lokr_with_a_first_factor_of_one_number_is_a_full_change() {
    let model = stories();
    let json = format!(r#"{{"type": "lokr", "r": 64, "alpha": 128, "decompose_factor": 1, {ON_Q}}}"#);
    let edit = moved(fresh(&model, &json), 0.1);
    let (first, second) = (value(&edit, "lokr_w1"), value(&edit, "lokr_w2"));
    assert_eq!((first.dims(), second.dims()), (&[1usize, 1][..], &[64usize, 64][..]));
    let factor = 2.0 * first.as_slice::<f32>()[0];
    let expected: Vec<f32> = second.as_slice::<f32>().iter().map(|v| factor * v).collect();
    let change = minus(&merged(&model, &edit), &weight(&model));
    assert!(distance(&Tensor::from_slice([64, 64], &expected), &change) < 1e-5);
}

#[test]
fn vera_with_b_of_zero_is_the_base_whatever_d() {
    let model = stories();
    let json = format!(r#"{{"type": "vera", "r": 6, {ON_Q}}}"#);
    let mut edit = moved(fresh(&model, &json), 0.1);
    set(&mut edit, "vera_lambda_b", Tensor::zeros([64], DType::F32));
    assert_eq!(outputs(&model, &edit).to_vec_f32(), outputs(&model, &fresh(&model, &json)).to_vec_f32());
}

#[test]
fn adalora_is_a_lora_whose_a_is_scaled() {
    let model = stories();
    let adalora = moved(fresh(&model, &format!(r#"{{"type": "adalora", "init_r": 3, "lora_alpha": 6, {ON_Q}}}"#)), 0.1);
    let mut lora = fresh(&model, &format!(r#"{{"type": "lora", "r": 3, "lora_alpha": 6, {ON_Q}}}"#));
    let (a, e) = (value(&adalora, "lora_A"), value(&adalora, "lora_E"));
    let rows = a.as_slice::<f32>().chunks(64).zip(e.as_slice::<f32>());
    let scaled: Vec<f32> = rows.flat_map(|(row, e)| row.iter().map(move |v| v * e)).collect();
    set(&mut lora, "lora_A.weight", Tensor::from_slice([3, 64], &scaled));
    set(&mut lora, "lora_B.weight", value(&adalora, "lora_B").clone());
    // PEFT's divisor is `r + 1e-5`.
    assert!(distance(&outputs(&model, &lora), &outputs(&model, &adalora)) < 1e-5);
}

#[test]
fn miss_with_one_shard_is_a_full_change() {
    let model = stories();
    let edit = moved(fresh(&model, &format!(r#"{{"type": "miss", "r": 64, {ON_Q}}}"#)), 0.1);
    let block = value(&edit, "miss_block").as_slice::<f32>();
    let turned: Vec<f32> = (0..64 * 64).map(|at| block[at % 64 * 64 + at / 64]).collect();
    let change = minus(&merged(&model, &edit), &weight(&model));
    assert!(distance(&Tensor::from_slice([64, 64], &turned), &change) < 1e-5);
}

fn refusal(json: &str) -> String {
    let base = base(&STORIES, false);
    let planned = registry::from_recipe(&fields(json), &mut Vec::new()).and_then(|m| m.plan(&base).map(|_| ()));
    planned.expect_err(json).to_string()
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let cases = [
        (r#"{"type": "lora", "init_lora_weights": "pisa"}"#, "`pissa`"),
        (r#"{"type": "lora", "init_lora_weights": "pissa_niter_many"}"#, "a number of rounds"),
        (r#"{"type": "lora", "init_lora_weights": "pissa", "r": 40}"#, "at most 32"),
        (r#"{"type": "lora", "init_lora_weights": "pissa", "lora_alpha": -4}"#, "above 0"),
        (r#"{"type": "lora", "init_lora_weights": "orthogonal", "r": 3}"#, "an even rank"),
        (r#"{"type": "lora", "init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 8}}"#, "4, the bits of NF4"),
        (r#"{"type": "lora", "init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 0}}"#, "1 to 100 rounds"),
        (r#"{"type": "lora", "lora_bias": true, "use_dora": true}"#, "neither with `use_dora`"),
        (r#"{"type": "lora", "use_dora": true, "init_lora_weights": "olora"}"#, "not built"),
        (r#"{"type": "lora", "use_dora": true, "target_modules": ["embed_tokens"]}"#, "linear maps only"),
        (r#"{"type": "lora", "loraplus_lr_ratio": 0}"#, "a number above 0"),
        (r#"{"type": "lora", "target_modules": ["lm_head"]}"#, "`modules_to_save`"),
        (r#"{"type": "lora", "trainable_token_indices": [512]}"#, "ids below 512"),
        (r#"{"type": "lora", "trainable_token_indices": [3, 3]}"#, "each token once"),
        (r#"{"type": "lora", "trainable_token_indices": []}"#, "ids of the tokens"),
        (r#"{"type": "trainable_tokens"}"#, "ids of the tokens"),
        (r#"{"type": "adalora", "target_r": 20}"#, "at most `init_r`"),
        (r#"{"type": "adalora", "total_step": 10, "tinit": 6, "tfinal": 4}"#, "more than both together"),
        (r#"{"type": "adalora", "r": 4}"#, "`init_r` and `target_r`"),
        (r#"{"type": "adalora", "use_dora": true}"#, "no magnitudes"),
        (r#"{"type": "vera", "bias": "lora_only"}"#, "`vera_only`"),
        (r#"{"type": "loha", "rank_dropout": 1.5}"#, "a probability"),
        (r#"{"type": "lokr", "decompose_factor": 0}"#, "-1 or a size"),
        (r#"{"type": "lokr", "init_weights": "random"}"#, "`lycoris`"),
        (r#"{"type": "miss", "r": 5, "init_weights": "bat"}"#, "a divisor of both sides"),
        (r#"{"type": "miss", "r": 100}"#, "at most 64"),
        (r#"{"type": "miss", "init_weights": "mini", "r": 4, "mini_r": 7}"#, "a divisor of"),
        (r#"{"type": "randlora", "randlora_alpha": 0}"#, "other than 0"),
        (r#"{"type": "gralora", "r": 5}"#, "a multiple of `gralora_k`"),
        (r#"{"type": "vblora", "topk": 300}"#, "the vectors there are"),
        (r#"{"type": "vblora", "vector_length": 24}"#, "a divisor of both sides"),
        (r#"{"type": "c3a", "block_size": 48}"#, "a divisor of both sides"),
        (r#"{"type": "waveft", "wavelet_family": "sym2"}"#, "longer wavelets are not built"),
    ];
    for (json, expected) in cases {
        let message = refusal(json);
        assert!(message.contains(expected), "{json}: {message}");
    }
}

/// An adapter says what its base was rounded to; another base than that is used and remarked on. The blocks of a file are its own
/// numbers, and what nobody noted is not guessed.
#[test]
fn a_base_that_is_rounded_otherwise_is_remarked_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    let rounded = |word: &str| {
        let model = Model::load_quantised(path.to_str().unwrap(), DType::F32, word.parse().unwrap()).unwrap();
        let base = Base::of(&model);
        assert_eq!(base.quantize, word);
        base
    };
    let (nf4, q8_0, whole) = (rounded("nf4"), rounded("q8_0"), Base::of(&stories()));
    let directory = tempfile::tempdir().unwrap();
    let saved = |name: &str, base: &Base| {
        let method = registry::from_recipe(&fields(r#"{"type": "lora", "r": 2}"#), &mut Vec::new()).unwrap();
        save_edit(&Edit::new(method, base, 7).unwrap(), &directory.path().join(name)).unwrap();
        directory.path().join(name)
    };
    let remarks = |dir: &Path, base: &Base| read_edit(dir, base).unwrap().warnings;
    let (on_nf4, on_whole) = (saved("nf4", &nf4), saved("whole", &whole));
    for (dir, base) in [(&on_nf4, &nf4), (&on_whole, &whole)] {
        assert!(remarks(dir, base).is_empty(), "{:?}", remarks(dir, base));
    }
    let said = |dir: &Path, base: &Base, [tuned, this, way]: [&str; 3]| {
        let expected =
            format!("it was tuned on its base {tuned}, and this one is {this}; {way} it runs as it was tuned");
        assert_eq!(remarks(dir, base), [expected]);
    };
    said(&on_nf4, &whole, ["in `nf4`", "as its files have it", "with `--quantize nf4`"]);
    said(&on_nf4, &q8_0, ["in `nf4`", "in `q8_0`", "with `--quantize nf4`"]);
    said(&on_whole, &nf4, ["as its files have it", "in `nf4`", "without `--quantize`"]);
    // Written again on another base it still says on which it was tuned.
    let again = directory.path().join("again");
    save_edit(&read_edit(&on_nf4, &whole).unwrap(), &again).unwrap();
    assert!(remarks(&again, &nf4).is_empty());
    let file = on_nf4.join(OURS);
    let mut ours: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(ours.as_object_mut().unwrap().remove("base_quantize"), Some(json!("nf4")));
    std::fs::write(&file, ours.to_string()).unwrap();
    assert!(remarks(&on_nf4, &whole).is_empty());
}
