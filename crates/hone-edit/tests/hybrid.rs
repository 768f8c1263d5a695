//! Hybrids are what they are made of: MAM is a prefix and a parallel adapter, UniPELT with its gates half open a prefix, a bottleneck
//! behind the MLP and pairs at half their scale. Their parameters are as many as the formulas say.

mod common;

use std::path::Path;

use common::{SMOL, base};
use hone_edit::merge::logits;
use hone_edit::{Base, Edit, EditStack, StackEntry, registry};
use hone_engine::{DType, RandomKey, Tensor};
use hone_model::{LoadOptions, Model, TokenBatch};
use serde_json::{Value, json};

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn edit_of(base: &Base, recipe: Value) -> Edit {
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
    Edit::new(method, base, 0).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

/// Numbers that depend on `name` and the place alone, so that two edits can be given the same.
fn drawn(name: &str, like: &Tensor) -> Tensor {
    let key = RandomKey::new(5).named(name);
    let values: Vec<f32> = (0..like.elements() as u64).map(|i| 0.1 * key.normal(i)).collect();
    Tensor::from_slice(like.dims(), &values)
}

/// `edit` with the value `value` gives for each key, where it gives one.
fn with(mut edit: Edit, value: impl Fn(&str, &Tensor) -> Option<Tensor>) -> Edit {
    for param in &mut edit.params {
        if let Some(value) = value(&param.key, &param.value) {
            param.value = value;
        }
    }
    edit
}

fn apart(model: &Model, first: EditStack, second: EditStack) -> f32 {
    let mut batch = TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378], vec![1, 17, 300]]);
    batch.inputs = vec![vec![1, 403], vec![1]];
    let of = |stack: EditStack| logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch).to_vec_f32();
    let (first, second) = (of(first), of(second));
    assert_eq!(first.len(), second.len());
    let largest = first.iter().fold(0f32, |m, v| m.max(v.abs()));
    first.iter().zip(&second).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

fn stack_of(edits: impl IntoIterator<Item = Edit>) -> EditStack {
    let mut stack = EditStack::new();
    edits.into_iter().for_each(|edit| stack.push(StackEntry::new(edit)).unwrap());
    stack
}

#[test]
fn mam_is_a_prefix_and_a_parallel_adapter() {
    let model = stories();
    let base = Base::of(&model);
    let same = |key: &str, value: &Tensor| Some(drawn(key, value));
    let of = |recipe| with(edit_of(&base, recipe), same);
    let prefix = || of(json!({ "type": "prefix_tuning", "num_virtual_tokens": 3 }));
    let adapter = || of(json!({ "type": "parallel_adapter", "bottleneck": 8 }));
    let mam = || of(json!({ "type": "mam", "num_virtual_tokens": 3, "bottleneck": 8 }));
    assert!(apart(&model, stack_of([mam()]), stack_of([prefix(), adapter()])) < 1e-6);
    assert!(apart(&model, stack_of([mam()]), stack_of([prefix()])) > 1e-3, "the adapter does something");
}

/// `σ(0)` is one half.
#[test]
fn unipelt_with_half_open_gates_is_its_parts_at_half() {
    let model = stories();
    let base = Base::of(&model);
    let unipelt = edit_of(&base, json!({ "type": "unipelt", "num_virtual_tokens": 3, "r": 2, "lora_alpha": 4 }));
    let unipelt = with(unipelt, |key, value| match key {
        key if key.contains("gate") => Some(Tensor::zeros(value.dims(), DType::F32)),
        // The adapter is compared in a test of its own.
        key if key.contains("up.") => None,
        key if key.contains("prefix_key") || key.contains("prefix_value") => Some(drawn(key, value)),
        key => Some(drawn(&key.replace("unipelt.", ""), value)),
    });
    let pairs =
        edit_of(&base, json!({ "type": "lora", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"] }));
    let pairs = with(pairs, |key, value| Some(drawn(key, value)));
    let prefix = edit_of(&base, json!({ "type": "prefix_tuning", "num_virtual_tokens": 3 }));
    let (layers, width) = (base.geometry.layers, base.geometry.key_value_width());
    let mut rows = vec![0f32; 3 * 2 * layers * width];
    for layer in 0..layers {
        for (half, name) in ["prefix_key", "prefix_value"].into_iter().enumerate() {
            let key = format!("base_model.model.model.layers.{layer}.self_attn.unipelt.{name}");
            let value = drawn(&key, &Tensor::zeros([3, width], DType::F32)).to_vec_f32();
            for token in 0..3 {
                let at = token * 2 * layers * width + (2 * layer + half) * width;
                let own = &value[token * width..(token + 1) * width];
                rows[at..at + width].iter_mut().zip(own).for_each(|(to, v)| *to = 0.5 * v);
            }
        }
    }
    let prefix = with(prefix, |_, value| Some(Tensor::from_slice(value.dims(), &rows)));
    let parts = || stack_of([prefix.clone(), pairs.clone()]);
    assert!(apart(&model, stack_of([unipelt.clone()]), parts()) < 1e-6);
    assert!(apart(&model, stack_of([unipelt]), stack_of([prefix.clone()])) > 1e-3, "the pairs do something");
}

/// The adapter alone: pairs and prefix are left at zero.
#[test]
fn unipelts_adapter_is_pfeiffers_behind_its_gate() {
    let model = stories();
    let base = Base::of(&model);
    let unipelt = edit_of(&base, json!({ "type": "unipelt", "num_virtual_tokens": 3 }));
    let unipelt = with(unipelt, |key, value| match key {
        key if key.contains("gate") => Some(Tensor::zeros(value.dims(), DType::F32)),
        key if key.contains(".mlp.") => Some(drawn(&key.replace("unipelt", "pfeiffer"), value)),
        _ => None,
    });
    let pfeiffer = json!({ "type": "pfeiffer", "non_linearity": "swish", "scaling": 0.5 });
    let pfeiffer = with(edit_of(&base, pfeiffer), |key, value| Some(drawn(key, value)));
    let prefix = edit_of(&base, json!({ "type": "prefix_tuning", "num_virtual_tokens": 3 }));
    assert!(apart(&model, stack_of([unipelt.clone()]), stack_of([prefix.clone(), pfeiffer])) < 1e-6);
    assert!(apart(&model, stack_of([unipelt]), stack_of([prefix])) > 1e-3, "the adapter does something");
}

#[test]
fn parameter_counts_are_the_formulas() {
    let base = base(&SMOL, false);
    let count = |recipe| edit_of(&base, recipe).parameter_count();
    let (d, kv, layers) = (576, 192, 30);
    let adapter = |b: usize| 2 * b * d + b + d;
    let mam = json!({ "type": "mam", "num_virtual_tokens": 30, "bottleneck": 512 });
    assert_eq!(count(mam), layers * (2 * 30 * kv + adapter(512)));
    // Gates: at the prefix and the adapter of each layer, and one on what each map reads.
    let pairs = (8 * (d + 576) + d) + (8 * (d + kv) + d);
    assert_eq!(count(json!({ "type": "unipelt" })), layers * (2 * 10 * kv + d + adapter(36) + d + pairs));
}
