//! Rows in several wordings and `train.wording_consistency` on stories260k: the loss against one that is worked out from the logits,
//! what runs do with it, and what is refused.

mod common;

use std::sync::Arc;

use common::{Run, adapter_bytes, divergence, example, log_probs, prepared, stories, train};
use hone_data::{FlatBatch, StepBatch, TokenisedExample};
use hone_edit::{EditStack, load_edit};
use hone_engine::{DType, ParamId, RandomKey, Tape, Tensor};
use hone_model::{Context, Model};
use hone_train::invariants::Status;
use hone_train::step::{self, Objective, Pass};
use hone_train::wordings::wording_loss;
use hone_train::{Event, PreparedData, Recipe, Start, TrainError, Trainer, new_edit};

const WORDINGS: [&str; 3] = ["Tell me of the", "There was once a big", "Mom saw a"];

/// Rows in so many wordings each, with one answer in all of them.
fn rows(model: &Model, counts: &[usize]) -> Vec<TokenisedExample> {
    let things = ["cat", "dog", "ball", "tree", "girl", "boat"];
    let mut all = Vec::new();
    for (at, count) in counts.iter().enumerate() {
        let answer = [" It ran.", " She was very happy and sang."][at % 2];
        let answer = model.tokenizer.encode(answer, false).unwrap().ids;
        for (wording, words) in WORDINGS[..*count].iter().enumerate() {
            let mut ids = vec![1];
            ids.extend(model.tokenizer.encode(&format!("{words} {}.", things[at % 6]), false).unwrap().ids);
            let prompt = ids.len();
            ids.extend(&answer);
            ids.push(2);
            let trained = (0..ids.len()).map(|t| t >= prompt).collect();
            all.push(TokenisedExample { wording, ..example(ids, trained, at + 1) });
        }
    }
    all
}

fn recipe(train: &str) -> Recipe {
    common::recipe(&format!("dtype: f32, {train}"), "shuffle: false")
}

/// A LoRA adapter that says something.
fn moved(recipe: &Recipe, model: &Model) -> EditStack {
    let mut edit = new_edit(recipe, model).unwrap();
    for (number, param) in edit.params.iter_mut().enumerate() {
        let key = RandomKey::new(7).index(number as u64);
        let values: Vec<f32> = (0..param.value.elements() as u64).map(|at| 0.05 * key.normal(at)).collect();
        param.value = Tensor::from_slice(param.value.dims(), &values);
    }
    EditStack::training(edit)
}

fn loss(model: &Model, stack: &EditStack, batch: &FlatBatch, normaliser: f32, weight: f32) -> (f64, f64, f64, usize) {
    let cx = Context::new(Tape::recording(), stack.hooks(DType::F32), DType::F32);
    let out = wording_loss(model, &cx, batch, normaliser, weight);
    (f64::from(out.loss.value.item()), out.nll_sum, out.apart, out.tokens)
}

#[test]
fn other_wordings_are_held_to_the_first() {
    let model = stories(DType::F32);
    let (examples, recipe) = (rows(&model, &[3, 1, 2, 3]), recipe("steps: 1"));
    let stack = moved(&recipe, &model);
    let whole = StepBatch::new(&examples, &[0, 1, 2, 3, 4, 5, 6, 7, 8]).layout();
    assert_eq!(whole.first_wordings, [0, 0, 0, 3, 4, 4, 6, 6, 6]);
    // Each document alone.
    let of = |at: usize| log_probs(&model, &stack.hooks(DType::F32), &StepBatch::new(&examples, &[at]).layout(), 1.0);
    let alone: Vec<Vec<Vec<f64>>> = (0..9).map(of).collect();
    let (mut nll, mut apart, mut tokens) = (0.0, 0.0, 0);
    for (at, first) in whole.first_wordings.iter().map(|first| *first as usize).enumerate() {
        let targets = StepBatch::new(&examples, &[at]).layout().targets;
        nll -= alone[at].iter().zip(&targets).map(|(row, target)| row[*target as usize]).sum::<f64>();
        if first != at {
            apart += alone[first].iter().zip(&alone[at]).map(|(q, p)| divergence(q, p)).sum::<f64>();
            tokens += alone[at].len();
        }
    }
    let got = loss(&model, &stack, &whole, 10.0, 0.8);
    assert!(apart > 1.0 && (got.2 - apart).abs() < 1e-5 * apart, "{} and {apart}", got.2);
    assert!((got.1 - nll).abs() < 1e-5 * nll, "{} and {nll}", got.1);
    let expected = (nll + 0.8 * apart) / 10.0;
    assert!((got.0 - expected).abs() < 1e-5 * expected, "{} and {expected}", got.0);
    assert_eq!(got.3, tokens);

    // A question that is asked twice in the same words is apart from itself by nothing.
    let again = TokenisedExample { wording: 1, ..examples[0].clone() };
    let same = [examples[0].clone(), again];
    let got = loss(&model, &stack, &StepBatch::new(&same, &[0, 1]).layout(), 1.0, 0.8);
    assert!(got.2.abs() < 1e-9 && got.3 > 0, "{}", got.2);
}

/// Along the gradient of `weight · KL`, with the first wording held, the loss rises by its square. What is held is what `held` says.
#[test]
fn the_gradient_is_the_derivative_with_the_first_wording_held() {
    let model = stories(DType::F32);
    let (examples, recipe) = (rows(&model, &[3, 2]), recipe("steps: 1"));
    let stack = moved(&recipe, &model);
    let batch = StepBatch::new(&examples, &[0, 1, 2, 3, 4]).layout();
    let normaliser = batch.rows.len() as f32;
    let hooks = stack.hooks(DType::F32);
    let pass = |objective| Pass { hooks: &hooks, dtype: DType::F32, recompute: false, key: None, objective };
    let of = |objective| step::gradients(&model, &pass(objective), std::slice::from_ref(&batch), normaliser).1;
    let (both, data) = (of(Objective::Wordings(3.0)), of(Objective::NextToken));
    let values = |gradients: &hone_engine::Gradients, number: usize| {
        gradients.param(ParamId(number as u32)).unwrap().to_vec_f32()
    };
    let edit = &stack.entries[0].edit;
    // The gradient of the divergence alone.
    let apart: Vec<Vec<f32>> = (0..edit.params.len())
        .map(|number| values(&both, number).iter().zip(values(&data, number)).map(|(b, d)| b - d).collect())
        .collect();
    let square: f64 = apart.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum();
    let held = |at: usize| log_probs(&model, &hooks, &StepBatch::new(&examples, &[at]).layout(), 1.0);
    let firsts: Vec<Vec<Vec<f64>>> = [0, 0, 0, 3, 3].into_iter().map(held).collect();
    let moved = |by: f64| {
        let mut edit = edit.clone();
        for (param, gradient) in edit.params.iter_mut().zip(&apart) {
            let values = param.value.to_vec_f32();
            let values: Vec<f32> = values.iter().zip(gradient).map(|(v, g)| v + by as f32 * g).collect();
            param.value = Tensor::from_slice(param.value.dims(), &values);
        }
        let hooks = EditStack::training(edit).hooks(DType::F32);
        let own = |at: usize| log_probs(&model, &hooks, &StepBatch::new(&examples, &[at]).layout(), 1.0);
        let sum: f64 = [1, 2, 4]
            .into_iter()
            .flat_map(|at| firsts[at].iter().zip(own(at)).map(|(q, p)| divergence(q, &p)).collect::<Vec<_>>())
            .sum();
        3.0 * sum / f64::from(normaliser)
    };
    let by = 0.004 / square.sqrt();
    let slope = (moved(by) - moved(-by)) / (2.0 * by);
    assert!(square > 1e-6 && (slope / square - 1.0).abs() < 5e-3, "{slope} and {square}");
}

fn stepped(run: &Run) -> Vec<(f64, f64)> {
    let told = |event: &Event| match event {
        Event::Step(metrics) => Some((metrics.loss, metrics.wordings_apart.unwrap_or(-1.0))),
        _ => None,
    };
    run.events.iter().filter_map(told).collect()
}

#[test]
fn a_step_reads_rows_in_all_their_wordings_and_brings_them_together() {
    let model = stories(DType::F32);
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str, train_keys: &str| {
        let recipe = recipe(&format!("steps: 8, learning_rate: 3e-3, validation_every: 0, {train_keys}"));
        let data: Arc<PreparedData> = prepared(rows(&model, &[3; 6]), Vec::new(), &recipe);
        assert_eq!(data.plan.rows_per_epoch(), 6);
        let run = train(&model, &data, &recipe, &directory.path().join(name), Start::Fresh);
        run.outcome.as_ref().unwrap();
        // A step is cut between rows, never between the wordings of one: that holds before the run begins.
        let held = |event: &Event| matches!(event, Event::Checked(check) if check.name == "accumulation" && check.status == Status::Held);
        assert!(run.events.iter().any(held), "{name}");
        run
    };
    let apart = |name: &str| {
        let edit = load_edit(&directory.path().join(name).join("adapter"), &model).unwrap();
        let all = StepBatch::new(&rows(&model, &[3; 6]), &(0..18).collect::<Vec<_>>()).layout();
        loss(&model, &edit, &all, 1.0, 1.0)
    };
    let held = run("held", "batch_size: 6, wording_consistency: 2");
    let free = run("free", "batch_size: 6");
    assert!(stepped(&held).iter().all(|(_, apart)| *apart >= 0.0) && stepped(&free)[0].1 == -1.0);
    let (held_end, free_end) = (apart("held"), apart("free"));
    assert!(held_end.2 < 0.7 * free_end.2, "{} apart, {} without", held_end.2, free_end.2);

    // The same in micro-batches; the same after a stop (a step's rows are a function of its number).
    let split = run("split", "batch_size: 2, gradient_accumulation: 3, wording_consistency: 2");
    for ((a, b), (c, d)) in stepped(&held).iter().zip(stepped(&split)) {
        assert!((a - c).abs() < 1e-3 * a && (b - d).abs() < 1e-3 * b.max(0.1), "{a} {b} and {c} {d}");
    }
    assert_ne!(adapter_bytes(&directory.path().join("held")), adapter_bytes(&directory.path().join("free")));
}

#[test]
fn what_cannot_be_held_together_says_why() {
    let model = stories(DType::F32);
    let directory = tempfile::tempdir().unwrap();
    let refused = |examples: Vec<TokenisedExample>, recipe: &Recipe| {
        let data = prepared(examples, Vec::new(), recipe);
        let stack = EditStack::training(new_edit(recipe, &model).unwrap());
        let error = Trainer::new(model.clone(), stack, data, recipe, &directory.path().join("run"), Start::Fresh);
        error.err().map(|error: TrainError| error.to_string()).expect("it is refused")
    };
    let held = recipe("steps: 1, wording_consistency: 0.8");
    let none = refused(rows(&model, &[1, 1]), &held);
    assert!(none.contains("found no row in several wordings") && none.contains("`wordings`"), "{none}");
    let mut cut = rows(&model, &[1, 3]);
    cut[2].ids.pop();
    cut[2].trained.pop();
    let other = refused(cut, &held);
    assert!(other.contains("test: row 2") && other.contains("in the wording 1, expected the same answer"), "{other}");
    let headless = refused(rows(&model, &[1, 3]).split_off(2), &held);
    assert!(headless.contains("test: row 2: found its first wording dropped"), "{headless}");
    let text = "{model: m, data: {path: none}, method: {type: lora}, train: {wording_consistency: 0}}";
    let zero = hone_train::recipe::parse(text, "test", &[]).unwrap_err().to_string();
    assert!(zero.contains("wording_consistency") && zero.contains("a number above 0"), "{zero}");
    let text = "{model: stories260k, data: {path: none}, method: {type: adamix, r: 2}, train: {steps: 1, wording_consistency: 1, dtype: f32}}";
    let twice = hone_train::recipe::parse(text, "test", &[]).unwrap();
    let twice = refused(rows(&model, &[2, 2]), &twice);
    assert!(twice.contains("`adamix` compares two passes") && twice.contains("train.wording_consistency"), "{twice}");
}
