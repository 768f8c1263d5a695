//! What holds for every method of the registry, on the tiny model that ships here: it starts where its formula says, its
//! gradients are derivatives, its files bring back the same bits, merging changes no logits and can be undone, nothing but its
//! own parameters takes a gradient, switched off it is not there, and its text continues with a cache as without one.
//!
//! A new method adds a line to [`cases()`].

mod cases;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cases::{Case, cases, fresh, moved, starts_unchanged, stories};
use hone_edit::files::read_edit;
use hone_edit::merge::{Merger, logits};
use hone_edit::method::{Mergeable, QuantisedBase};
use hone_edit::registry::{self, METHODS};
use hone_edit::stack::check_group;
use hone_edit::{Base, Edit, EditError, EditStack, StackEntry, save_edit};
use hone_engine::ops::{self, Segment};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor};
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{Context, LoadOptions, Model, NoHooks, Quantise, TokenBatch};
use serde_json::{Value, json};

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
