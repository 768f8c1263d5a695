//! What holds for adapters beyond what holds for every method: that everything trained moves, what they read, and batch
//! normalisation's running statistics.

use std::path::Path;

use hone_edit::training::{EditGradients, Moment};
use hone_edit::{Base, Edit, EditStack, Role, registry};
use hone_engine::ops::{self, Segment};
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor};
use hone_model::{Context, LoadOptions, Model, TokenBatch};
use serde_json::{Value, json};

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn training(model: &Model, recipe: Value) -> EditStack {
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
    EditStack::training(Edit::new(method, &Base::of(model), 7).unwrap())
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]])
}

/// `Σ −ln p` of the next tokens, with its gradients.
fn gradients(model: &Model, stack: &EditStack, recompute: bool) -> Gradients {
    let batch = batch();
    let cx =
        Context { training: true, recompute, ..Context::new(Tape::recording(), stack.hooks(DType::F32), DType::F32) };
    let hidden = model.decoder.hidden(&cx, &batch);
    let rows = |s: &Segment| (s.start as u32..(s.start + s.len - 1) as u32).collect::<Vec<_>>();
    let rows: Vec<u32> = batch.segments.iter().flat_map(rows).collect();
    let targets: Vec<u32> = rows.iter().map(|r| batch.ids[*r as usize + 1]).collect();
    let weights = vec![1.0; rows.len()];
    let out = ops::lm_head_loss(&cx.tape, &hidden, &model.decoder.head(&cx), &rows, &targets, &weights, 1.0, None);
    let mut gradients = Gradients::new();
    cx.tape.backward(&out.loss, Tensor::full(out.loss.value.dims(), DType::F32, 1.0), &mut gradients);
    gradients
}

/// A step of signs: what Adam's first step is.
fn step(model: &Model, stack: &mut EditStack) {
    let gradients = gradients(model, stack, false);
    for (id, param) in stack.trained_params_mut() {
        if let Some(gradient) = gradients.param(id) {
            let values = param.value.as_mut_slice::<f32>().iter_mut().zip(gradient.as_slice::<f32>());
            values.for_each(|(value, g)| *value -= 1e-3 * if *g == 0.0 { 0.0 } else { g.signum() });
        }
    }
}

/// Largest difference, as a share of the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
    let (apart, largest) =
        pairs.fold((0f32, 0f32), |(apart, most), (a, b)| (apart.max((a - b).abs()), most.max(a.abs())));
    apart / largest.max(f32::MIN_POSITIVE)
}

const METHODS: [&str; 5] = ["houlsby", "pfeiffer", "parallel_adapter", "conformer_adapter", "compacter"];

/// Two steps: where the map up starts at zero, the map down has no gradient before the up one has moved. All zeros would
/// not move after any number of them.
#[test]
fn everything_that_is_trained_moves_within_two_steps() {
    let model = stories();
    for word in METHODS {
        let mut stack = training(&model, json!({ "type": word, "bottleneck": 8 }));
        let before: Vec<Vec<f32>> = stack.trained_params().map(|(_, p)| p.value.to_vec_f32()).collect();
        step(&model, &mut stack);
        step(&model, &mut stack);
        for ((_, param), before) in stack.trained_params().zip(before) {
            assert_ne!(param.value.to_vec_f32(), before, "{word}: {} did not move", param.key);
        }
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    let model = stories();
    for word in METHODS {
        for insertion in ["sequential", "residual", "parallel"] {
            let recipe = json!({ "type": word, "placement": "both", "insertion": insertion, "bottleneck": 8 });
            let stack = training(&model, recipe);
            let (kept, again) = (gradients(&model, &stack, false), gradients(&model, &stack, true));
            let size = |g: &Tensor| g.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
            let largest = stack.trained_params().filter_map(|(id, _)| kept.param(id)).map(size).fold(0f32, f32::max);
            for (id, param) in stack.trained_params() {
                let apart = match (kept.param(id), again.param(id)) {
                    (Some(kept), Some(again)) => distance(kept, again) * size(kept) / largest,
                    (kept, again) => f32::from(kept.is_some() != again.is_some()),
                };
                // A recomputed block adds and norms in two operations instead of one, which rounds otherwise. Measured by
                // the largest gradient of all: that of a bias which a batch norm takes away again is 0 but for rounding.
                assert!(apart < 1e-5, "{word}, {insertion}: {}: {apart}", param.key);
            }
        }
    }
}

/// Running statistics follow the batch by a tenth a step, once however often a block runs, and are what is used outside
/// training.
#[test]
fn running_statistics_follow_the_batches() {
    let model = stories();
    for recompute in [false, true] {
        let mut stack = training(&model, json!({ "type": "conformer_adapter", "bottleneck": 4, "kernel_size": 3 }));
        let mut rules = stack.entries[0].edit.method.clone().training(&stack.entries[0].edit).expect("rules");
        let moment = Moment { step: 0, steps: 2, key: RandomKey::new(0), run: RandomKey::new(0) };
        let ids: Vec<ParamId> = stack.params().map(|(id, _)| id).collect();
        let statistics = |stack: &EditStack, name: &str| -> Vec<f32> {
            let key = format!("base_model.model.model.layers.0.mlp.conformer_adapter.batch_norm.{name}");
            stack.params().find(|(_, p)| p.key == key).expect("the parameter").1.value.to_vec_f32()
        };
        let mut means = Vec::new();
        for _ in 0..2 {
            rules.begin(&mut stack.entries[0].edit, &moment);
            let mut gradients = gradients(&model, &stack, recompute);
            rules.after(&mut stack.entries[0].edit, &EditGradients::new(&mut gradients, &ids), &moment);
            means.push(statistics(&stack, "running_mean"));
        }
        // The same batch twice, nothing trained in between: `0.1 m`, then `0.1 m + 0.9 · 0.1 m`.
        for (first, second) in means[0].iter().zip(&means[1]) {
            assert!(*first != 0.0 && (second / first - 1.9).abs() < 1e-4, "{first} {second}");
        }
        assert_eq!(statistics(&stack, "num_batches_tracked"), [2.0]);
        assert!(statistics(&stack, "running_var").iter().all(|v| *v != 1.0));
        let fixed = stack.params().filter(|(_, p)| p.key.contains("running") && p.traits.role != Role::Fixed).count();
        assert_eq!(fixed, 0);
    }
}

/// A row must not depend on rows behind it, nor on other sequences.
#[test]
fn the_convolution_looks_back_only() {
    let model = stories();
    let stack = training(&model, json!({ "type": "conformer_adapter", "bottleneck": 8, "kernel_size": 5 }));
    let hooks = stack.hooks(DType::F32);
    let run = |sequences: &[Vec<u32>]| {
        let batch = TokenBatch::from_sequences(sequences);
        model.decoder.hidden(&Context::inference(hooks.clone(), DType::F32), &batch).value.to_vec_f32()
    };
    let width = model.spec.hidden_size;
    let (short, long) = (run(&[vec![1, 403, 407]]), run(&[vec![1, 403, 407, 261, 378]]));
    assert_eq!(short, long[..3 * width]);
    let beside = run(&[vec![1, 17, 17, 480], vec![1, 403, 407]]);
    assert_eq!(short, beside[4 * width..]);
    // A shared beginning: the second part of a sequence as a segment of its own.
    let mut parts = TokenBatch::from_sequences(&[vec![1u32, 403]]);
    parts.push(&[407], Some(0));
    let split = model.decoder.hidden(&Context::inference(hooks.clone(), DType::F32), &parts).value.to_vec_f32();
    assert_eq!(short, split);
}

#[test]
fn fused_adapters_must_fit_together() {
    let model = stories();
    let directory = tempfile::tempdir().unwrap();
    let save = |name: &str, recipe: Value| {
        let path = directory.path().join(name);
        hone_edit::save_edit(&training(&model, recipe).entries[0].edit, &path).unwrap();
        path.to_str().unwrap().to_string()
    };
    let first = save("first", json!({ "type": "pfeiffer", "bottleneck": 4 }));
    let elsewhere = save("elsewhere", json!({ "type": "pfeiffer", "bottleneck": 4, "placement": "attention" }));
    let lora = save("lora", json!({ "type": "lora", "r": 2 }));
    let refused = |adapters: Value| {
        let recipe = json!({ "type": "adapter_fusion", "adapters": adapters });
        let made = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new());
        made.err().expect("a refusal").to_string()
    };
    assert!(refused(json!([first])).contains("two or more"));
    assert!(refused(json!([first, elsewhere])).contains("placement"));
    assert!(refused(json!([first, lora])).contains("LORA"));
    assert!(refused(json!([first, "nowhere"])).contains("nowhere"));
}
