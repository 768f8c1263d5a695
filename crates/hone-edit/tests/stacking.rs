//! Methods that are not low rank wrap a map; they stack with those that are, in order, forward and backward. The method of
//! this test is IA3's scaling (arXiv 2205.05638), written as a method's file would be.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hone_edit::merge::{Merger, logits};
use hone_edit::method::{
    At, Init, Merge, Mergeable, Method, MethodInfo, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use hone_edit::{Base, Edit, EditError, EditStack, Probe, StackEntry, registry};
use hone_engine::ops::{self, Segment};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor, Var, WeightRef};
use hone_model::decoder::EMBED_TOKENS;
use hone_model::{Context, LayerPart, Linear, LoadOptions, Model, NoHooks, Site, TokenBatch};
use serde_json::{Map, Value, json};

struct Scaling;

static SCALING: MethodInfo = MethodInfo {
    name: "scaling",
    peft_type: "HONE_SCALING",
    family: "scaling",
    summary: "a trained factor on each output of a map",
    paper: "arXiv 2205.05638",
    formula: "y ⊙ (1 + l)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse: |_, _, _| Ok(Arc::new(Scaling)),
    schema: |generator| generator.subschema_for::<()>(),
};

impl Method for Scaling {
    fn info(&self) -> &'static MethodInfo {
        &SCALING
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut plan = Plan { config: Map::new(), params: Vec::new(), placed: Vec::new() };
        for weight in base.linears().filter(|w| w.module().ends_with("q_proj") || w.module().ends_with("down_proj")) {
            plan.placed.push(Placed {
                place: Place::Linear(weight.module().into()),
                part: Arc::new(Factor),
                params: vec![plan.params.len()],
            });
            let key = format!("base_model.model.{}.scaling", weight.module());
            let (shape, init) = (vec![weight.shape[0]], Init::Uniform { bound: 1.0 });
            plan.params.push(ParamPlan::new(key, &shape, init));
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// `y · (1 + l)`.
struct Factor;

impl Part for Factor {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let y = next(x);
        let scaled = ops::multiply(&at.cx.tape, &y, &at.values[0]);
        ops::add_scaled(&at.cx.tape, &y, &scaled, at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mut out = merge.weight.clone();
        let columns = out.dim(1);
        for (row, l) in out.as_mut_slice::<f32>().chunks_mut(columns).zip(merge.values[0].as_slice::<f32>()) {
            row.iter_mut().for_each(|w| *w *= 1.0 + merge.strength * l);
        }
        Ok(out)
    }
}

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378], vec![1, 410, 17, 480]])
}

fn shaken(mut edit: Edit, seed: u64) -> StackEntry {
    for param in &mut edit.params {
        let key = RandomKey::new(seed).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += 0.1 * key.normal(i as u64));
    }
    StackEntry { trained: true, ..StackEntry::new(edit) }
}

fn edit(model: &Model, word: &str, seed: u64) -> StackEntry {
    let base = Base::of(model);
    let method: Arc<dyn Method> = match word {
        "scaling" => Arc::new(Scaling),
        "full" => recipe(json!({ "type": "full", "target_modules": ["q_proj", "norm", "embed_tokens"] })),
        "saved" => {
            recipe(json!({ "type": "lora", "r": 2, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"] }))
        }
        _ => recipe(json!({ "type": "lora", "r": 2, "target_modules": ["q_proj", "k_proj", "down_proj"] })),
    };
    shaken(Edit::new(method, &base, seed).unwrap(), seed)
}

fn recipe(fields: Value) -> Arc<dyn Method> {
    registry::from_recipe(fields.as_object().unwrap(), &mut Vec::new()).unwrap()
}

fn stack(model: &Model, words: &[&str]) -> EditStack {
    let mut stack = EditStack::new();
    for (i, word) in words.iter().enumerate() {
        stack.push(edit(model, word, i as u64 + 1)).unwrap();
    }
    stack
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let largest = a.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
    pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

const STACKS: [&[&str]; 6] = [
    &["lora", "scaling"],
    &["scaling", "lora"],
    &["lora", "scaling", "lora"],
    &["scaling", "full", "lora"],
    &["full", "lora"],
    &["saved", "scaling", "lora"],
];

#[test]
fn a_stack_is_what_its_edits_are_one_after_another() {
    let model = stories();
    let base = Base::of(&model);
    let mut seen: Vec<Tensor> = Vec::new();
    for words in STACKS {
        let stack = stack(&model, words);
        let ours = logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch());
        let merger = Merger::new(&stack, &base).unwrap();
        let merged = Arc::new(merger.decoder(&model.decoder, DType::F32).unwrap());
        let theirs = logits(&(&merged, Arc::new(NoHooks)), DType::F32, &batch());
        assert!(distance(&ours, &theirs) < 1e-5, "{words:?}: {}", distance(&ours, &theirs));
        assert!(seen.iter().all(|other| distance(&ours, other) > 1e-3), "{words:?}: order makes a difference");
        seen.push(ours);
    }
}

/// `Σ −ln p` of the next tokens, and the gradients of it.
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

#[test]
fn every_parameter_of_a_stack_has_the_gradient_of_finite_differences() {
    let model = stories();
    for words in STACKS {
        let stack = stack(&model, words);
        let (_, gradients) = loss(&model, &stack);
        let ids: Vec<_> = stack.trained_params().map(|(id, p)| (id, p.key.clone(), p.value.dims().to_vec())).collect();
        // A direction a parameter: the derivative along it is the gradient's product with it.
        for (number, (id, key, shape)) in ids.iter().enumerate().step_by(3) {
            let random = RandomKey::new(9).index(number as u64);
            let n: usize = shape.iter().product();
            let direction: Vec<f32> = (0..n as u64).map(|i| random.normal(i)).collect();
            let along = |by: f32| {
                let mut moved = stack.clone();
                let (_, param) = moved.trained_params_mut().find(|(i, _)| i == id).unwrap();
                param.value.as_mut_slice::<f32>().iter_mut().zip(&direction).for_each(|(v, d)| *v += by * d);
                loss(&model, &moved).0
            };
            let step = 2e-3 / (n as f32).sqrt();
            let measured = (along(step) - along(-step)) / (2.0 * f64::from(step));
            let gradient = gradients.param(*id).unwrap_or_else(|| panic!("{words:?}: {key} has no gradient"));
            let pairs = gradient.as_slice::<f32>().iter().zip(&direction);
            let ours: f64 = pairs.map(|(g, d)| f64::from(g * d)).sum();
            let size = gradient.as_slice::<f32>().iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!((measured - ours).abs() <= 0.02 * size + 1e-2, "{words:?}: {key}: {measured} {ours} ({size})");
        }
    }
}

#[derive(Default)]
struct Recorder {
    activations: Mutex<Vec<(String, usize)>>,
    linears: Mutex<Vec<(String, Tensor, Tensor)>>,
}

impl Probe for Recorder {
    fn activation(&self, _cx: &Context, site: Site, h: &Var) {
        self.activations.lock().unwrap().push((site.to_string(), h.value.dim(1)));
    }

    fn linear(&self, _cx: &Context, linear: &Linear, x: &Var, y: &Var) {
        self.linears.lock().unwrap().push((linear.name.clone(), x.value.clone(), y.value.clone()));
    }
}

#[test]
fn probes_see_what_the_edits_left_and_change_nothing() {
    let model = stories();
    let mut stack = stack(&model, &["lora", "scaling"]);
    let plain = logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch());
    let recorder = Arc::new(Recorder::default());
    stack.probes.push(recorder.clone());
    let probed = logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch());
    assert_eq!(plain.as_bytes(), probed.as_bytes());
    let activations = recorder.activations.lock().unwrap();
    assert_eq!(activations.first(), Some(&("embed.out".to_string(), 64)));
    assert_eq!(activations.last(), Some(&("final_norm".to_string(), 64)));
    for (part, _) in LayerPart::ALL {
        let site = Site::Layer { layer: 3, part }.to_string();
        assert_eq!(activations.iter().filter(|a| a.0 == site).count(), 1, "{site}");
    }
    // An edited map's output, by hand from its input.
    let linears = recorder.linears.lock().unwrap();
    assert_eq!(linears.len(), 35);
    let (name, x, y) = linears.iter().find(|l| l.0 == "model.layers.0.self_attn.q_proj").unwrap();
    let base = Base::of(&model);
    let weight = Merger::new(&stack, &base).unwrap().merged(&format!("{name}.weight")).unwrap().unwrap();
    let by_hand = hone_engine::matmul::matmul_nt(x, &weight, DType::F32);
    assert!(distance(&by_hand, y) < 1e-5);
}

#[test]
fn a_weight_trained_whole_is_not_copied_to_be_computed_with() {
    let model = stories();
    let method = recipe(json!({ "type": "full" }));
    let mut stack = EditStack::training(Edit::new(method, &Base::of(&model), 1).unwrap());
    let hooks = stack.hooks(DType::BF16);
    let cx = Context { tape: Tape::recording(), ..Context::inference(hooks.clone(), DType::BF16) };
    let WeightRef::Trained(table) = hooks.weight(&cx, EMBED_TOKENS, &model.decoder.embed_tokens) else {
        panic!("the table is trained");
    };
    let master = |stack: &EditStack| {
        stack.params().find(|(_, p)| p.key.ends_with(EMBED_TOKENS)).map(|(_, p)| p.value.as_bytes().as_ptr())
    };
    assert_eq!(Some(table.value.as_bytes().as_ptr()), master(&stack));

    // Frozen, it is packed once in the compute type.
    stack.entries[0].trained = false;
    let hooks = stack.hooks(DType::BF16);
    let cx = Context::inference(hooks.clone(), DType::BF16);
    let WeightRef::Frozen(table) = hooks.weight(&cx, EMBED_TOKENS, &model.decoder.embed_tokens) else {
        panic!("the table is frozen");
    };
    assert_eq!(table.dtype(), Some(DType::BF16));
}
