//! How many numbers each method trains, in the formulas of `docs/methods.md`'s column `parameters`: on a model without biases and on
//! one with them, planned and made, at several settings. Formulas are written out of the base's shapes alone, by the page's
//! letters, and never read off an edit. A method that has none here fails the first test.
//!
//! Then what the page says beside the count: how much of what is held a mask lets move, and what a finished edit keeps.

mod common;

use std::path::Path;

use common::golden::{crate_path, load};
use common::{edit, planned_count};
use hone_edit::registry::METHODS;
use hone_edit::training::{EditGradients, Moment};
use hone_edit::{Base, Edit, Role, save_edit};
use hone_engine::{Gradients, ParamId, RandomKey, Tensor, Var};
use serde_json::{Map, Value, json};

const LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Numbers of one map, of its outputs and inputs.
type OfMap<'a> = &'a dyn Fn(usize, usize) -> usize;

/// Recipes without their `type`, each with what its formula gives.
macro_rules! counts {
    ($({ $($fields:tt)* } => $count:expr,)*) => { vec![$((json!({ $($fields)* }), $count)),*] };
}

/// A base's shapes by the page's letters, and edits of it on the disk.
struct Shapes<'a> {
    base: &'a Base,
    /// Layers.
    l: usize,
    /// Width of the model.
    d: usize,
    /// Width of a token's keys.
    kv: usize,
    /// Rows of the embedding table.
    v: usize,
    made: &'a Path,
}

impl<'a> Shapes<'a> {
    fn of(base: &'a Base, made: &'a Path) -> Shapes<'a> {
        for (name, recipe) in [
            ("lora", json!({ "type": "lora", "r": 2, "target_modules": ["q_proj", "down_proj"] })),
            ("other_lora", json!({ "type": "lora", "r": 3, "target_modules": ["q_proj", "o_proj"] })),
            ("narrow", json!({ "type": "pfeiffer", "bottleneck": 4 })),
            ("wide", json!({ "type": "pfeiffer", "bottleneck": 7 })),
            ("narrow_both", json!({ "type": "houlsby", "bottleneck": 3 })),
            ("wide_both", json!({ "type": "houlsby", "bottleneck": 5 })),
            ("prompt", json!({ "type": "prompt_tuning", "num_virtual_tokens": 2 })),
            ("full", json!({ "type": "full", "target_modules": ["q_proj", "down_proj"] })),
        ] {
            save_edit(&moved(edit(&recipe.to_string(), base).unwrap()), &made.join(name)).unwrap();
        }
        let g = base.geometry;
        Shapes { base, l: g.layers, d: g.hidden, kv: g.key_value_heads * g.head_dim, v: g.vocabulary, made }
    }

    /// Over the maps of these names.
    fn maps(&self, names: &[&str], of: OfMap) -> usize {
        let named = self.base.linears().filter(|w| names.iter().any(|name| w.module().ends_with(name)));
        named.map(|w| of(w.shape[0], w.shape[1])).sum()
    }

    /// Over those of them that have a bias: on the second model queries, keys and values.
    fn biased(&self, names: &[&str], of: OfMap) -> usize {
        let has_one = |name: &&str| self.base.weight(&format!("model.layers.0.self_attn.{name}.bias")).is_some();
        self.maps(&names.iter().copied().filter(has_one).collect::<Vec<_>>(), of)
    }

    /// The weights and biases of these maps.
    fn whole(&self, names: &[&str]) -> usize {
        self.maps(names, &|o, i| o * i) + self.biased(names, &|o, _| o)
    }
}

/// What the formula of `method` gives, at several settings; nothing for a method that is not here.
#[rustfmt::skip]
fn formulas(method: &str, m: &Shapes) -> Vec<(Value, usize)> {
    let Shapes { l, d, kv, v, .. } = *m;
    let all = |of: OfMap| m.maps(&LINEAR, of);
    let (maps, path) = (7 * l, |name: &str| json!(m.made.join(name)));
    // A low-rank pair; `n = n₁ n₂` as near to each other as they can be, the smaller first.
    let pairs = |r: usize| all(&|o, i| r * (i + o));
    let split = |n: usize| (1..=n).rev().find(|a| n.is_multiple_of(*a) && a * a <= n).map(|a| (a, n / a)).unwrap();
    // (IA)³'s widths: outputs, and of the map out of the MLP inputs.
    let scaled = m.maps(&["k_proj", "v_proj"], &|o, _| o) + m.maps(&["down_proj"], &|_, i| i);
    // A bottleneck of width `b`; a conformer's of `k` taps; `n` Kronecker products of rank `r`.
    let neck = |b: usize| 2 * b * d + b + d;
    let conformer = |b: usize, k: usize| 2 * d + 2 * b * (d + 1) + b * (k + 1) + 2 * b + d * (b + 1);
    let compact = |r: usize, b: usize| 2 * r * (d + b) + b + d;
    // Of the layers: everything; with the last norm: what a mask selects; with the table, which is the head as well: all.
    let layers = m.whole(&LINEAR) + l * 2 * d;
    let (selected, everything) = (layers + d, layers + d + v * d);
    // A prefix that comes out of a map of inner width `h`; an LSTM's layer; DePT's prompt and pair.
    let projected = |p: usize, h: usize| p * kv + h * (kv + 1) + l * 2 * kv * (h + 1);
    let lstm = |i: usize, h: usize| 2 * (4 * h * i + 4 * h * h + 2 * 4 * h);
    let dept = |s: usize, m: usize, r: usize| s * d + m * r + r * d;
    let adapters = json!({ "first": path("lora"), "second": path("other_lora") });
    let sources = json!([path("prompt"), path("prompt")]);
    match method {
        "lora" => counts![
            { "r": 3 } => pairs(3),
            { "r": 2, "use_dora": true } => pairs(2) + all(&|o, _| o),
            { "r": 2, "lora_bias": true, "target_modules": ["v_proj"] } => m.maps(&["v_proj"], &|o, i| 2 * (i + o) + o),
            { "r": 2, "init_lora_weights": "pissa" } => pairs(2),
            { "r": 2, "target_modules": ["embed_tokens"] } => 2 * (v + d),
            { "r": 2, "bias": "all", "modules_to_save": ["model.norm"], "trainable_token_indices": [5, 9] } => pairs(2) + m.biased(&LINEAR, &|o, _| o) + d + 2 * d,
        ],
        "adalora" => counts![{ "init_r": 3, "target_r": 2 } => pairs(3) + 3 * maps, { "init_r": 5, "target_r": 1 } => pairs(5) + 5 * maps,],
        "vera" => counts![{ "r": 6 } => all(&|o, _| o + 6), { "r": 11 } => all(&|o, _| o + 11),],
        "pvera" => counts![{ "r": 6 } => all(&|o, _| o + 2 * 6), { "r": 11 } => all(&|o, _| o + 2 * 11),],
        "loha" => counts![{ "r": 1 } => 2 * pairs(1), { "r": 3 } => 2 * pairs(3),],
        // `2 r` against the longer side of a factor, 4 to 43 here, says whether it is a product.
        "lokr" => counts![
            { "r": 2, "target_modules": ["q_proj"] } => m.maps(&["q_proj"], &|o, i| split(o).0 * split(i).0 + 2 * (split(o).1 + split(i).1)),
            { "r": 64 } => all(&|o, i| split(o).0 * split(i).0 + split(o).1 * split(i).1),
            { "r": 1, "decompose_both": true } => all(&|o, i| split(o).0 + split(i).0 + split(o).1 + split(i).1),
            { "r": 64, "decompose_factor": 4 } => all(&|o, i| 4 * 4 + (o / 4) * (i / 4)),
        ],
        "hira" => counts![{ "r": 2 } => pairs(2), { "r": 5 } => pairs(5),],
        "miss" => counts![
            { "r": 5 } => all(&|o, _| 5 * o),
            { "r": 3, "init_weights": "mini", "mini_r": 4 } => 3 * 4 * maps,
            { "r": 4, "init_weights": "bat" } => all(&|o, _| 4 * o),
        ],
        "randlora" => counts![{ "r": 5 } => all(&|o, i| o.min(i).div_ceil(5) * (5 + o.min(i))), { "r": 20 } => all(&|o, i| o.min(i).div_ceil(20) * (20 + o.min(i))),],
        "delora" => counts![{ "r": 2 } => pairs(2) + maps, { "r": 3 } => pairs(3) + maps,],
        "glora" => counts![
            { "r": 3 } => 2 * pairs(3) + m.biased(&LINEAR, &|_, i| 3 * (i + 1) + 2),
            { "config_A_B": "vector", "config_C": "vector", "config_D_E": "vector" } => all(&|o, _| 2 * o) + m.biased(&LINEAR, &|o, i| i + 2 * o),
            { "config_A_B": "constant", "config_C": "none", "config_D_E": "none" } => 2 * maps,
        ],
        "gralora" => counts![{ "r": 4 } => pairs(4), { "r": 8, "gralora_k": 4, "hybrid_r": 3 } => pairs(8 + 3),],
        "vblora" => counts![
            { "r": 2, "num_vectors": 5, "vector_length": 4 } => pairs(2) / 4 * 5 + 5 * 4,
            { "r": 1, "num_vectors": 3, "vector_length": 16, "target_modules": ["v_proj"] } => m.maps(&["v_proj"], &|o, i| (i + o) / 16 * 3) + 3 * 16,
        ],
        "unilora" => counts![{ "theta_d_length": 50 } => 50, { "r": 1, "theta_d_length": 71, "target_modules": ["v_proj"] } => 71,],
        // A share of the maps' vectors, halves to the even number.
        "tinylora" => counts![
            { "u": 13 } => 13 * maps,
            { "u": 3, "weight_tying": 0.75 } => 3 * (maps as f64 / 4.0).round_ties_even() as usize,
            { "u": 5, "weight_tying": 1.0 } => 5,
        ],
        "peanut" => counts![{ "r": 3 } => all(&|o, _| 2 * 3 * o), { "r": 4, "depth": 2 } => all(&|o, _| 2 * 4 * o + 2 * 2 * 4 * 4),],
        // No more directions than outputs.
        "deft" => counts![
            { "r": 3 } => pairs(3),
            { "r": 3, "decomposition_method": "qr", "para": true } => all(&|o, _| 3 * o),
            { "r": 40 } => all(&|o, i| o.min(40) * (i + o)),
        ],
        "c3a" => counts![{ "block_size": 2 } => all(&|o, i| i * o / 2), { "block_size": 4 } => all(&|o, i| i * o / 4),],
        "waveft" | "fourierft" => counts![
            { "n_frequency": 40 } => 40 * maps,
            { "n_frequency": 30, "n_frequency_pattern": { "q_proj": 11 } } => 30 * (maps - l) + 11 * l,
        ],
        "trainable_tokens" => counts![{ "token_indices": [403, 17, 261] } => 3 * d, { "token_indices": [5] } => d,],
        "oft" => counts![
            { "oft_block_size": 4 } => all(&|_, i| i * (4 - 1) / 2),
            { "r": 2 } => all(&|_, i| i * (i / 2 - 1) / 2),
            { "oft_block_size": 4, "block_share": true } => maps * 4 * (4 - 1) / 2,
        ],
        "boft" => counts![
            { "boft_block_size": 4 } => all(&|o, i| i * 4 + o),
            { "boft_block_num": 2 } => all(&|o, i| i * (i / 2) + o),
            { "boft_block_size": 2, "boft_n_butterfly_factor": 3, "target_modules": ["v_proj"] } => m.maps(&["v_proj"], &|o, i| 3 * i * 2 + o),
        ],
        "hra" => counts![{ "r": 2 } => all(&|_, i| 2 * i), { "r": 5 } => all(&|_, i| 5 * i),],
        "road" => counts![
            { "group_size": 4 } => all(&|o, _| o),
            { "group_size": 4, "variant": "road_2" } => all(&|o, _| 2 * o),
            { "group_size": 4, "variant": "road_4" } => all(&|o, _| 4 * o),
        ],
        "osf" => counts![
            {} => all(&|o, i| (o.min(i) - o.min(i) / 2) * (i + o + 1)),
            { "effective_rank": 0.75 } => all(&|o, i| o.min(i) / 4 * (i + o + 1)),
            { "effective_rank": 10 } => all(&|o, i| (o.min(i) - 10) * (i + o + 1)),
        ],
        "ia3" => counts![{} => scaled, { "target_modules": ["up_proj", "down_proj"] } => m.maps(&["up_proj", "down_proj"], &|o, _| o),],
        "houlsby" => counts![{} => 2 * l * neck(d / 16), { "bottleneck": 7, "placement": "attention" } => l * neck(7),],
        "pfeiffer" => counts![{} => l * neck(d / 16), { "bottleneck": 7, "placement": "both" } => 2 * l * neck(7),],
        "parallel_adapter" => counts![{} => l * neck(d / 2), { "reduction_factor": 8, "layers_to_transform": [1] } => neck(d / 8),],
        // A faithful one's layer norm is not trained.
        "conformer_adapter" => counts![
            { "bottleneck": 3 } => l * conformer(3, 31),
            { "reduction_factor": 8, "kernel_size": 4, "placement": "both" } => 2 * l * conformer(d / 8, 4),
            { "bottleneck": 3, "faithful": true } => l * (conformer(3, 31) - 2 * d),
        ],
        // The width that the reduction gives is at least one block, of 4.
        "compacter" => counts![
            {} => 4 * 4 * 4 + 2 * l * compact(1, 4),
            { "phm_dim": 2, "phm_rank": 3, "bottleneck": 8, "placement": "mlp" } => 2 * 2 * 2 + l * compact(3, 8),
        ],
        "adapter_fusion" => counts![
            { "adapters": [path("narrow"), path("wide")] } => l * (3 * d * d + 2 * d),
            { "adapters": [path("narrow"), path("wide")], "value": false } => l * (2 * d * d + 2 * d),
            { "adapters": [path("narrow_both"), path("wide_both")] } => 2 * l * (3 * d * d + 2 * d),
        ],
        "full" => counts![{} => everything, { "target_modules": ["q_proj", "norm", "lm_head"] } => m.whole(&["q_proj"]) + d + v * d,],
        // Without `add_biases` those that are there; a model that has none is refused.
        "bitfit" if m.biased(&LINEAR, &|o, _| o) == 0 => counts![{ "add_biases": true } => all(&|o, _| o),],
        "bitfit" => counts![{ "add_biases": true } => all(&|o, _| o), {} => m.biased(&LINEAR, &|o, _| o),],
        "beft" => counts![{} => m.maps(&["v_proj"], &|o, _| o), { "target_modules": "all-linear" } => all(&|o, _| o),],
        "ln_tuning" => counts![{} => (2 * l + 1) * d, { "target_modules": ["input_layernorm"] } => l * d,],
        "last_layers" => counts![{ "layers": 1 } => layers / l + d, { "layers": 2, "final_norm": false } => 2 * (layers / l),],
        "head_only" => counts![{} => v * d,],
        "shira" => counts![{ "r": 2 } => pairs(2), { "r": 3 } => pairs(3),],
        "supertuning" => counts![{} => all(&|o, i| i * o / 100), { "sparsity": 0.75, "r": 3 } => all(&|o, i| i * o / 4) + pairs(3),],
        // Held, and counted, is all of `D`; another test says how much of it moves.
        "fish_mask" | "child_tuning" => counts![
            {} => selected,
            { "share": 0.5, "target_modules": ["q_proj", "up_proj", "embed_tokens"] } => m.whole(&["q_proj", "up_proj"]) + v * d,
        ],
        "subnetwork" => counts![{ "changed_by": path("full") } => selected, { "changed_by": path("full"), "target_modules": ["q_proj"] } => m.whole(&["q_proj"]),],
        "diff_pruning" => counts![{} => 2 * selected, { "structured": true, "target_modules": ["up_proj"] } => 2 * m.whole(&["up_proj"]) + l,],
        "mask_tuning" => counts![{} => m.maps(&LINEAR[..4], &|o, i| o * i), { "target_modules": ["gate_proj"] } => m.maps(&["gate_proj"], &|o, i| o * i),],
        "grafting" => counts![{ "tuned": path("full") } => selected, { "tuned": path("full"), "share": 0.5, "target_modules": ["q_proj"] } => m.whole(&["q_proj"]),],
        "lisa" => counts![{ "layers": 1 } => everything, { "layers": 2 } => everything,],
        "galore" => counts![{ "rank": 4 } => everything, { "rank": 9 } => everything,],
        "poly" => counts![
            { "r": 2, "n_skills": 3, "n_tasks": 5, "n_splits": 4 } => 3 * pairs(2) + maps * 5 * 4 * 3,
            { "r": 2, "n_skills": 3, "n_tasks": 5, "n_splits": 4, "finetune": "z" } => maps * 5 * 4 * 3,
            { "r": 2, "n_skills": 3, "n_tasks": 5, "n_splits": 4, "finetune": "mu" } => 3 * pairs(2),
        ],
        "poly_ia3" => counts![
            { "n_skills": 3, "n_tasks": 5, "n_splits": 4 } => 3 * scaled + 3 * l * 5 * 4 * 3,
            { "n_skills": 3, "n_tasks": 5, "n_splits": 4, "finetune": "z" } => 3 * l * 5 * 4 * 3,
            { "n_skills": 3, "n_tasks": 5, "n_splits": 4, "finetune": "mu" } => 3 * scaled,
        ],
        "moe_lora" => counts![
            { "r": 2, "num_experts": 3 } => 3 * pairs(2) + all(&|_, i| 3 * i),
            { "r": 3, "num_experts": 5, "top_k": 2 } => 5 * pairs(3) + all(&|_, i| 5 * i),
        ],
        "adamix" => counts![{ "r": 2, "num_experts": 3 } => 3 * pairs(2), { "r": 3, "num_experts": 5 } => 5 * pairs(3),],
        // Three maps of a layer are changed by one of the two, or by both.
        "xlora" => counts![
            { "adapters": adapters } => 2 * d + 2,
            { "adapters": adapters, "layerwise_scalings": true } => (2 * d + 2) * 3 * l,
            { "adapters": adapters, "layerwise_scalings": true, "xlora_depth": 3, "xlora_size": 5 } => 5 * (d + 1) + 5 * (5 + 1) + 2 * 3 * l * (5 + 1),
        ],
        "prompt_tuning" => counts![{ "num_virtual_tokens": 3 } => 3 * d, { "num_virtual_tokens": 5 } => 5 * d,],
        "p_tuning" => counts![
            { "num_virtual_tokens": 3, "encoder_hidden_size": 6 } => 3 * d + 6 * (d + 1) + 6 * (6 + 1) + d * (6 + 1),
            { "num_virtual_tokens": 3, "encoder_hidden_size": 6, "encoder_reparameterization_type": "LSTM" } =>
                3 * d + lstm(d, 6) + lstm(2 * 6, 6) + 12 * (12 + 1) + d * (12 + 1),
        ],
        "prefix_tuning" => counts![
            { "num_virtual_tokens": 3 } => 3 * l * 2 * kv,
            { "num_virtual_tokens": 3, "prefix_projection": true, "encoder_hidden_size": 8 } => projected(3, 8),
        ],
        "cartridge" => counts![{ "num_virtual_tokens": 3 } => (3 - 1) * l * 2 * kv, { "num_virtual_tokens": 7, "num_frozen_tokens": 2 } => (7 - 2) * l * 2 * kv,],
        "multitask_prompt_tuning" => counts![
            { "num_virtual_tokens": 3, "num_tasks": 2, "num_ranks": 4 } => 3 * d + 2 * 4 * (3 + d),
            { "num_virtual_tokens": 5, "num_tasks": 3, "num_ranks": 1 } => 5 * d + 3 * (5 + d),
        ],
        "adaption_prompt" => counts![{ "adapter_len": 3, "adapter_layers": 1 } => 3 * d + 1, { "adapter_len": 2, "adapter_layers": 2 } => 2 * (2 * d + 1),],
        // A rank that is not given is what the prompt leaves of 100 tokens.
        "dept" => counts![
            { "num_virtual_tokens": 3, "r": 2 } => dept(3, 256, 2),
            { "num_virtual_tokens": 4, "max_length": 20 } => dept(4, 20, (100 - 4) * d / (20 + d)),
        ],
        // One space needs no gate.
        "ept" => counts![
            { "num_virtual_tokens": 3, "r": 2, "fusion_rank": 5, "spaces": 3, "space_rank": 6, "gate_hidden": 7 } =>
                dept(3, 256, 2) + 4 * d * 5 + (3 - 1) * 2 * d * 6 + 7 * (d + 3),
            { "num_virtual_tokens": 3, "r": 2, "fusion_rank": 5, "spaces": 1 } => dept(3, 256, 2) + 4 * d * 5,
        ],
        "attempt" => counts![
            { "num_virtual_tokens": 2, "sources": sources, "bottleneck": 4 } => 2 * d + 2 * 4 * d + 2 * d,
            { "num_virtual_tokens": 2, "sources": sources, "bottleneck": 9 } => 2 * d + 2 * 9 * d + 2 * d,
        ],
        // Tokens that cannot move are counted.
        "cpt" => counts![
            { "cpt_token_ids": [1, 403, 407, 17], "cpt_tokens_type_mask": [1, 2, 3, 0] } => 4 * d,
            { "cpt_token_ids": [1, 403], "cpt_tokens_type_mask": [1, 2] } => 2 * d,
        ],
        "mam" => counts![
            { "num_virtual_tokens": 3, "bottleneck": 8 } => l * (2 * 3 * kv + neck(8)),
            { "num_virtual_tokens": 2, "prefix_projection": true, "encoder_hidden_size": 6, "bottleneck": 5 } => projected(2, 6) + l * neck(5),
        ],
        "unipelt" => counts![
            { "num_virtual_tokens": 3, "r": 2, "reduction_factor": 4 } =>
                l * (2 * 3 * kv + 2 * (d / 4) * d + d / 4 + 3 * d) + m.maps(&["q_proj", "v_proj"], &|o, i| 2 * (i + o) + i),
            { "num_virtual_tokens": 5, "r": 3, "target_modules": ["down_proj"] } =>
                l * (2 * 5 * kv + 2 * (d / 16) * d + d / 16 + 3 * d) + m.maps(&["down_proj"], &|o, i| 3 * (i + o) + i),
        ],
        _ => Vec::new(),
    }
}

/// A recipe's `method`.
fn recipe(method: &str, fields: &Value) -> String {
    let mut recipe = Map::from_iter([("type".to_string(), json!(method))]);
    recipe.extend(fields.as_object().unwrap().clone());
    Value::Object(recipe).to_string()
}

/// Every trained number moved, by at least 0.05 and no two by the same.
fn moved(mut edit: Edit) -> Edit {
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        let values = param.value.as_mut_slice::<f32>().iter_mut().enumerate();
        values.for_each(|(at, value)| *value += 0.05 + 0.05 * key.normal(at as u64).abs());
    }
    edit
}

/// What is to hold of each of the two models.
fn on_both(check: impl Fn(&Shapes)) {
    for path in ["../../assets/stories260k", "tests/golden/tiny-qwen2"] {
        let (base, made) = (Base::of(&load(&crate_path(path))), tempfile::tempdir().unwrap());
        check(&Shapes::of(&base, made.path()));
    }
}

#[test]
fn every_method_trains_as_many_numbers_as_its_formula_says() {
    on_both(|m| {
        for info in METHODS {
            let cases = formulas(info.name, m);
            assert!(!cases.is_empty(), "`{}` has no formula here: write the page's, of the base's shapes", info.name);
            for (fields, count) in cases {
                let recipe = recipe(info.name, &fields);
                let planned = planned_count(&recipe, m.base).unwrap_or_else(|error| panic!("{recipe}: {error}"));
                assert_eq!(planned, count, "{recipe} on {}", m.base.model_type);
                let made = edit(&recipe, m.base).unwrap_or_else(|error| panic!("{recipe}: {error}"));
                assert_eq!(made.parameter_count(), count, "{recipe} on {}, made", m.base.model_type);
            }
        }
    });
}

fn not_zero(values: &Tensor) -> usize {
    values.as_slice::<f32>().iter().filter(|value| **value != 0.0).count()
}

/// What is not 0 of the changes of weights.
fn changed(edit: &Edit) -> usize {
    edit.params.iter().filter(|p| p.key.ends_with(".change")).map(|p| not_zero(&p.value)).sum()
}

/// What the page says of a share, or of another edit's changes.
#[test]
fn as_much_moves_as_a_mask_lets_through() {
    on_both(|m| {
        let made = |method: &str, fields: Value| edit(&recipe(method, &fields), m.base).unwrap();
        let share = (m.whole(&LINEAR) + (2 * m.l + 1) * m.d) / 20;
        // Found by the gradients of the first step.
        for (method, fields) in [
            ("fish_mask", json!({ "share": 0.05, "samples": 1 })),
            ("child_tuning", json!({ "share": 0.05, "samples": 1, "mode": "task_driven" })),
        ] {
            let edit = made(method, fields);
            let ids: Vec<ParamId> = (0..edit.params.len() as u32).map(ParamId).collect();
            let mut rules = edit.method.training(&edit).unwrap();
            let passed = [0, 1].map(|step| {
                let moment = Moment { step, steps: 2, key: RandomKey::new(0), run: RandomKey::new(0) };
                let mut gradients = Gradients::new();
                for (id, param) in ids.iter().zip(moved(edit.clone()).params) {
                    gradients.add(&Var::param(*id, param.value.clone()), param.value);
                }
                rules.gradients(&edit, &mut EditGradients::new(&mut gradients, &ids), &moment);
                ids.iter().filter_map(|id| gradients.param(*id)).map(not_zero).sum::<usize>()
            });
            assert_eq!(passed, [0, share], "{method}");
        }
        let edit = moved(made("diff_pruning", json!({ "share": 0.05 })));
        assert_eq!(changed(&edit.method.clone().finished(edit, m.base).unwrap()), share);
        let edit = made("grafting", json!({ "tuned": m.made.join("full"), "share": 0.05 }));
        assert_eq!(changed(&edit.method.clone().finished(edit, m.base).unwrap()), share);
        let edit = made("subnetwork", json!({ "changed_by": m.made.join("full") }));
        let masks = edit.params.iter().filter(|p| p.key.ends_with(".mask"));
        assert_eq!(masks.map(|p| not_zero(&p.value)).sum::<usize>(), m.whole(&["q_proj", "down_proj"]));
    });
}

#[test]
fn a_finished_edit_keeps_what_the_page_says() {
    on_both(|&Shapes { base, l, d, kv, .. }| {
        let map =
            json!({ "num_virtual_tokens": 3, "prefix_projection": true, "encoder_hidden_size": 6, "bottleneck": 5 });
        for (method, fields, kept) in [
            ("p_tuning", json!({ "num_virtual_tokens": 3, "encoder_hidden_size": 6 }), 3 * d),
            ("ept", json!({ "num_virtual_tokens": 3, "r": 2, "max_length": 16 }), (3 + 16) * d),
            ("mam", map, l * (2 * 3 * kv + 2 * 5 * d + 5 + d)),
        ] {
            let edit = edit(&recipe(method, &fields), base).unwrap();
            assert_eq!(edit.method.clone().finished(edit, base).unwrap().parameter_count(), kept, "{method}");
        }
    });
}
