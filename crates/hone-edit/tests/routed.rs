//! What the routed methods are in the cases in which they are something simpler, and that one task's mixture is a LoRA
//! adapter.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{SMOL, base, edit, fields, planned_count};
use hone_edit::collapse::collapsed;
use hone_edit::files::{CONFIG, OURS, adapter_config, read_edit};
use hone_edit::merge::{Merger, logits};
use hone_edit::methods::routed::moe_lora::{balance_loss, highest};
use hone_edit::{Base, Edit, EditError, EditStack, registry, save_edit};
use hone_engine::ops::{self, Segment};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor, Var};
use hone_model::{Context, Model, NoHooks, TokenBatch};
use serde_json::{Value, json};

fn stories() -> Model {
    common::golden::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k"))
}

fn of(model: &Model, recipe: Value) -> Edit {
    edit(&recipe.to_string(), &Base::of(model)).unwrap()
}

/// Every parameter drawn from a normal distribution.
fn drawn(mut edit: Edit) -> Edit {
    for param in &mut edit.params {
        let key = RandomKey::new(5).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v = 0.3 * key.normal(i as u64));
    }
    edit
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]])
}

fn edited(model: &Model, edit: &Edit, task: u32) -> Tensor {
    let mut stack = EditStack::of(edit.clone());
    stack.choose_group(task).unwrap();
    logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch())
}

/// Largest difference, as a share of the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let largest = a.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
    pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

fn same(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    assert!(distance(a, b) < 2e-5, "{what}: {}", distance(a, b));
}

fn far(a: &Tensor, b: &Tensor, what: &str) {
    assert!(distance(a, b) > 1e-3, "{what}: {}", distance(a, b));
}

fn values(edit: &Edit) -> HashMap<String, Tensor> {
    edit.params.iter().map(|p| (p.key.clone(), p.value.clone())).collect()
}

/// `edit` with its parameters made by `make` of their key and shape.
fn with(mut edit: Edit, make: impl Fn(&str, &Tensor) -> Tensor) -> Edit {
    for param in &mut edit.params {
        let value = make(&param.key, &param.value);
        assert_eq!(value.elements(), param.value.elements(), "{}", param.key);
        param.value = value.reshape(param.value.shape());
    }
    edit
}

fn transposed(matrix: &Tensor, rows: usize, columns: usize) -> Tensor {
    let matrix = Var::constant(matrix.reshape([rows, columns]));
    ops::transpose(&Tape::off(), &matrix).value
}

/// Poly of one block as LoRA: the mixture of its skills by `weights`.
fn lora_of(model: &Model, poly: &Edit, rank: usize, weights: &[f32]) -> Edit {
    let recipe = json!({ "type": "lora", "r": rank, "lora_alpha": 1, "target_modules": poly.config["target_modules"] });
    let held = values(poly);
    with(of(model, recipe), |key, _| {
        let of_poly = key.replace("lora_A.weight", "poly_lora_A").replace("lora_B.weight", "poly_lora_B");
        let skills = &held[&of_poly];
        let (height, width) = (skills.dim(2), skills.dim(3));
        let mut mean = vec![0f32; height * width];
        for (skill, weight) in skills.as_slice::<f32>().chunks_exact(height * width).zip(weights) {
            mean.iter_mut().zip(skill).for_each(|(m, v)| *m += weight * v);
        }
        transposed(&Tensor::from_slice([height, width], &mean), height, width)
    })
}

const POLY: &str = r#"{ "type": "poly", "r": 2, "target_modules": ["q_proj", "v_proj", "down_proj"]"#;

fn poly(model: &Model, rest: &str) -> Edit {
    drawn(of(model, serde_json::from_str(&format!("{POLY}{rest} }}")).unwrap()))
}

fn logits_set(edit: Edit, row: &[f32]) -> Edit {
    with(edit, |key, value| match key.ends_with("module_logits") {
        true => Tensor::from_slice(value.shape(), &row.repeat(value.elements() / row.len())),
        false => value.clone(),
    })
}

#[test]
fn one_skill_is_lora_with_alpha_1() {
    let model = stories();
    let poly = poly(&model, r#", "n_skills": 1"#);
    same(&edited(&model, &poly, 0), &edited(&model, &lora_of(&model, &poly, 2, &[1.0]), 0), "one skill");
}

#[test]
fn equal_logits_give_the_mean_and_one_far_above_the_others_gives_its_skill() {
    let model = stories();
    let poly = poly(&model, r#", "n_skills": 3"#);
    let third = 1.0 / 3.0;
    for (row, weights) in [([0.7, 0.7, 0.7], [third; 3]), ([-30.0, 30.0, -30.0], [0.0, 1.0, 0.0])] {
        let set = logits_set(poly.clone(), &row);
        same(&edited(&model, &set, 0), &edited(&model, &lora_of(&model, &set, 2, &weights), 0), &format!("{row:?}"));
    }
}

#[test]
fn the_order_of_skills_does_not_matter() {
    let model = stories();
    let own = poly(&model, r#", "n_skills": 3, "n_splits": 2, "n_tasks": 2"#);
    // Skill s of every block goes to place (s + 1) mod 3; everything is [rows of skills, numbers of a skill].
    let rotated = with(own.clone(), |key, value| {
        let rows = if key.ends_with("module_logits") { value.elements() } else { 6 };
        let matrix = Var::constant(value.reshape([rows, value.elements() / rows]));
        let order: Vec<u32> = (0..rows as u32).map(|row| row / 3 * 3 + (row + 2) % 3).collect();
        ops::gather_rows(&Tape::off(), &matrix, &order).value
    });
    assert_ne!(values(&own)[&own.params[0].key].to_vec_f32(), rotated.params[0].value.to_vec_f32());
    for task in [0, 1] {
        same(&edited(&model, &own, task), &edited(&model, &rotated, task), "rotated skills");
    }
    far(&edited(&model, &own, 0), &edited(&model, &own, 1), "tasks");
}

#[test]
fn many_heads_with_one_routing_are_poly() {
    let model = stories();
    let one = poly(&model, r#", "n_skills": 3"#);
    let held = values(&one);
    let two = with(poly(&model, r#", "n_skills": 3, "n_splits": 2"#), |key, value| {
        let one = &held[key];
        if key.ends_with("module_logits") {
            return Tensor::from_slice(value.shape(), &one.as_slice::<f32>().repeat(2));
        }
        // [S, rows, columns] to [H, S, …]: A is split along its rows, B along its columns.
        let (rows, columns) = (one.dim(2), one.dim(3));
        let along_rows = key.ends_with("A");
        let (height, width) = (value.dim(2), value.dim(3));
        let place = |at: usize| {
            let (head, skill, row, column) =
                (at / (3 * height * width), at / (height * width) % 3, at / width % height, at % width);
            let (row, column) = if along_rows { (head * height + row, column) } else { (row, head * width + column) };
            one.as_slice::<f32>()[(skill * rows + row) * columns + column]
        };
        Tensor::from_slice(value.shape(), &(0..value.elements()).map(place).collect::<Vec<f32>>())
    });
    same(&edited(&model, &one, 0), &edited(&model, &two, 0), "two heads");
}

#[test]
fn a_task_of_a_mixture_collapses_into_lora() {
    let model = stories();
    let base = Base::of(&model);
    let recipes = [
        json!({ "type": "poly", "r": 3, "n_tasks": 2, "n_splits": 2, "target_modules": ["q_proj", "down_proj"] }),
        json!({ "type": "poly", "r": 2, "n_tasks": 2, "n_skills": 3 }),
        json!({ "type": "poly", "r": 2, "n_splits": 2, "finetune": "mu" }),
        json!({ "type": "adamix", "r": 2, "lora_alpha": 3 }),
    ];
    for recipe in recipes {
        let edit = drawn(of(&model, recipe.clone()));
        for task in 0..edit.method.groups().unwrap_or(1) as u32 {
            let lora = collapsed(&edit, task, &base).unwrap();
            assert_eq!(lora.method.info().name, "lora");
            let own = edited(&model, &edit, task);
            same(&own, &edited(&model, &lora, 0), &recipe.to_string());
            let stack = EditStack::of(lora);
            let decoder = Merger::new(&stack, &base).unwrap().decoder(&model.decoder, DType::F32).unwrap();
            let merged = logits(&(&decoder.into(), std::sync::Arc::new(NoHooks)), DType::F32, &batch());
            same(&own, &merged, &format!("{recipe}, merged"));
        }
    }
    for recipe in [json!({ "type": "moe_lora", "r": 2 }), json!({ "type": "poly_ia3" })] {
        let refused = collapsed(&of(&model, recipe), 0, &base);
        assert!(matches!(refused, Err(EditError::CannotCollapse { .. })));
    }
}

#[test]
fn sequences_of_several_tasks_share_a_batch() {
    let model = stories();
    for recipe in [json!({ "type": "poly", "n_tasks": 3, "r": 2 }), json!({ "type": "poly_ia3", "n_tasks": 3 })] {
        let edit = drawn(of(&model, recipe.clone()));
        let hooks = EditStack::of(edit.clone()).hooks(DType::F32);
        let mixed = TokenBatch { groups: vec![2, 1], ..batch() };
        let together = logits(&(&model.decoder, hooks), DType::F32, &mixed);
        let width = together.rows_cols().1;
        let split = batch().segments[1].start * width;
        let (first, second) = (edited(&model, &edit, 2), edited(&model, &edit, 1));
        let apart = [&first.as_slice::<f32>()[..split], &second.as_slice::<f32>()[split..]].concat();
        same(&together, &Tensor::from_slice(together.dims(), &apart), &recipe.to_string());
    }
}

#[test]
fn a_task_that_an_edit_does_not_know_is_refused() {
    let model = stories();
    let mut stack = EditStack::of(of(&model, json!({ "type": "poly", "n_tasks": 2 })));
    stack.choose_group(1).unwrap();
    let error = stack.choose_group(2).unwrap_err().to_string();
    assert!(error.contains("2 task(s)") && error.contains("no task 2"), "{error}");
    EditStack::of(of(&model, json!({ "type": "lora" }))).choose_group(7).unwrap();
}

#[test]
fn a_new_task_starts_from_trained_skills_under_a_fresh_routing() {
    let model = stories();
    let folder = tempfile::tempdir().unwrap();
    let trained = drawn(of(&model, json!({ "type": "poly", "r": 2, "n_tasks": 3, "n_splits": 2 })));
    save_edit(&trained, &folder.path().join("trained")).unwrap();
    let recipe = |finetune: &str| {
        let from = folder.path().join("trained");
        json!({ "type": "poly", "r": 2, "n_splits": 2, "finetune": finetune, "init_from": from })
    };
    let held = values(&trained);
    // 35 maps with 8 logits each; r S Σ (i + o) = 2 · 4 · 5 · 1156.
    for (finetune, count) in [("all", 46_240 + 280), ("z", 280), ("mu", 46_240)] {
        let adapted = of(&model, recipe(finetune));
        for param in &adapted.params {
            match param.key.ends_with("module_logits") {
                true => assert!(param.value.as_slice::<f32>().iter().all(|z| z.abs() <= 1e-3), "{}", param.key),
                false => {
                    assert_eq!(param.value.to_vec_f32(), held[&param.key].to_vec_f32(), "{finetune}: {}", param.key)
                }
            }
        }
        assert_eq!(adapted.parameter_count(), count, "{finetune}");
        assert_eq!(adapter_config(&adapted).get("init_from"), None, "a recipe's own business");
    }
    let wrong_rank = json!({ "type": "poly", "r": 3, "init_from": folder.path().join("trained") });
    let error = edit(&wrong_rank.to_string(), &Base::of(&model)).err().unwrap().to_string();
    assert!(error.contains("init_from"), "{error}");
    let other_method = json!({ "type": "poly_ia3", "init_from": folder.path().join("trained") });
    let error = edit(&other_method.to_string(), &Base::of(&model)).err().unwrap().to_string();
    assert!(error.contains("an adapter of `poly`"), "{error}");
}

#[test]
fn the_configuration_has_the_fields_that_peft_has() {
    let base = base(&SMOL, true);
    let known = [
        "peft_type",
        "base_model_name_or_path",
        "inference_mode",
        "revision",
        "auto_mapping",
        "peft_version",
        "r",
        "target_modules",
        "exclude_modules",
        "modules_to_save",
        "init_weights",
        "poly_type",
        "n_tasks",
        "n_skills",
        "n_splits",
        "task_type",
    ];
    let made = edit(r#"{ "type": "poly", "layers_to_transform": [3], "target_modules": ["v_proj"] }"#, &base).unwrap();
    let config = adapter_config(&made);
    let unknown: Vec<&String> = config.as_object().unwrap().keys().filter(|k| !known.contains(&k.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(config["target_modules"], json!(["model.layers.3.self_attn.v_proj"]));
    assert_eq!(made.params.len(), 3);
}

#[test]
fn parameters_are_counted_by_the_formulas() {
    let base = base(&SMOL, false);
    let q_and_v = r#""target_modules": ["q_proj", "v_proj"]"#;
    let trained = |json: &str| {
        let plan = registry::from_recipe(&fields(json), &mut Vec::new()).unwrap().plan(&base).unwrap();
        let trained = plan.params.iter().filter(|p| p.traits.role == hone_edit::Role::Trained);
        trained.map(|p| p.shape.iter().product::<usize>()).sum::<usize>()
    };
    // [576, 576] and [192, 576], 30 layers: Σ (i + o) = 30 · (1152 + 768) = 57,600.
    let skills = 4 * 8 * 57_600;
    // As PEFT counts it.
    assert_eq!(planned_count(&format!(r#"{{ "type": "poly", {q_and_v} }}"#), &base).unwrap(), 1_843_440);
    assert_eq!(skills + 240, 1_843_440);
    let mhr = |rest: &str| trained(&format!(r#"{{ "type": "poly", {q_and_v}, "n_splits": 4, "n_tasks": 2{rest} }}"#));
    assert_eq!(mhr(""), skills + 60 * 2 * 4 * 4);
    assert_eq!(mhr(r#", "finetune": "z""#), 60 * 2 * 4 * 4);
    assert_eq!(mhr(r#", "finetune": "mu""#), skills);
    // Keys, values (192 each) and the MLP's inner width (1536).
    assert_eq!(trained(r#"{ "type": "poly_ia3", "n_skills": 3 }"#), 30 * (3 * (192 + 192 + 1536) + 3 * 3));
    // Σ i = 30 · 2 · 576.
    let moe = trained(&format!(r#"{{ "type": "moe_lora", "r": 4, "num_experts": 3, {q_and_v} }}"#));
    assert_eq!(moe, 3 * 4 * 57_600 + 3 * 30 * 2 * 576);
    assert_eq!(trained(&format!(r#"{{ "type": "adamix", "r": 4, "num_experts": 3, {q_and_v} }}"#)), 3 * 4 * 57_600);
}

fn moe(model: &Model, rest: &str) -> Edit {
    let targets = r#""target_modules": ["q_proj", "down_proj"]"#;
    let recipe = format!(r#"{{ "type": "moe_lora", "r": 2, "num_experts": 3, {targets}{rest} }}"#);
    drawn(of(model, serde_json::from_str(&recipe).unwrap()))
}

/// MoE-LoRA whose experts are all the first one, and that expert as LoRA.
fn equal_experts(model: &Model, rest: &str) -> (Edit, Edit) {
    let first_of = |key: &str, value: &Tensor| {
        let (rows, columns) = value.rows_cols();
        let copied = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            let (row, column) = if key.ends_with("A.weight") { (row % 2, column) } else { (row, column % 2) };
            value.as_slice::<f32>()[row * columns + column]
        };
        match key.ends_with("moe_router.weight") {
            true => value.clone(),
            false => Tensor::from_slice(value.shape(), &(0..rows * columns).map(copied).collect::<Vec<f32>>()),
        }
    };
    let moe = with(moe(model, rest), first_of);
    let held = values(&moe);
    let lora = of(model, json!({ "type": "lora", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"] }));
    let lora = with(lora, |key, value| {
        let all = &held[&key.replace("lora_", "moe_lora_")];
        match key.contains("lora_A") {
            true => ops::rows(&Tape::off(), &Var::constant(all.clone()), 0..value.dim(0)).value,
            false => ops::columns(&Tape::off(), &Var::constant(all.clone()), 0..2).value,
        }
    });
    (moe, lora)
}

#[test]
fn equal_experts_are_one_whatever_the_router_says() {
    let model = stories();
    for rest in ["", r#", "top_k": 2"#, r#", "top_k": 1"#] {
        let (moe, lora) = equal_experts(&model, rest);
        same(&edited(&model, &moe, 0), &edited(&model, &lora, 0), rest);
    }
    let (all, two) = (moe(&model, ""), moe(&model, r#", "top_k": 2"#));
    far(&edited(&model, &all, 0), &edited(&model, &two, 0), "top 2 of different experts");
}

#[test]
fn the_balance_is_1_where_experts_are_used_alike_and_their_number_where_one_is() {
    let balance = |rows: &[[f32; 2]]| {
        let p = Var::constant(Tensor::from_slice([rows.len(), 2], &rows.concat()));
        balance_loss(&Tape::off(), &p, 1).value.item()
    };
    assert!((balance(&[[0.9, 0.1], [0.1, 0.9]]) - 1.0).abs() < 1e-6);
    assert!((balance(&[[1.0, 0.0], [1.0, 0.0]]) - 2.0).abs() < 1e-6);
    let p = Tensor::from_slice([2, 3], &[0.2f32, 0.5, 0.3, 0.4, 0.2, 0.4]);
    assert_eq!(highest(&p, 2).to_vec_f32(), [0.0, 1.0, 1.0, 1.0, 0.0, 1.0]);
    assert_eq!(highest(&p, 1).to_vec_f32(), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
}

/// `Σ −ln p` of a training pass, and its gradients by parameter.
fn loss(model: &Model, edit: &Edit, recompute: bool, loss_share: f32) -> (f64, Vec<Vec<f32>>) {
    let stack = EditStack::training(edit.clone());
    let batch = batch();
    let cx = Context {
        training: true,
        key: RandomKey::new(1),
        recompute,
        loss_share,
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
    let of = |(id, param): (_, &hone_edit::Param)| {
        gradients.param(id).map_or_else(|| vec![0.0; param.value.elements()], Tensor::to_vec_f32)
    };
    (out.nll_sum, stack.trained_params().map(of).collect())
}

fn gradients(model: &Model, edit: &Edit, recompute: bool, loss_share: f32) -> Vec<Vec<f32>> {
    loss(model, edit, recompute, loss_share).1
}

/// X-LoRA with a classifier of two maps over two LoRA adapters that are written to `folder`.
fn xlora(model: &Model, folder: &Path) -> Edit {
    let expert = |name: &str, targets: Value| {
        let expert = drawn(of(model, json!({ "type": "lora", "r": 2, "target_modules": targets })));
        save_edit(&expert, &folder.join(name)).unwrap();
        folder.join(name)
    };
    let adapters = json!({ "a": expert("a", json!(["q_proj"])), "b": expert("b", json!(["q_proj", "down_proj"])) });
    let mut edit = of(model, json!({ "type": "xlora", "adapters": adapters, "xlora_depth": 2, "xlora_size": 6 }));
    let drawn = drawn(edit.clone());
    for (param, drawn) in edit.params.iter_mut().zip(drawn.params) {
        if param.traits.role == hone_edit::Role::Trained {
            param.value = drawn.value;
        }
    }
    edit
}

/// Differences over a step of 1e-3 are known to about 1e-2: losses of some 50 are sums of `f32`. The derivative along a
/// gradient is its length, so that it is large beside that.
#[test]
fn the_gradient_of_a_deep_classifier_is_its_derivative() {
    const STEP: f32 = 1e-3;
    let model = stories();
    let folder = tempfile::tempdir().unwrap();
    let edit = xlora(&model, folder.path());
    let (_, gradients) = loss(&model, &edit, false, 1.0);
    for (at, gradient) in gradients.iter().enumerate() {
        let length = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let moved = |offset: f32| {
            let mut edit = edit.clone();
            let along = edit.params[at].value.as_mut_slice::<f32>().iter_mut().zip(gradient);
            along.for_each(|(v, g)| *v += offset * g / length as f32);
            loss(&model, &edit, false, 1.0).0
        };
        let by_difference = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
        assert!((by_difference - length).abs() < 2e-2 + 2e-2 * length, "{at}: {by_difference} {length}");
        assert!(length > 0.1, "{at}: {length}");
    }
}

/// Whoever has one expert has that expert, whatever the classifier says; and an adapter of another kind is no expert.
#[test]
fn one_expert_is_its_lora_adapter() {
    let model = stories();
    let folder = tempfile::tempdir().unwrap();
    let lora = drawn(of(&model, json!({ "type": "lora", "r": 2, "target_modules": ["v_proj", "up_proj"] })));
    save_edit(&lora, &folder.path().join("only")).unwrap();
    let poly_ia3 = of(&model, json!({ "type": "poly_ia3" }));
    save_edit(&poly_ia3, &folder.path().join("poly_ia3")).unwrap();
    let xlora = of(&model, json!({ "type": "xlora", "adapters": { "only": folder.path().join("only") } }));
    same(&edited(&model, &lora, 0), &edited(&model, &xlora, 0), "one expert");
    let base = Base::of(&model);
    let no_expert = json!({ "type": "xlora", "adapters": { "only": "nowhere" } });
    assert!(matches!(edit(&no_expert.to_string(), &base), Err(EditError::Io { .. })));
    let other = json!({ "type": "xlora", "adapters": { "only": folder.path().join("poly_ia3") } });
    let other = edit(&other.to_string(), &base).err().unwrap().to_string();
    assert!(other.contains("an adapter of `poly_ia3`"), "{other}");
    let none = edit(r#"{ "type": "xlora" }"#, &base).err().unwrap().to_string();
    assert!(none.contains("adapters"), "{none}");
}

/// Experts stay in directories of their own. They are found when all of it was moved, when the mixture alone was, and by a way that
/// somebody wrote into the configuration.
#[test]
fn experts_are_found_where_they_are_whatever_was_moved() {
    let model = stories();
    let base = Base::of(&model);
    let folder = tempfile::tempdir().unwrap();
    let at = |place: &str| folder.path().join(place);
    let edit = xlora(&model, &at("first/experts"));
    let expected = edited(&model, &edit, 0);
    let as_before = |place: &str| {
        let read = read_edit(&at(place), &base).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(edited(&model, &read, 0).to_vec_f32(), expected.to_vec_f32(), "{place}");
        read
    };
    save_edit(&edit, &at("first/run/adapter")).unwrap();
    as_before("first/run");
    std::fs::rename(at("first"), at("second")).unwrap();
    // Written again, it says where they are now.
    save_edit(&as_before("second/run"), &at("second/again")).unwrap();
    std::fs::rename(at("second/again"), at("again")).unwrap();
    as_before("again");
    let write = |place: &str, file: &str, change: &dyn Fn(&mut Value)| {
        let file = at(place).join(file);
        let mut content: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut content);
        std::fs::write(file, content.to_string()).unwrap();
    };
    let forget = |content: &mut Value| drop(content.as_object_mut().unwrap().remove("adapters"));
    write("again", OURS, &forget);
    write("again", CONFIG, &|config| {
        config["adapters"] = json!({ "a": "../second/experts/a", "b": "../second/experts/b" });
    });
    as_before("again");
    std::fs::rename(at("second/experts"), at("gone")).unwrap();
    let error = read_edit(&at("again"), &base).err().unwrap().to_string();
    assert!(error.contains("../second/experts/a"), "{error}");
}

/// The balance reaches the router of a map by the factor in the recipe and the micro-batch's share, and other parameters
/// through what they change in later maps only: in the first map's `A` and `B` nothing.
#[test]
fn the_balance_loss_adds_its_gradient_to_the_router() {
    let model = stories();
    let edit = |coefficient: f32| {
        let rest = format!(
            r#", "layers_to_transform": [4], "target_modules": ["down_proj"], "router_aux_loss_coef": {coefficient}"#
        );
        let recipe = format!(r#"{{ "type": "moe_lora", "r": 2, "num_experts": 3{rest} }}"#);
        drawn(of(&model, serde_json::from_str(&recipe).unwrap()))
    };
    let change = |coefficient: f32, share: f32| -> Vec<Vec<f32>> {
        let (without, with) =
            (gradients(&model, &edit(0.0), false, 1.0), gradients(&model, &edit(coefficient), false, share));
        without.iter().zip(&with).map(|(a, b)| a.iter().zip(b).map(|(a, b)| b - a).collect()).collect()
    };
    let (one, half) = (change(8.0, 1.0), change(8.0, 0.5));
    let largest = |values: &[f32]| values.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert_eq!((largest(&one[0]), largest(&one[1])), (0.0, 0.0), "A and B");
    assert!(largest(&one[2]) > 1e-3, "the router: {}", largest(&one[2]));
    for (one, half) in one[2].iter().zip(&half[2]) {
        assert!((one - 2.0 * half).abs() < 1e-4 * largest(&[*one]).max(1.0), "{one} {half}");
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    let model = stories();
    let recipes = [
        json!({ "type": "moe_lora", "r": 2, "router_aux_loss_coef": 0.5 }),
        json!({ "type": "poly", "r": 2, "n_splits": 2 }),
        json!({ "type": "poly_ia3", "n_skills": 2 }),
        json!({ "type": "adamix", "r": 2, "lora_dropout": 0.2 }),
    ];
    for recipe in recipes {
        let edit = drawn(of(&model, recipe.clone()));
        let (kept, again) = (gradients(&model, &edit, false, 1.0), gradients(&model, &edit, true, 1.0));
        let (kept, again) = (kept.concat(), again.concat());
        let largest = kept.iter().fold(0f32, |m, v| m.max(v.abs()));
        let apart = kept.iter().zip(&again).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(largest > 0.0 && apart <= 1e-5 * largest, "{recipe}: {apart} of {largest}");
    }
}
