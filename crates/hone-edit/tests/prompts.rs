//! Prompts stand before every sequence, whatever is done with it: a batch, a shared beginning, a cache, a recomputed pass. Their
//! number of parameters is what their formulas say, and they start where their files tell them.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{SMOL, base};
use hone_edit::merge::logits;
use hone_edit::method::Role;
use hone_edit::{Base, Edit, EditStack, StackEntry, registry, save_edit};
use hone_engine::ops::{self, Segment};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor};
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{Context, LoadOptions, Model, TokenBatch};
use serde_json::{Value, json};

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn edit_of(base: &Base, recipe: Value, seed: u64) -> Edit {
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new());
    let method = method.unwrap_or_else(|error| panic!("{recipe}: {error}"));
    Edit::new(method, base, seed).unwrap_or_else(|error| panic!("{recipe}: {error}"))
}

/// Every trained number moved away from where it started.
fn moved(mut edit: Edit) -> Edit {
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += 0.1 * key.normal(i as u64));
    }
    edit
}

fn finished(edit: &Edit, base: &Base) -> Edit {
    edit.method.clone().finished(edit.clone(), base).unwrap()
}

fn stack_of(edits: impl IntoIterator<Item = Edit>) -> EditStack {
    let mut stack = EditStack::new();
    edits.into_iter().for_each(|edit| stack.push(StackEntry::new(edit)).unwrap());
    stack
}

fn mixture(model: &Model, directory: &Path) -> Edit {
    let base = Base::of(model);
    let sources: Vec<String> = (0..2)
        .map(|seed| {
            let source = directory.join(seed.to_string());
            save_edit(&edit_of(&base, json!({ "type": "prompt_tuning", "num_virtual_tokens": 3 }), seed), &source)
                .unwrap();
            source.display().to_string()
        })
        .collect();
    let recipe = json!({
        "type": "attempt", "num_virtual_tokens": 3, "sources": sources, "bottleneck": 4, "temperature": 1,
    });
    moved(edit_of(&base, recipe, 9))
}

/// Stacks with virtual tokens: one shared prompt, a prompt and a prefix and an update, a mixture with a prompt below it.
fn stacks(model: &Model, directory: &Path) -> Vec<EditStack> {
    let base = Base::of(model);
    let of = |recipe| moved(edit_of(&base, recipe, 4));
    let prompt = || of(json!({ "type": "prompt_tuning", "num_virtual_tokens": 2 }));
    let prefix = || of(json!({ "type": "prefix_tuning", "num_virtual_tokens": 3 }));
    let ept = || of(json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2, "max_length": 8 }));
    vec![
        stack_of([prompt()]),
        stack_of([prefix()]),
        stack_of([prompt(), prefix(), ept()]),
        stack_of([prefix(), mixture(model, directory), prompt()]),
    ]
}

const INPUT: [u32; 4] = [1, 403, 407, 261];
const ANSWERS: [&[u32]; 2] = [&[378, 300, 17], &[17, 480]];

fn rows_of(all: &Tensor, rows: std::ops::Range<usize>) -> Vec<f32> {
    let width = all.rows_cols().1;
    all.as_slice::<f32>()[rows.start * width..rows.end * width].to_vec()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

/// Scoring puts a common beginning into the batch once; training has whole sequences, several a batch.
#[test]
fn a_shared_beginning_and_a_batch_give_what_a_sequence_alone_gives() {
    let (model, directory) = (stories(), tempfile::tempdir().unwrap());
    for stack in stacks(&model, directory.path()) {
        let hooks = stack.hooks(DType::F32);
        let run = |batch: &TokenBatch| logits(&(&model.decoder, hooks.clone()), DType::F32, batch);
        let mut shared = TokenBatch::default();
        let parent = shared.push(&INPUT, None);
        for answer in ANSWERS {
            shared.push(answer, Some(parent));
        }
        let shared = run(&shared);
        let whole: Vec<Vec<u32>> = ANSWERS.iter().map(|answer| [&INPUT, *answer].concat()).collect();
        let mut together = TokenBatch::from_sequences(&whole);
        together.inputs = vec![INPUT.to_vec(); 2];
        let together = run(&together);
        let (mut answer_at, mut whole_at) = (INPUT.len(), 0);
        for (sequence, answer) in whole.iter().zip(ANSWERS) {
            let mut alone = TokenBatch::from_sequences(std::slice::from_ref(sequence));
            alone.inputs = vec![INPUT.to_vec()];
            let alone = run(&alone);
            let in_batch = rows_of(&together, whole_at..whole_at + sequence.len());
            assert_eq!(in_batch, alone.to_vec_f32(), "a row depends on its own sequence alone");
            let scored = rows_of(&shared, answer_at..answer_at + answer.len());
            assert_eq!(scored, rows_of(&alone, INPUT.len()..sequence.len()));
            answer_at += answer.len();
            whole_at += sequence.len();
        }
    }
}

/// A mixture reads the input and not the answer: another answer leaves the logits of the input as they are, another input does
/// not leave the logits of the same last token.
#[test]
fn a_mixture_sees_nothing_of_the_answer() {
    let (model, directory) = (stories(), tempfile::tempdir().unwrap());
    let stack = stack_of([mixture(&model, directory.path())]);
    let run = |sequence: &[u32], input: &[u32]| {
        let mut batch = TokenBatch::from_sequences(&[sequence]);
        batch.inputs = vec![input.to_vec()];
        logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &batch)
    };
    let first = run(&[&INPUT[..], ANSWERS[0]].concat(), &INPUT);
    let second = run(&[&INPUT[..], ANSWERS[1]].concat(), &INPUT);
    assert_eq!(rows_of(&first, 0..INPUT.len()), rows_of(&second, 0..INPUT.len()));
    let leaking = run(&[&INPUT[..], ANSWERS[1]].concat(), &[&INPUT[..], ANSWERS[1]].concat());
    assert!(apart(&rows_of(&first, 0..INPUT.len()), &rows_of(&leaking, 0..INPUT.len())) > 1e-5);
}

/// Prompts of many tokens are read in pieces and their common beginning once; a mixture reads them whole before.
#[test]
fn long_prompts_continue_with_a_cache_as_without_one() {
    let (model, directory) = (stories(), tempfile::tempdir().unwrap());
    let long = |last: u32| -> Vec<u32> {
        std::iter::once(1).chain((0..300).map(|i| 300 + (i * 7) % 180)).chain([last]).collect()
    };
    let prompts = vec![long(17), long(261)];
    for stack in stacks(&model, directory.path()) {
        let hooks = stack.hooks(DType::F32);
        let config = GenerationConfig { max_new_tokens: 3, ..GenerationConfig::default() };
        let written = generate(&model, hooks.clone(), DType::F32, &prompts, &config, &mut |_, _| true).unwrap();
        for (prompt, written) in prompts.iter().zip(written) {
            let mut ids = prompt.clone();
            for token in written.ids {
                let mut batch = TokenBatch::from_sequences(&[ids.clone()]);
                batch.inputs = vec![prompt.clone()];
                let all = logits(&(&model.decoder, hooks.clone()), DType::F32, &batch);
                let last = rows_of(&all, ids.len() - 1..ids.len());
                let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
                assert_eq!(token, best as u32);
                ids.push(token);
            }
        }
    }
}

fn loss(model: &Model, stack: &EditStack, recompute: bool) -> (f64, Gradients) {
    let mut batch = TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]]);
    batch.inputs = vec![vec![1, 403, 407], vec![1, 410]];
    let cx = Context { recompute, ..Context::new(Tape::recording(), stack.hooks(DType::F32), DType::F32) };
    let hidden = model.decoder.hidden(&cx, &batch);
    let rows = |s: &Segment| (s.start as u32 + 2..(s.start + s.len - 1) as u32).collect::<Vec<_>>();
    let rows: Vec<u32> = batch.segments.iter().flat_map(rows).collect();
    let targets: Vec<u32> = rows.iter().map(|r| batch.ids[*r as usize + 1]).collect();
    let weights = vec![1.0; rows.len()];
    let out = ops::lm_head_loss(&cx.tape, &hidden, &model.decoder.head(&cx), &rows, &targets, &weights, 1.0, None);
    let mut gradients = Gradients::new();
    cx.tape.backward(&out.loss, Tensor::full(out.loss.value.dims(), DType::F32, 1.0), &mut gradients);
    (out.nll_sum, gradients)
}

#[test]
fn recomputed_blocks_have_the_same_gradients() {
    let (model, directory) = (stories(), tempfile::tempdir().unwrap());
    let adaption = edit_of(&Base::of(&model), json!({ "type": "adaption_prompt", "adapter_len": 2 }), 1);
    let projected = json!({
        "type": "prefix_tuning", "num_virtual_tokens": 2, "prefix_projection": true, "encoder_hidden_size": 4,
    });
    let more = [moved(adaption), moved(edit_of(&Base::of(&model), projected, 1))].map(|edit| stack_of([edit]));
    for mut stack in stacks(&model, directory.path()).into_iter().chain(more) {
        stack.entries.iter_mut().for_each(|entry| entry.trained = true);
        let ((kept_loss, kept), (again_loss, again)) = (loss(&model, &stack, false), loss(&model, &stack, true));
        assert!((kept_loss - again_loss).abs() < 1e-5 * kept_loss);
        for (id, param) in stack.trained_params() {
            let (Some(a), Some(b)) = (kept.param(id), again.param(id)) else { panic!("{} has no gradient", param.key) };
            assert!(apart(a.as_slice(), b.as_slice()) < 1e-4, "{}", param.key);
        }
    }
}

#[test]
fn real_tokens_start_behind_the_prompt() {
    let model = stories();
    let base = Base::of(&model);
    // A prompt made of the embeddings of a text is that text: the same positions, the same logits.
    let text = edit_of(
        &base,
        json!({ "type": "prompt_tuning", "num_virtual_tokens": 4, "prompt_tuning_init_text": "Once upon a time" }),
        0,
    );
    let ids = model.tokenizer.encode("Once upon a time", true).unwrap().ids;
    let ids: Vec<u32> = ids.into_iter().cycle().take(4).collect();
    let rest = [410u32, 17, 480];
    let run = |stack: &EditStack, ids: &[u32]| {
        logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, &TokenBatch::from_sequences(&[ids]))
    };
    let spelled = run(&EditStack::new(), &[&ids[..], &rest].concat());
    let prompted = run(&stack_of([text]), &rest);
    assert!(apart(&rows_of(&spelled, 4..7), &prompted.to_vec_f32()) < 1e-5);
}

#[test]
fn a_prompt_too_long_for_the_model_is_an_error_and_a_text_ends_where_there_is_no_more_room() {
    let model = stories();
    let prompt = edit_of(&Base::of(&model), json!({ "type": "prompt_tuning", "num_virtual_tokens": 500 }), 0);
    let stack = stack_of([prompt]);
    let config = GenerationConfig { max_new_tokens: 50, ..GenerationConfig::default() };
    let run = |length: usize| {
        let prompts = vec![(0..length as u32).map(|i| 300 + i).collect::<Vec<u32>>()];
        generate(&model, stack.hooks(DType::F32), DType::F32, &prompts, &config, &mut |_, _| true)
    };
    let message = run(13).unwrap_err().to_string();
    assert!(
        message.contains("13 tokens") && message.contains("1 to 12") && message.contains("500 virtual"),
        "{message}"
    );
    let written = run(8).unwrap();
    assert!(written[0].ids.len() <= 4);
}

#[test]
fn a_prompt_starts_from_the_trained_one_that_is_nearest() {
    let (model, directory) = (stories(), tempfile::tempdir().unwrap());
    let base = Base::of(&model);
    let prompt = |seed| edit_of(&base, json!({ "type": "prompt_tuning", "num_virtual_tokens": 2 }), seed);
    let place = |name: &str| directory.path().join(name);
    for seed in 0..3 {
        save_edit(&prompt(seed), &place(&seed.to_string())).unwrap();
    }
    let mut near = prompt(1);
    near.params[0]
        .value
        .as_mut_slice::<f32>()
        .iter_mut()
        .enumerate()
        .for_each(|(i, v)| *v = 3.0 * *v + 0.001 * i as f32);
    save_edit(&near, &place("target")).unwrap();
    let sources: Vec<String> = (0..3).map(|seed: u64| place(&seed.to_string()).display().to_string()).collect();
    let recipe = json!({
        "type": "prompt_tuning", "num_virtual_tokens": 2, "init_from": sources,
        "init_nearest_to": place("target").display().to_string(),
    });
    let started = edit_of(&base, recipe, 8);
    assert_eq!(started.params[0].value.to_vec_f32(), prompt(1).params[0].value.to_vec_f32());
    assert!(!started.config.contains_key("init_from"), "Hugging Face's file has no such field");
    // One of another length is refused by its place.
    let recipe = json!({ "type": "prompt_tuning", "num_virtual_tokens": 3, "init_from": sources[0] });
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
    let message = Edit::new(method, &base, 0).err().unwrap().to_string();
    assert!(message.contains("prompt_embeddings") && message.contains("[2, 64]"), "{message}");
}

/// The formulas at the top of the methods' files, for SmolLM2-135M: 30 layers, 576 wide, keys 192 wide.
#[test]
fn parameters_are_counted_as_the_formulas_say() {
    let base = base(&SMOL, false);
    let count = |recipe: Value| edit_of(&base, recipe, 0).parameter_count();
    assert_eq!(count(json!({ "type": "prompt_tuning" })), 20 * 576);
    assert_eq!(count(json!({ "type": "prefix_tuning" })), 20 * 30 * 2 * 192);
    let projected = 20 * 192 + 512 * 193 + 30 * 2 * 192 * 513;
    assert_eq!(
        count(json!({ "type": "prefix_tuning", "prefix_projection": true, "encoder_hidden_size": 512 })),
        projected
    );
    assert_eq!(
        count(json!({ "type": "p_tuning", "encoder_hidden_size": 128 })),
        20 * 576 + 128 * 577 + 128 * 129 + 576 * 129
    );
    let multitask = 20 * 576 + 3 * 2 * (20 + 576);
    assert_eq!(count(json!({ "type": "multitask_prompt_tuning", "num_tasks": 3, "num_ranks": 2 })), multitask);
    assert_eq!(count(json!({ "type": "adaption_prompt" })), 28 * (10 * 576 + 1));
    // (100 - 40) * 576 / (256 + 576) = 41.5
    let decomposed = 40 * 576 + 41 * (256 + 576);
    assert_eq!(count(json!({ "type": "dept" })), decomposed);
    let own = 4 * 576 * 8 + 3 * 2 * 576 * 8 + 16 * 576 + 4 * 16;
    assert_eq!(count(json!({ "type": "ept" })), decomposed + own);
    let finished = finished(&edit_of(&base, json!({ "type": "ept" }), 0), &base);
    assert_eq!(finished.parameter_count(), (40 + 256) * 576);
}

#[test]
fn ept_starts_as_prompt_tuning_and_without_its_own_parts_is_dept() {
    let model = stories();
    let base = Base::of(&model);
    let batch = TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17]]);
    let run =
        |edit: Edit| logits(&(&model.decoder, stack_of([edit]).hooks(DType::F32)), DType::F32, &batch).to_vec_f32();
    let of = |recipe| edit_of(&base, recipe, 2);
    let prompt = run(of(json!({ "type": "prompt_tuning", "num_virtual_tokens": 3 })));
    let ept = json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2 });
    assert_eq!(run(of(ept)), prompt);
    let bare = json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2, "fusion_rank": 0, "spaces": 1 });
    let dept = moved(of(json!({ "type": "dept", "num_virtual_tokens": 3, "r": 2 })));
    assert_eq!(run(moved(of(bare))), run(dept));
}

#[test]
fn finished_prompts_are_the_trained_ones() {
    let model = stories();
    let base = Base::of(&model);
    let batch = TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17]]);
    for recipe in [
        json!({ "type": "ept", "num_virtual_tokens": 3, "r": 2 }),
        json!({ "type": "p_tuning", "num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM" }),
        json!({ "type": "prefix_tuning", "num_virtual_tokens": 3, "prefix_projection": true }),
    ] {
        let edit = moved(edit_of(&base, recipe.clone(), 2));
        for dtype in [DType::F32, DType::BF16] {
            let run = |edit: Edit| {
                let hooks: Arc<dyn hone_model::Hooks> = stack_of([edit]).hooks(dtype);
                logits(&(&model.decoder, hooks), dtype, &batch).to_vec_f32()
            };
            let (live, kept) = (run(edit.clone()), run(finished(&edit, &base)));
            let allowed = if dtype == DType::F32 { 1e-6 } else { 2e-2 };
            assert!(apart(&live, &kept) <= allowed, "{recipe}: {}", apart(&live, &kept));
        }
    }
}

#[test]
fn bad_fields_are_refused_by_name() {
    let base = base(&SMOL, false);
    for (recipe, named) in [
        (json!({ "type": "prompt_tuning", "num_virtual_tokens": 0 }), "num_virtual_tokens"),
        (json!({ "type": "prompt_tuning", "token_dim": 64 }), "token_dim"),
        (json!({ "type": "prompt_tuning", "prompt_tuning_init": "TEXT" }), "prompt_tuning_init_text"),
        (json!({ "type": "prompt_tuning", "init_from": ["a", "b"] }), "init_nearest_to"),
        (json!({ "type": "prompt_tuning", "num_transformer_submodules": 2 }), "num_transformer_submodules"),
        (json!({ "type": "prompt_tuning", "tokenizer_kwargs": { "a": 1 } }), "tokenizer_kwargs"),
        (json!({ "type": "prefix_tuning", "init_weights": "ones" }), "init_weights"),
        (json!({ "type": "prefix_tuning", "token_dim": 576 }), "token_dim"),
        (json!({ "type": "adaption_prompt", "adapter_layers": 31 }), "adapter_layers"),
        (json!({ "type": "dept", "equivalent_tokens": 40 }), "equivalent_tokens"),
        (json!({ "type": "ept", "spaces": 0 }), "spaces"),
        (json!({ "type": "attempt" }), "sources"),
        (json!({ "type": "attempt", "sources": ["/nowhere"] }), "/nowhere"),
        (json!({ "type": "multitask_prompt_tuning", "prompt_tuning_init": "ONLY_SOURCE_SHARED" }), "state_dict_path"),
    ] {
        let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new());
        let error = method.and_then(|method| Edit::new(method, &base, 0)).err();
        let message = error.unwrap_or_else(|| panic!("{recipe} is not refused")).to_string();
        assert!(message.contains(named), "{recipe}: {message}");
    }
}
