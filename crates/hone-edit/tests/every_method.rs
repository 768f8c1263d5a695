//! What holds for every method of the registry, on the tiny model that ships here: it starts where its formula says, its
//! gradients are derivatives, its files bring back the same bits, merging changes no logits and can be undone, nothing but its
//! own parameters takes a gradient, switched off it is not there, and its text continues with a cache as without one.
//!
//! A new method adds a line to [`cases`].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};

use hone_edit::files::read_edit;
use hone_edit::merge::{Merger, logits};
use hone_edit::method::{Mergeable, QuantisedBase, Role};
use hone_edit::registry::{self, METHODS};
use hone_edit::stack::check_group;
use hone_edit::{Base, Edit, EditError, EditStack, StackEntry, save_edit};
use hone_engine::ops::{self, Segment};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor};
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{Context, LoadOptions, Model, NoHooks, Quantise, TokenBatch};
use serde_json::{Value, json};

/// A method at one setting.
struct Case {
    recipe: Value,
    /// Whether a fresh edit leaves the model as it is.
    identity: bool,
    /// Whether its gradients are derivatives; a step that is passed straight through has none, and a test of its own.
    smooth: bool,
    /// How far its values are moved to see what that does to the loss.
    step: f32,
}

fn starts_unchanged(recipe: Value) -> Case {
    Case { recipe, identity: true, smooth: true, step: 0.01 }
}

fn starts_changed(recipe: Value) -> Case {
    Case { identity: false, ..starts_unchanged(recipe) }
}

/// Values so small that the usual step would be a fifth of them.
fn starts_near_zero(recipe: Value) -> Case {
    Case { step: 0.001, ..starts_changed(recipe) }
}

fn passes_straight_through(recipe: Value) -> Case {
    Case { smooth: false, ..starts_unchanged(recipe) }
}

/// A tuned edit on the disk, for methods that start from one.
fn tuned() -> &'static str {
    static DIRECTORY: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let make = || {
        let directory = tempfile::tempdir().unwrap();
        let edit = moved(fresh(&stories(), &json!({ "type": "full", "target_modules": ["q_proj", "down_proj"] })));
        save_edit(&edit, &directory.path().join("tuned")).unwrap();
        let path = directory.path().join("tuned").to_str().unwrap().to_string();
        (directory, path)
    };
    &DIRECTORY.get_or_init(make).1
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        starts_unchanged(json!({ "type": "lora", "r": 2 })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "use_rslora": true, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "loraplus_lr_ratio": 16, "lora_bias": true, "target_modules": ["q_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "use_dora": true, "target_modules": ["v_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "use_dora": true, "lora_dropout": 0.1, "target_modules": ["o_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "init_lora_weights": "orthogonal", "target_modules": ["q_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "init_lora_weights": "pissa", "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "init_lora_weights": "pissa_niter_4", "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "init_lora_weights": "olora", "target_modules": ["q_proj", "up_proj"] })),
        starts_changed(json!({ "type": "lora", "r": 2, "init_lora_weights": "loftq", "target_modules": ["q_proj", "down_proj"] })),
        starts_changed(json!({ "type": "lora", "r": 2, "init_lora_weights": "loftq", "loftq_config": { "loftq_bits": 4, "loftq_iter": 3 }, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "target_modules": ["embed_tokens", "v_proj"] })),
        starts_unchanged(json!({ "type": "lora", "r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [403, 17] })),
        starts_unchanged(json!({ "type": "adalora", "init_r": 3, "target_r": 2 })),
        starts_unchanged(json!({ "type": "vera", "r": 6 })),
        starts_unchanged(json!({ "type": "vera", "r": 6, "save_projection": false, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "pvera", "r": 6 })),
        starts_unchanged(json!({ "type": "pvera", "r": 6, "save_projection": false, "generator_seed": 9, "pvera_dropout": 0.2, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "loha", "r": 2, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "lokr", "r": 2, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "lokr", "r": 2, "decompose_both": true, "init_weights": "lycoris", "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "lokr", "r": 64, "decompose_factor": 4, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "hira", "r": 2, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "miss", "r": 5, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "miss", "r": 4, "init_weights": "mini", "mini_r": 8, "target_modules": ["q_proj"] })),
        starts_unchanged(json!({ "type": "miss", "r": 4, "init_weights": "bat", "target_modules": ["v_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "randlora", "r": 20, "randlora_alpha": 1, "target_modules": ["v_proj", "up_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "randlora", "r": 20, "randlora_alpha": 1, "sparse": true, "save_projection": false, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "delora", "r": 2, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "glora", "r": 3, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "glora", "config_A_B": "vector", "config_C": "vector", "config_D_E": "vector", "target_modules": ["v_proj"] })),
        starts_changed(json!({ "type": "glora", "config_A_B": "constant", "init_weights": false, "target_modules": ["o_proj", "up_proj"] })),
        starts_unchanged(json!({ "type": "gralora", "r": 4, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "gralora", "r": 4, "hybrid_r": 2, "gralora_k": 4, "target_modules": ["v_proj"] })),
        // Logits far apart, so that the small steps of the gradient test do not change which vectors are chosen.
        starts_changed(json!({ "type": "vblora", "r": 2, "num_vectors": 5, "vector_length": 16, "init_logits_std": 4.0, "init_vector_bank_bound": 0.5, "target_modules": ["q_proj", "v_proj"] })),
        starts_changed(json!({ "type": "unilora", "r": 2, "theta_d_length": 50, "init_theta_d_bound": 1.0, "target_modules": ["q_proj", "down_proj"] })),
        starts_changed(json!({ "type": "unilora", "r": 1, "theta_d_length": 700, "init_weights": false, "save_indices": true, "unilora_dropout": 0.1, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "tinylora", "u": 13, "target_modules": ["q_proj", "down_proj"] })),
        starts_changed(json!({ "type": "tinylora", "r": 3, "u": 4, "weight_tying": 0.5, "save_projection": false, "init_weights": "uniform", "init_v_bound": 0.5, "tinylora_dropout": 0.1 })),
        starts_unchanged(json!({ "type": "peanut", "r": 3, "depth": 2, "act_fn": "gelu", "scaling": 0.5, "target_modules": ["q_proj", "down_proj"] })),
        // A ReLU has kinks within the step of the differences; its slope is tested beside the operation.
        Case { smooth: false, ..starts_unchanged(json!({ "type": "peanut", "r": 3, "target_modules": ["v_proj"] })) },
        // A direction's sign jumps where an entry that is eliminated with passes 0, which a small step seldom meets.
        Case { step: 0.001, ..starts_unchanged(json!({ "type": "deft", "r": 3, "decomposition_method": "qr", "alpha": 6, "target_modules": ["q_proj", "down_proj"] })) },
        starts_changed(json!({ "type": "deft", "r": 3, "decomposition_method": "qr", "para": true, "target_modules": ["v_proj"] })),
        // A ReLU has kinks within the step of the differences; its slope is tested beside the operation.
        Case { smooth: false, ..starts_unchanged(json!({ "type": "deft", "r": 3, "deft_dropout": 0.1 })) },
        starts_unchanged(json!({ "type": "c3a", "block_size": 4, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "waveft", "n_frequency": 40, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "waveft", "n_frequency": 40, "use_idwt": false, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "trainable_tokens", "token_indices": [403, 17, 261] })),
        starts_unchanged(json!({ "type": "oft", "oft_block_size": 8 })),
        starts_unchanged(json!({ "type": "oft", "r": 4, "block_share": true, "use_cayley_neumann": false, "module_dropout": 0.0 })),
        starts_unchanged(json!({ "type": "oft", "oft_block_size": 4, "coft": true, "eps": 1.0, "module_dropout": 0.3 })),
        starts_unchanged(json!({ "type": "boft", "boft_block_size": 4 })),
        starts_unchanged(json!({ "type": "boft", "boft_block_size": 4, "boft_n_butterfly_factor": 3, "boft_dropout": 0.3, "target_modules": ["q_proj", "o_proj"] })),
        starts_unchanged(json!({ "type": "hra", "r": 4 })),
        starts_changed(json!({ "type": "hra", "r": 3 })),
        starts_changed(json!({ "type": "hra", "r": 4, "apply_GS": true })),
        starts_unchanged(json!({ "type": "road", "group_size": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"] })),
        starts_unchanged(json!({ "type": "road", "variant": "road_2", "group_size": 4 })),
        starts_unchanged(json!({ "type": "road", "variant": "road_4", "group_size": 2, "target_modules": ["down_proj"] })),
        starts_changed(json!({ "type": "fourierft", "n_frequency": 50 })),
        starts_unchanged(json!({ "type": "fourierft", "n_frequency": 50, "init_weights": true, "n_frequency_pattern": { "q_proj": 20 } })),
        starts_unchanged(json!({ "type": "osf", "target_modules": ["v_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "osf", "effective_rank": 0.9, "rank_pattern": { "up_proj": 60 }, "target_modules": ["q_proj", "up_proj"] })),
        starts_unchanged(json!({ "type": "ia3" })),
        starts_changed(json!({ "type": "houlsby", "bottleneck": 8 })),
        starts_unchanged(json!({ "type": "houlsby", "init_weights": "mam_adapter", "placement": "attention", "dropout": 0.2 })),
        starts_changed(json!({ "type": "pfeiffer", "bottleneck": 8, "placement": "both", "non_linearity": "gelu" })),
        starts_unchanged(json!({ "type": "parallel_adapter", "placement": "both", "non_linearity": "gelu_new", "reduction_factor": 16, "modules_to_save": ["norm"] })),
        starts_changed(json!({ "type": "conformer_adapter", "reduction_factor": 16, "kernel_size": 4 })),
        starts_changed(json!({ "type": "conformer_adapter", "bottleneck": 3, "kernel_size": 31, "placement": "both", "insertion": "sequential", "faithful": true })),
        starts_unchanged(json!({ "type": "compacter", "phm_rank": 2 })),
        starts_changed(json!({ "type": "adapter_fusion", "adapters": trained_adapters() })),
        starts_unchanged(json!({ "type": "full", "target_modules": ["q_proj", "norm", "embed_tokens"] })),
        starts_unchanged(json!({ "type": "beft" })),
        starts_unchanged(json!({ "type": "bitfit", "add_biases": true })),
        starts_unchanged(json!({ "type": "ln_tuning" })),
        starts_unchanged(json!({ "type": "last_layers", "layers": 1 })),
        starts_unchanged(json!({ "type": "head_only" })),
        starts_unchanged(json!({ "type": "shira", "r": 2 })),
        starts_unchanged(json!({ "type": "supertuning", "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "supertuning", "sparsity": 0.9, "select_top": false, "r": 2, "lora_dropout": 0.1, "target_modules": ["v_proj"] })),
        starts_unchanged(json!({ "type": "fish_mask" })),
        starts_unchanged(json!({ "type": "child_tuning", "target_modules": ["q_proj", "up_proj", "embed_tokens"] })),
        starts_unchanged(json!({ "type": "subnetwork", "changed_by": tuned() })),
        starts_unchanged(json!({ "type": "diff_pruning", "share": 0.2, "target_modules": ["q_proj", "up_proj"] })),
        starts_unchanged(json!({ "type": "diff_pruning", "structured": true, "target_modules": ["down_proj"] })),
        passes_straight_through(json!({ "type": "mask_tuning" })),
        starts_changed(json!({ "type": "grafting", "tuned": tuned(), "share": 0.05 })),
        starts_unchanged(json!({ "type": "lisa", "layers": 1 })),
        starts_unchanged(json!({ "type": "galore", "rank": 4 })),
        starts_unchanged(json!({ "type": "poly", "r": 2, "n_skills": 3, "n_tasks": 2 })),
        starts_unchanged(json!({ "type": "poly", "r": 2, "n_splits": 2, "target_modules": ["q_proj", "down_proj"] })),
        starts_changed(json!({ "type": "poly", "r": 2, "finetune": "z", "init_weights": false, "layers_to_transform": [1, 2] })),
        starts_unchanged(json!({ "type": "poly", "r": 2, "n_splits": 2, "finetune": "mu", "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "poly_ia3", "n_skills": 3, "n_splits": 2, "n_tasks": 2 })),
        starts_unchanged(json!({ "type": "poly_ia3", "n_skills": 2, "feedforward_modules": [] })),
        starts_unchanged(json!({ "type": "moe_lora", "r": 2, "num_experts": 3, "router_aux_loss_coef": 0.0, "target_modules": ["q_proj", "down_proj"] })),
        starts_unchanged(json!({ "type": "moe_lora", "r": 2, "top_k": 2, "router_aux_loss_coef": 0.0, "target_modules": ["o_proj"] })),
        starts_unchanged(json!({ "type": "adamix", "r": 2, "num_experts": 3 })),
        starts_changed(json!({ "type": "xlora", "adapters": experts(), "layerwise_scalings": true })),
        // A ReLU has kinks within the step of the differences; `routed.rs` takes smaller ones.
        Case { smooth: false, ..starts_changed(json!({ "type": "xlora", "adapters": experts(), "xlora_depth": 2, "xlora_size": 5 })) },
        starts_changed(json!({ "type": "prompt_tuning", "num_virtual_tokens": 3 })),
        starts_changed(json!({ "type": "prompt_tuning", "num_virtual_tokens": 5, "prompt_tuning_init_text": "Once upon a time" })),
        starts_changed(json!({ "type": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 6 })),
        starts_changed(json!({
            "type": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 8, "encoder_reparameterization_type": "LSTM",
        })),
        starts_changed(json!({ "type": "prefix_tuning", "num_virtual_tokens": 3 })),
        starts_changed(json!({ "type": "prefix_tuning", "num_virtual_tokens": 2, "init_weights": "random" })),
        starts_changed(json!({ "type": "prefix_tuning", "num_virtual_tokens": 3, "prefix_projection": true, "encoder_hidden_size": 8 })),
        starts_changed(json!({ "type": "cartridge", "num_virtual_tokens": 3 })),
        starts_changed(json!({ "type": "cartridge", "num_virtual_tokens": 2, "num_frozen_tokens": 0 })),
        starts_changed(json!({ "type": "cpt", "cpt_token_ids": [1, 403, 407, 17], "cpt_tokens_type_mask": [1, 2, 3, 0] })),
        starts_near_zero(json!({ "type": "multitask_prompt_tuning", "num_virtual_tokens": 3, "num_tasks": 2, "num_ranks": 2 })),
        starts_unchanged(json!({ "type": "adaption_prompt", "adapter_len": 3 })),
        starts_unchanged(json!({ "type": "adaption_prompt", "adapter_len": 2, "adapter_layers": 5 })),
        starts_changed(json!({ "type": "dept", "num_virtual_tokens": 3, "r": 2 })),
        starts_changed(json!({ "type": "dept", "num_virtual_tokens": 3, "r": 2, "max_length": 4 })),
        starts_changed(json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2, "max_length": 16 })),
        starts_changed(json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2, "spaces": 1 })),
        starts_changed(json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2, "fusion_rank": 0, "spaces": 2, "space_rank": 3 })),
        starts_changed(json!({
            "type": "attempt", "num_virtual_tokens": 2, "sources": sources(), "bottleneck": 4, "temperature": 2,
        })),
        // Small steps: a ReLU has kinks.
        starts_near_zero(json!({ "type": "mam", "num_virtual_tokens": 3, "bottleneck": 8 })),
        starts_changed(json!({ "type": "mam", "num_virtual_tokens": 2, "non_linearity": "gelu_new", "prefix_projection": true, "encoder_hidden_size": 6, "bottleneck": 5 })),
        starts_changed(json!({ "type": "unipelt", "num_virtual_tokens": 3, "r": 2 })),
        starts_changed(json!({ "type": "unipelt", "num_virtual_tokens": 2, "non_linearity": "gelu", "target_modules": ["down_proj"], "lora_dropout": 0.2 })),
    ]
}

/// Two LoRA adapters on disk.
fn experts() -> Value {
    static EXPERTS: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    let make = |(name, targets): (&str, Value)| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("expert_{name}"));
        let edit = moved(fresh(&stories(), &json!({ "type": "lora", "r": 2, "target_modules": targets })));
        let _ = std::fs::remove_dir_all(&path);
        save_edit(&edit, &path).unwrap();
        (name.to_string(), json!(path))
    };
    let all = [("first", json!(["q_proj", "down_proj"])), ("second", json!(["q_proj", "o_proj"]))];
    EXPERTS.get_or_init(|| Value::Object(all.into_iter().map(make).collect())).clone()
}

/// Two trained prompts of two tokens, for mixtures.
fn sources() -> Vec<String> {
    static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let (model, directory) = (stories(), tempfile::tempdir().unwrap());
        for seed in [1, 2] {
            let method = json!({ "type": "prompt_tuning", "num_virtual_tokens": 2 });
            let method = registry::from_recipe(method.as_object().unwrap(), &mut Vec::new()).unwrap();
            let edit = Edit::new(method, &Base::of(&model), seed).unwrap();
            save_edit(&edit, &directory.path().join(seed.to_string())).unwrap();
        }
        directory
    });
    [1, 2].iter().map(|seed| DIRECTORY.path().join(seed.to_string()).display().to_string()).collect()
}

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn fresh(model: &Model, recipe: &Value) -> Edit {
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new());
    let method = method.unwrap_or_else(|error| panic!("{recipe}: {error}"));
    Edit::new(method, &Base::of(model), 7).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

/// The same edit with every trained parameter moved away from where it started.
fn moved(mut edit: Edit) -> Edit {
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += 0.05 * key.normal(i as u64));
    }
    edit
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]])
}

fn edited(model: &Model, stack: &EditStack) -> Tensor {
    logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch())
}

fn bare(model: &Model) -> Tensor {
    logits(&(&model.decoder, Arc::new(NoHooks)), DType::F32, &batch())
}

/// Largest difference, as a share of the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let largest = a.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
    pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

#[test]
fn every_method_has_a_case() {
    for info in METHODS {
        assert!(cases().iter().any(|case| case.recipe["type"] == info.name), "`{}` has no case", info.name);
    }
}

#[test]
fn a_fresh_edit_leaves_the_model_as_it_is_where_its_formula_says_so() {
    let model = stories();
    for case in cases() {
        let stack = EditStack::of(fresh(&model, &case.recipe));
        let change = distance(&bare(&model), &edited(&model, &stack));
        match case.identity {
            true => assert!(change < 2e-6, "{}: {change}", case.recipe),
            false => assert!(change > 1e-4, "{}: {change}", case.recipe),
        }
    }
}

#[test]
fn a_moved_edit_changes_the_model_and_one_switched_off_does_not() {
    let model = stories();
    for case in cases() {
        let mut stack = EditStack::of(moved(fresh(&model, &case.recipe)));
        let change = distance(&bare(&model), &edited(&model, &stack));
        assert!(change > 1e-4, "{}: {change}", case.recipe);
        stack.entries[0].enabled = false;
        assert_eq!(bare(&model).to_vec_f32(), edited(&model, &stack).to_vec_f32(), "{}", case.recipe);
    }
}

/// `Σ −ln p` of the next tokens, and its gradients.
fn loss(model: &Model, stack: &EditStack) -> (f64, Gradients) {
    let batch = batch();
    let cx = Context {
        training: true,
        key: RandomKey::new(1),
        ..Context::new(Tape::recording(), stack.hooks(DType::F32), DType::F32)
    };
    let hidden = model.decoder.hidden(&cx, &batch);
    let rows = |s: &Segment| (s.start as u32..(s.start + s.len - 1) as u32).collect::<Vec<_>>();
    let rows: Vec<u32> = batch.segments.iter().flat_map(rows).collect();
    let targets: Vec<u32> = rows.iter().map(|r| batch.ids[*r as usize + 1]).collect();
    let weights = vec![1.0; rows.len()];
    let out = ops::lm_head_loss(&cx.tape, &hidden, &model.decoder.head(&cx), &rows, &targets, &weights, 1.0, None);
    let mut gradients = Gradients::new();
    cx.tape.backward(&out.loss, Tensor::full(out.loss.value.dims(), DType::F32, 1.0), &mut gradients);
    (out.nll_sum, gradients)
}

/// Central differences along a random direction of each parameter. Losses are sums of `f32`, so a difference of two is
/// known to about 1e-5 and, over a step of 0.01, a derivative to 1e-3 of a typical one.
fn check_gradients(model: &Model, cases: impl IntoIterator<Item = Case>) {
    for case in cases.into_iter().filter(|case| case.smooth) {
        let step = case.step;
        let mut stack = EditStack::of(moved(fresh(model, &case.recipe)));
        stack.entries[0].trained = true;
        let (_, gradients) = loss(model, &stack);
        let trained: Vec<_> = stack.trained_params().map(|(id, p)| (id, p.key.clone(), p.value.clone())).collect();
        let reached = trained.iter().filter(|(id, ..)| gradients.param(*id).is_some()).count();
        assert!(reached > 0, "{}: no parameter has a gradient", case.recipe);
        for (at, (id, key, value)) in trained.iter().enumerate().filter(|(at, _)| at % 7 == 0 || trained.len() < 12) {
            // DoRA's norms are constants backward; the gradients of its pair are checked in `low_rank.rs`.
            if case.recipe["use_dora"] == true && !key.ends_with("magnitude_vector") {
                continue;
            }
            let random = RandomKey::new(11).named(key);
            let direction: Vec<f32> = (0..value.elements() as u64).map(|i| random.normal(i)).collect();
            let mut at_offset = |offset: f32| {
                let (_, param) = stack.trained_params_mut().nth(at).unwrap();
                let moved: Vec<f32> =
                    value.as_slice::<f32>().iter().zip(&direction).map(|(v, d)| v + offset * d).collect();
                param.value = Tensor::from_slice(value.dims(), &moved);
                loss(model, &stack).0
            };
            let by_difference = (at_offset(step) - at_offset(-step)) / f64::from(2.0 * step);
            // Two step sizes: what the curvature adds to the first shows as their difference.
            let finer = (at_offset(step / 2.0) - at_offset(-step / 2.0)) / f64::from(step);
            at_offset(0.0);
            let by_backward = gradients.param(*id).map_or(0.0, |g| {
                g.as_slice::<f32>().iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum::<f64>()
            });
            let tolerance = 5e-3 + 2e-3 * by_backward.abs() + 2.0 * (by_difference - finer).abs();
            assert!(
                (finer - by_backward).abs() < tolerance,
                "{}: {key}: {finer} by difference, {by_backward} by backward",
                case.recipe
            );
        }
    }
}

#[test]
fn gradients_are_derivatives() {
    check_gradients(&stories(), cases());
}

/// What acts on biases, on a model that has them.
#[test]
fn gradients_at_biases_are_derivatives() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-qwen2");
    let model = Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap();
    let on_biases = [
        json!({ "type": "beft" }),
        json!({ "type": "glora", "r": 3, "target_modules": ["q_proj", "v_proj"] }),
        json!({ "type": "glora", "config_A_B": "none", "config_C": "vector", "config_D_E": "vector", "target_modules": ["v_proj"] }),
        json!({ "type": "lora", "r": 2, "lora_bias": true, "target_modules": ["q_proj"] }),
    ];
    check_gradients(&model, on_biases.map(starts_unchanged));
}

#[test]
fn files_bring_back_the_same_bits() {
    let model = stories();
    let base = Base::of(&model);
    let directory = tempfile::tempdir().unwrap();
    for (index, case) in cases().into_iter().enumerate() {
        let edit = moved(fresh(&model, &case.recipe));
        let edit = edit.method.clone().finished(edit, &base).unwrap();
        let path = directory.path().join(index.to_string());
        save_edit(&edit, &path).unwrap();
        let read = read_edit(&path, &base).unwrap_or_else(|error| panic!("{}: {error}", case.recipe));
        assert_eq!(read.parameter_count(), edit.parameter_count(), "{}", case.recipe);
        let (ours, theirs) = (edited(&model, &EditStack::of(edit)), edited(&model, &EditStack::of(read)));
        assert_eq!(ours.to_vec_f32(), theirs.to_vec_f32(), "{}", case.recipe);
    }
}

#[test]
fn merging_changes_no_logits_and_can_be_undone_or_is_refused_with_the_reason() {
    let model = stories();
    let base = Base::of(&model);
    for case in cases() {
        let stack = EditStack::of(moved(fresh(&model, &case.recipe)));
        let merger = match (Merger::new(&stack, &base), stack.entries[0].edit.method.mergeable()) {
            (Ok(merger), Mergeable::Yes) => merger,
            (Err(error), Mergeable::No(reason)) => {
                assert!(error.to_string().contains(reason), "{}: {error}", case.recipe);
                continue;
            }
            (Ok(_), Mergeable::No(_)) => panic!("{}: merged, though it says that it cannot be", case.recipe),
            (Err(error), Mergeable::Yes) => panic!("{}: {error}", case.recipe),
        };
        let merged = match merger.decoder(&model.decoder, DType::F32) {
            // This model's maps have no biases.
            Err(error) if case.recipe["lora_bias"] == true || case.recipe["type"] == "beft" => {
                assert!(error.to_string().contains("no bias of the map"), "{error}");
                continue;
            }
            merged => Arc::new(merged.unwrap()),
        };
        let change = distance(&edited(&model, &stack), &logits(&(&merged, Arc::new(NoHooks)), DType::F32, &batch()));
        assert!(change < 2e-5, "{}: {change}", case.recipe);
        for name in merger.names() {
            let (own, merged) = (base.weight(name).unwrap().to_f32(), merger.merged(name).unwrap().unwrap());
            let back = merger.unmerged(name, &merged).unwrap();
            assert!(distance(&own, &back) < 2e-6, "{}: {name}: {}", case.recipe, distance(&own, &back));
            // What a mask drops is put back, and nothing else is touched.
            let exact = case.recipe["type"] == "mask_tuning";
            assert!(!exact || own.as_bytes() == back.as_bytes(), "{}: {name}", case.recipe);
        }
    }
}

/// Of a merged model alone an edit is taken out as well as beside the base, or is refused because what it did follows from the base's
/// weights; which methods those are is listed, so that none loses its way back by accident.
#[test]
fn edits_come_out_of_a_merged_model_without_its_base_unless_they_are_made_of_it() {
    let (model, directory) = (stories(), tempfile::tempdir().unwrap());
    let base = Base::of(&model);
    let (mut alone, mut with_base) = (BTreeSet::new(), BTreeSet::new());
    for (index, case) in cases().into_iter().enumerate() {
        let edit = moved(fresh(&model, &case.recipe));
        let edit = edit.method.clone().finished(edit, &base).unwrap();
        let (path, stack) = (directory.path().join(index.to_string()), EditStack::of(edit));
        let Ok(merger) = Merger::new(&stack, &base) else { continue };
        let Ok(decoder) = merger.decoder(&model.decoder, DType::F32) else { continue };
        save_edit(&stack.entries[0].edit, &path).unwrap();
        let merged = Model { decoder: Arc::new(decoder), ..stories() };
        let name = case.recipe["type"].as_str().unwrap().to_string();
        let without = |base: &Base| {
            let stack = EditStack::of(read_edit(&path, base)?);
            let decoder = Arc::new(Merger::new(&stack, base)?.taken_out(&merged.decoder, DType::F32)?);
            Ok::<_, EditError>(logits(&(&decoder, Arc::new(NoHooks)), DType::F32, &batch()))
        };
        let apart = |left: Tensor| {
            let apart = distance(&bare(&model), &left);
            assert!(apart < 2e-5, "{}: {apart}", case.recipe);
        };
        apart(without(&base).unwrap());
        match without(&Base::before(&merged)) {
            Ok(left) => {
                apart(left);
                alone.insert(name);
            }
            Err(EditError::UnknownBase { .. }) => {
                with_base.insert(name);
            }
            Err(error) => panic!("{}: {error}", case.recipe),
        }
    }
    let only: Vec<&str> = with_base.difference(&alone).map(String::as_str).collect();
    let expected =
        "deft full galore glora head_only hira last_layers lisa ln_tuning mask_tuning peanut trainable_tokens";
    assert_eq!(only.join(" "), expected);
    // DoRA, LoftQ and trained tokens beside plain pairs; `bat` beside MiSS.
    assert_eq!(alone.intersection(&with_base).collect::<Vec<_>>(), ["lora", "miss"]);
    assert!(alone.len() > 25, "{alone:?}");
}

#[test]
fn a_text_continues_with_a_cache_as_without_one() {
    let model = stories();
    let prompts = [vec![1u32, 403, 407, 261], vec![1, 410, 17]];
    for case in cases() {
        let stack = EditStack::of(moved(fresh(&model, &case.recipe)));
        let hooks = stack.hooks(DType::F32);
        let config = GenerationConfig { max_new_tokens: 6, ..GenerationConfig::default() };
        let written = generate(&model, hooks.clone(), DType::F32, &prompts, &config, &mut |_, _| true).unwrap();
        for (prompt, written) in prompts.iter().zip(written) {
            let mut ids = prompt.clone();
            for token in written.ids {
                let mut batch = TokenBatch::from_sequences(&[ids.clone()]);
                batch.inputs = vec![prompt.clone()];
                let all = logits(&(&model.decoder, hooks.clone()), DType::F32, &batch);
                let (rows, width) = all.rows_cols();
                let last = &all.as_slice::<f32>()[(rows - 1) * width..];
                let best = (0..width).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
                assert_eq!(token, best as u32, "{}: after {ids:?}", case.recipe);
                ids.push(token);
            }
        }
    }
}

#[test]
fn a_batch_can_hold_rows_of_different_adapters() {
    let model = stories();
    let lora = |targets: Value| fresh(&model, &json!({ "type": "lora", "r": 2, "target_modules": targets }));
    let (first, second) = (moved(lora(json!(["q_proj", "up_proj"]))), moved(lora(json!("all-linear"))));
    let mut both = EditStack::new();
    both.push(StackEntry { groups: Some(vec![0]), ..StackEntry::new(first.clone()) }).unwrap();
    both.push(StackEntry { groups: Some(vec![1]), ..StackEntry::new(second.clone()) }).unwrap();
    let mut routed = batch();
    routed.groups = vec![1, 0];
    let together = logits(&(&model.decoder, both.hooks(DType::F32)), DType::F32, &routed);
    let (a, b) = (edited(&model, &EditStack::of(second)), edited(&model, &EditStack::of(first)));
    let width = together.rows_cols().1;
    let split = batch().segments[1].start * width;
    let expected: Vec<f32> = [&a.as_slice::<f32>()[..split], &b.as_slice::<f32>()[split..]].concat();
    let expected = Tensor::from_slice(together.dims(), &expected);
    assert!(distance(&together, &expected) < 2e-6, "{}", distance(&together, &expected));
}

/// Rows of other groups are what they are without the edit, whatever it is; or it is refused.
#[test]
fn an_edit_of_some_rows_leaves_the_others_alone_or_cannot_be_routed() {
    let model = stories();
    let bare = bare(&model);
    let (mut routed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for case in cases() {
        let edit = moved(fresh(&model, &case.recipe));
        let name = edit.method.info().name;
        // Those that tell tasks apart themselves know no task beside theirs.
        let tells_apart = check_group(&edit.method, u32::MAX).is_err();
        let mut stack = EditStack::new();
        let pushed = stack.push(StackEntry { groups: Some(vec![0]), ..StackEntry::new(edit.clone()) });
        if let Err(error) = &pushed {
            let message = error.to_string();
            assert!(message.contains(name) && message.contains("which all rows of a batch share"), "{message}");
        }
        if tells_apart || pushed.is_err() {
            refused.insert(name);
            continue;
        }
        let mut batch = batch();
        batch.groups = vec![1, 0];
        let together = logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch);
        let split = batch.segments[1].start * together.rows_cols().1;
        let alone = edited(&model, &EditStack::of(edit));
        let expected = [&bare.as_slice::<f32>()[..split], &alone.as_slice::<f32>()[split..]].concat();
        let expected = Tensor::from_slice(together.dims(), &expected);
        assert!(distance(&together, &expected) < 1e-5, "{}: {}", case.recipe, distance(&together, &expected));
        routed.insert(name);
    }
    for name in ["prompt_tuning", "prefix_tuning", "cartridge", "mam", "unipelt", "poly"] {
        assert!(refused.contains(name) && !routed.contains(name), "{name}");
    }
    for name in ["lora", "ia3", "oft", "houlsby", "mask_tuning", "shira"] {
        assert!(routed.contains(name), "{name}: {routed:?}");
    }
}

/// Directories of two adapters that were trained (here: moved) on the same model, of different widths.
fn trained_adapters() -> &'static [String; 2] {
    static DIRECTORIES: OnceLock<[String; 2]> = OnceLock::new();
    DIRECTORIES.get_or_init(|| {
        let model = stories();
        [4, 7].map(|width| {
            let edit = moved(fresh(&model, &json!({ "type": "pfeiffer", "bottleneck": width })));
            let name = format!("fused-{width}-{}", std::process::id());
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            save_edit(&edit, &path).unwrap();
            path.to_str().unwrap().to_string()
        })
    })
}

/// The same model with its linear maps rounded, and that model with the rounded numbers as a dense one.
fn rounded(kind: Quantise) -> (Model, Model) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    let load = || Model::load_quantised(path.to_str().unwrap(), DType::F32, kind).unwrap();
    let (quantised, mut dense) = (load(), load());
    let base = Base::of(&quantised);
    assert!(base.is_quantised());
    let rounded = |name: &str| base.linears().find(|w| w.name == name).map(|w| w.to_f32());
    let expanded = dense.decoder.replaced(|name, _| rounded(name));
    dense.decoder = Arc::new(expanded);
    assert!(!Base::of(&dense).is_quantised());
    (quantised, dense)
}

/// Products with blocks expand them a part at a time and sum in another order than dense ones of few rows, so logits are equal
/// but for rounding.
#[test]
fn a_quantised_base_is_the_same_as_its_numbers_dense_or_is_refused() {
    for kind in ["nf4", "q8_0"] {
        let (quantised, dense) = rounded(kind.parse().unwrap());
        for case in cases() {
            let method = registry::from_recipe(case.recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
            if let QuantisedBase::No(reason) = method.info().quantised_base {
                let error = Edit::new(method, &Base::of(&quantised), 7).err().expect("a refusal");
                assert!(error.to_string().contains(reason), "{}: {error}", case.recipe);
                continue;
            }
            if case.recipe["init_lora_weights"] == "loftq" {
                let error = Edit::new(method, &Base::of(&quantised), 7).err().expect("a refusal");
                assert!(error.to_string().contains("LoftQ rounds it itself"), "{error}");
                continue;
            }
            let on = |model: &Model| {
                let mut stack = EditStack::of(moved(fresh(model, &case.recipe)));
                let logits = edited(model, &stack);
                stack.entries[0].trained = true;
                let (loss, gradients) = loss(model, &stack);
                let gradients: Vec<Option<Tensor>> =
                    stack.trained_params().map(|(id, _)| gradients.param(id).cloned()).collect();
                (logits, loss, gradients)
            };
            let ((a, loss_a, gradients_a), (b, loss_b, gradients_b)) = (on(&quantised), on(&dense));
            assert!(distance(&a, &b) < 1e-5, "{} on {kind}: {}", case.recipe, distance(&a, &b));
            assert!((loss_a - loss_b).abs() < 1e-4 * loss_a, "{} on {kind}: {loss_a} and {loss_b}", case.recipe);
            for (a, b) in gradients_a.iter().zip(&gradients_b) {
                let (Some(a), Some(b)) = (a, b) else {
                    assert!(a.is_none() && b.is_none(), "{} on {kind}", case.recipe);
                    continue;
                };
                let small = b.as_slice::<f32>().iter().all(|v| v.abs() < 1e-4);
                assert!(small || distance(b, a) < 1e-3, "{} on {kind}: gradients {}", case.recipe, distance(b, a));
            }
        }
    }
}
