//! Adapters made by Hugging Face PEFT give PEFT's logits here, and adapters written here give ours in PEFT.
//!
//! Golden files by `tools/golden/peft_lora.py`; the way back by `tools/golden/check_peft_loads.py`, run when
//! `HONE_PEERS_PYTHON` names a Python with torch, transformers and peft.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::golden::{Expected, TOLERANCE, adapter, compare, crate_path, load, tuned};
use hone_edit::files::{TensorFile, write_tensors};
use hone_edit::merge::{Merger, logit_difference, logits};
use hone_edit::{Base, Edit, EditStack, Role, load_edit, registry, save_edit};
use hone_engine::{DType, RandomKey, Tensor};
use hone_model::{Hooks, Model, NoHooks, TokenBatch};
use serde_json::json;
use sha2::{Digest, Sha256};

const STORIES_VARIANTS: [&str; 6] = ["plain", "rslora", "patterns", "regex", "saved_head", "saved_table"];
const QWEN_VARIANTS: [&str; 2] = ["bias_lora_only", "bias_all"];

fn stories() -> PathBuf {
    crate_path("../../assets/stories260k")
}

fn qwen() -> PathBuf {
    crate_path("tests/golden/tiny-qwen2")
}

fn cases() -> impl Iterator<Item = (PathBuf, &'static str)> {
    let stories = STORIES_VARIANTS.into_iter().map(|v| (stories(), v));
    stories.chain(QWEN_VARIANTS.into_iter().map(|v| (qwen(), v)))
}

/// Token ids and PEFT's logits.
fn expected(variant: &str) -> (TokenBatch, Tensor) {
    let expected = Expected::read(variant);
    (expected.batch(), expected.logits)
}

/// Every kind of LoRA this build trains, with random values.
fn random_edit(model: &Model, fields: serde_json::Value, seed: u64) -> Edit {
    let fields = fields.as_object().unwrap().clone();
    let method = registry::from_recipe(&fields, &mut Vec::new()).unwrap();
    let mut edit = Edit::new(method, &Base::of(model), seed).unwrap();
    for param in edit.params.iter_mut().filter(|param| param.traits.role == Role::Trained) {
        let key = RandomKey::new(seed).named(&param.key);
        let values = param.value.as_mut_slice::<f32>().iter_mut();
        values.enumerate().for_each(|(i, v)| *v += 0.1 * key.normal(i as u64));
    }
    edit
}

#[test]
fn adapters_made_by_peft_give_pefts_logits() {
    for (path, variant) in cases() {
        let model = load(&path);
        let (batch, theirs) = expected(variant);
        let stack = load_edit(&adapter(variant), &model).unwrap();
        let apart = compare(&tuned(&model, &stack, &batch), &theirs);
        eprintln!("{variant}: {apart:.1e} of the largest logit apart");
        assert!(apart <= TOLERANCE, "{variant}: {apart}");
        // And the adapter does something: the base model is far away.
        let base: Arc<dyn Hooks> = Arc::new(NoHooks);
        let plain = logits(&(&model.decoder, base), DType::F32, &batch);
        assert!(compare(&plain, &theirs) > 100.0 * TOLERANCE, "{variant}");
    }
}

#[test]
fn merged_weights_give_the_same_logits_and_come_apart_again() {
    for (path, variant) in cases() {
        let model = load(&path);
        let base = Base::of(&model);
        let (batch, theirs) = expected(variant);
        let stack = load_edit(&adapter(variant), &model).unwrap();
        let merger = Merger::new(&stack, &base).unwrap();
        let merged = Arc::new(merger.decoder(&model.decoder, DType::F32).unwrap());
        let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
        let apart = compare(&logits(&(&merged, plain.clone()), DType::F32, &batch), &theirs);
        assert!(apart <= TOLERANCE, "{variant}: {apart}");
        let difference = logit_difference(
            &(&model.decoder, stack.hooks(DType::F32)),
            &(&merged, plain),
            DType::F32,
            std::slice::from_ref(&batch),
        );
        assert!(difference.max <= TOLERANCE * difference.largest_logit && difference.tokens == 12, "{difference:?}");
        for name in merger.names() {
            let own = base.weight(name).unwrap().to_f32();
            let back = merger.unmerged(name, &merger.merged(name).unwrap().unwrap()).unwrap();
            let pairs = own.as_slice::<f32>().iter().zip(back.as_slice::<f32>());
            let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(apart <= 1e-6, "{variant}: {name}: {apart}");
        }
    }
}

#[test]
fn strength_scales_the_edit_and_a_disabled_one_is_the_base() {
    let model = load(&stories());
    let (batch, _) = expected("saved_head");
    let mut stack = load_edit(&adapter("saved_head"), &model).unwrap();
    let base: Arc<dyn Hooks> = Arc::new(NoHooks);
    let plain = logits(&(&model.decoder, base), DType::F32, &batch);
    let full = tuned(&model, &stack, &batch);

    stack.entries[0].enabled = false;
    assert_eq!(tuned(&model, &stack, &batch).as_bytes(), plain.as_bytes());
    stack.entries[0].enabled = true;
    stack.entries[0].strength = 0.0;
    assert_eq!(tuned(&model, &stack, &batch).as_bytes(), plain.as_bytes());
    // Half the edit is what merging half of it into the weights gives.
    stack.entries[0].strength = 0.5;
    let half = tuned(&model, &stack, &batch);
    let weights = Base::of(&model);
    let merged = Arc::new(Merger::new(&stack, &weights).unwrap().decoder(&model.decoder, DType::F32).unwrap());
    let none: Arc<dyn Hooks> = Arc::new(NoHooks);
    assert!(compare(&logits(&(&merged, none), DType::F32, &batch), &half) <= TOLERANCE);
    assert!(compare(&half, &full) > TOLERANCE && compare(&half, &plain) > TOLERANCE);
}

#[test]
fn stacked_edits_add_up_and_two_replacements_of_a_weight_are_refused() {
    let model = load(&stories());
    let (batch, _) = expected("plain");
    let lora =
        |seed| random_edit(&model, json!({ "type": "lora", "r": 2, "target_modules": ["q_proj", "up_proj"] }), seed);
    let mut both = EditStack::of(lora(1));
    both.push(EditStack::of(lora(2)).entries.remove(0)).unwrap();
    // Rank concatenation: two edits are one of twice the rank.
    let mut joined = random_edit(
        &model,
        json!({ "type": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"] }),
        3,
    );
    let (first, second) = (lora(1), lora(2));
    for (param, (a, b)) in joined.params.iter_mut().zip(first.params.iter().zip(&second.params)) {
        let (rows, columns) = param.value.rows_cols();
        let (a, b) = (a.value.as_slice::<f32>(), b.value.as_slice::<f32>());
        let values: Vec<f32> = match param.key.contains("lora_A") {
            true => a.iter().chain(b).copied().collect(),
            false => (0..rows).flat_map(|r| a[r * 2..][..2].iter().chain(&b[r * 2..][..2]).copied()).collect(),
        };
        param.value = Tensor::from_slice([rows, columns], &values);
    }
    let apart = compare(&tuned(&model, &both, &batch), &tuned(&model, &EditStack::of(joined), &batch));
    assert!(apart <= 1e-5, "{apart}");

    let full = || {
        EditStack::of(random_edit(&model, json!({ "type": "full", "target_modules": ["o_proj"] }), 1)).entries.remove(0)
    };
    both.push(full()).unwrap();
    let message = both.push(full()).unwrap_err().to_string();
    assert!(message.contains("both replace `model.layers.0.self_attn.o_proj`"), "{message}");
}

#[test]
fn full_tuning_trains_a_tied_table_once_and_follows_it_in_the_head() {
    let model = load(&stories());
    let (batch, _) = expected("plain");
    let edit = random_edit(&model, json!({ "type": "full" }), 5);
    assert_eq!(edit.params.iter().filter(|p| p.key.contains("embed_tokens") || p.key.contains("lm_head")).count(), 1);
    let stack = EditStack::of(edit);
    let base = Base::of(&model);
    let merger = Merger::new(&stack, &base).unwrap();
    let merged = Arc::new(merger.decoder(&model.decoder, DType::F32).unwrap());
    assert!(merged.lm_head.is_none());
    let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
    assert!(compare(&logits(&(&merged, plain), DType::F32, &batch), &tuned(&model, &stack, &batch)) <= 1e-6);
}

/// Edits of every kind, to be written here and read by PEFT.
fn written() -> Vec<(PathBuf, serde_json::Value)> {
    vec![
        (stories(), json!({ "type": "lora", "r": 4 })),
        (stories(), json!({ "type": "lora", "r": 3, "use_rslora": true, "target_modules": ["q_proj", "down_proj"] })),
        (
            stories(),
            json!({ "type": "lora", "r": 2, "target_modules": ["v_proj"], "rank_pattern": { "layers\\.1.*": 5 },
            "alpha_pattern": { "layers\\.2.*": 7 }, "layers_to_transform": [1, 2, 3] }),
        ),
        (stories(), json!({ "type": "lora", "r": 2, "modules_to_save": ["lm_head", "norm"] })),
        (stories(), json!({ "type": "lora", "r": 2, "modules_to_save": ["embed_tokens"] })),
        (stories(), json!({ "type": "lora", "r": 2, "target_modules": ".*layers\\.[02].*(q|gate)_proj" })),
        (qwen(), json!({ "type": "lora", "r": 2, "target_modules": ["q_proj"], "bias": "lora_only" })),
        (qwen(), json!({ "type": "lora", "r": 2, "target_modules": ["k_proj", "o_proj"], "bias": "all" })),
        // What is drawn from a seed or taken from the base's own values: made here, and made again or read there.
        (stories(), json!({ "type": "pvera", "r": 6, "projection_prng_key": 3, "save_projection": false })),
        (
            stories(),
            json!({ "type": "unilora", "r": 2, "theta_d_length": 300, "init_theta_d_bound": 0.5, "proj_seed": 11 }),
        ),
        (
            stories(),
            json!({ "type": "unilora", "r": 2, "theta_d_length": 40, "init_theta_d_bound": 0.5, "save_indices": true,
            "target_modules": ["v_proj", "down_proj"] }),
        ),
        (
            stories(),
            json!({ "type": "peanut", "r": 3, "depth": 2, "act_fn": "silu", "target_modules": ["q_proj", "up_proj"] }),
        ),
        (
            stories(),
            json!({ "type": "supertuning", "sparsity": 0.95, "r": 2, "target_modules": ["k_proj", "down_proj"] }),
        ),
    ]
}

/// The same of methods that decompose the base's weights: their last bits are a processor's own, so their files are not kept.
fn written_from_decompositions() -> Vec<(PathBuf, serde_json::Value)> {
    vec![
        (stories(), json!({ "type": "tinylora", "u": 5, "weight_tying": 0.7 })),
        (
            stories(),
            json!({ "type": "tinylora", "r": 4, "u": 7, "save_projection": false, "target_modules": ["o_proj"] }),
        ),
        (
            stories(),
            json!({ "type": "osf", "effective_rank": 0.8, "rank_pattern": { "down": 50 },
            "target_modules": ["v_proj", "down_proj"] }),
        ),
    ]
}

/// SHA-256 over an adapter's two files, but for where its base model lies.
fn digest(adapter: &Path) -> String {
    let config = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&config).unwrap();
    config.remove("base_model_name_or_path");
    let mut hash = Sha256::new();
    hash.update(serde_json::to_string(&config).unwrap());
    hash.update(std::fs::read(adapter.join("adapter_model.safetensors")).unwrap());
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn kept(number: usize, kind: &str) -> PathBuf {
    crate_path("tests/golden/peft/written").join(format!("{number}.{kind}"))
}

/// The adapter is, byte for byte, one that PEFT has read; the logits are those PEFT made with it.
#[test]
fn adapters_written_here_gave_the_same_logits_in_peft() {
    for (number, (path, fields)) in written().into_iter().enumerate() {
        let model = load(&path);
        let (batch, _) = expected("plain");
        let directory = tempfile::tempdir().unwrap();
        let edit = random_edit(&model, fields.clone(), number as u64);
        save_edit(&edit, directory.path()).unwrap();
        let known = std::fs::read_to_string(kept(number, "sha256")).unwrap();
        assert_eq!(
            digest(directory.path()),
            known.trim(),
            "{fields}: the files are no longer those PEFT read; have it read these (tools/golden/check_peft_loads.py)"
        );
        let ours = tuned(&model, &EditStack::of(edit), &batch);
        let theirs = TensorFile::read(&kept(number, "safetensors")).unwrap().tensor("logits", ours.dims()).unwrap();
        let apart = compare(&ours, &theirs);
        assert!(apart <= TOLERANCE, "{fields}: {apart}");
    }
}

/// The same, with PEFT at hand. Needs a Python with torch, transformers and peft.
#[test]
fn adapters_written_here_give_the_same_logits_in_peft() {
    let Ok(python) = std::env::var("HONE_PEERS_PYTHON") else {
        eprintln!("skipped: HONE_PEERS_PYTHON names no Python with peft");
        return;
    };
    let keep_all = std::env::var_os("HONE_WRITE_GOLDEN").is_some();
    let (kept_ones, others) = (written(), written_from_decompositions());
    let count = kept_ones.len();
    for (number, (path, fields)) in kept_ones.into_iter().chain(others).enumerate() {
        let keep = keep_all && number < count;
        let model = load(&path);
        let (batch, _) = expected("plain");
        let directory = tempfile::tempdir().unwrap();
        let adapter = directory.path().join("adapter");
        let edit = random_edit(&model, fields.clone(), number as u64);
        save_edit(&edit, &adapter).unwrap();
        let ours = tuned(&model, &EditStack::of(edit), &batch);
        let ids: Vec<f32> = batch.ids.iter().map(|i| *i as f32).collect();
        let ids = Tensor::from_slice([ids.len()], &ids);
        let expected = directory.path().join("expected.safetensors");
        write_tensors(&expected, [("ids", &ids), ("logits", &ours)].into_iter()).unwrap();
        let output = std::process::Command::new(&python)
            .arg(crate_path("../../tools/golden/check_peft_loads.py"))
            .args([&path, &adapter, &expected])
            .args(keep.then(|| kept(number, "safetensors")))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        eprintln!("{fields}: {}", said.trim());
        if keep {
            std::fs::write(kept(number, "sha256"), digest(&adapter)).unwrap();
        }
        assert!(output.status.success(), "{fields}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
