//! Every method of the registry at settings that differ in kind, on stories260k.

use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use hone_edit::method::Role;
use hone_edit::{Base, Edit, registry, save_edit};
use hone_engine::{DType, RandomKey};
use hone_model::{LoadOptions, Model};
use serde_json::{Value, json};

/// A method at one setting.
pub struct Case {
    /// As a recipe says it.
    pub recipe: Value,
    /// Whether a fresh edit leaves the model as it is.
    pub identity: bool,
    /// Whether its gradients are derivatives; a step that is passed straight through has none, and a test of its own.
    pub smooth: bool,
    /// How far its values are moved to see what that does to the loss.
    pub step: f32,
}

pub fn starts_unchanged(recipe: Value) -> Case {
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

/// All of them.
#[rustfmt::skip]
pub fn cases() -> Vec<Case> {
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
    static EXPERTS: OnceLock<Value> = OnceLock::new();
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

/// The tiny model that ships here.
pub fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

/// A recipe's edit of the model, as it starts.
pub fn fresh(model: &Model, recipe: &Value) -> Edit {
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new());
    let method = method.unwrap_or_else(|error| panic!("{recipe}: {error}"));
    Edit::new(method, &Base::of(model), 7).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

/// The same edit with every trained parameter moved away from where it started.
pub fn moved(mut edit: Edit) -> Edit {
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += 0.05 * key.normal(i as u64));
    }
    edit
}
