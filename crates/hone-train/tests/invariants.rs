//! Every run-time invariant, broken on purpose and caught.

mod common;

use std::sync::Arc;

use common::{example, prepared, recipe, sentences, stories, train, train_with};
use hone_data::{FlatBatch, TokenisedExample};
use hone_edit::merge::LogitDifference;
use hone_edit::{Base, EditStack, save_edit};
use hone_engine::{DType, Gradients, RandomKey, Tape, Tensor};
use hone_model::{Context, Model};
use hone_train::invariants::numeric::{self, StepResult};
use hone_train::invariants::{Check, Status, data, edit};
use hone_train::objective::next_token_loss;
use hone_train::optimizer::{Memory, Optimizer};
use hone_train::{Start, TrainError, new_edit};

fn failed(check: &Check, says: &str) {
    assert_eq!(check.status, Status::Failed, "{check:?}");
    assert!(check.found.contains(says), "{check:?}");
    assert!(!check.next.is_empty(), "{check:?}");
}

fn masked(trained: &[bool]) -> TokenisedExample {
    example((0..trained.len() as u32).collect(), trained.to_vec(), 1)
}

#[test]
fn a_mask_that_trains_everything_or_nothing_is_caught() {
    let good = masked(&[false, false, true, true]);
    assert_eq!(data::trained_share(&[good.clone(), good.clone()], None).status, Status::Held);
    let nothing = masked(&[false; 4]);
    failed(&data::trained_share(&[good.clone(), nothing.clone()], None), "1 with nothing trained");
    failed(&data::trained_share(&[nothing], Some("train_on: all")), "1 with nothing trained");
    let everything = masked(&[false, true, true, true]);
    failed(&data::trained_share(&[everything.clone(), everything.clone(), good.clone()], None), "2 with everything");
    // Here and there it is the data's affair; asked for, it is right, and said aloud.
    let some = data::trained_share(&[everything.clone(), good.clone(), good.clone()], None);
    assert_eq!(some.status, Status::Warned);
    let asked = data::trained_share(&[everything], Some("the recipe says `train_on: all`"));
    assert!(asked.status == Status::Held && asked.found.contains("the recipe says"), "{asked:?}");
    assert_eq!(data::trained_share(&[], None).status, Status::Failed);
}

#[test]
fn a_tokenizer_that_loses_text_is_caught() {
    let texts = ["user: hällo</s>".to_string(), "user: b</s>bot: c</s>".to_string()];
    let encode = |text: &str| -> Result<Vec<u32>, String> { Ok(text.chars().map(u32::from).collect()) };
    let decode =
        |ids: &[u32]| -> Result<String, String> { Ok(ids.iter().filter_map(|i| char::from_u32(*i)).collect()) };
    assert_eq!(data::chat_text(&texts, &encode, &decode).status, Status::Held);
    let loses = |ids: &[u32]| decode(&ids.iter().copied().filter(|i| *i != u32::from('ä')).collect::<Vec<_>>());
    failed(&data::chat_text(&texts, &encode, &loses), "conversation 1: after 7 bytes the template wrote \"ällo</s>\"");
    let fails = |_: &[u32]| Err("no such id".to_string());
    failed(&data::chat_text(&texts, &encode, &fails), "no such id");
    assert_eq!(data::chat_text(&[], &encode, &decode).status, Status::Skipped);
}

#[test]
fn an_untrained_end_of_turn_is_caught() {
    let ending = example(vec![1, 5, 6, 2], vec![false, false, true, true], 1);
    let endless = example(vec![1, 5, 6, 2], vec![false, false, true, false], 1);
    assert_eq!(data::end_of_turn_trained(std::slice::from_ref(&ending), &[2, 9], None).status, Status::Held);
    failed(&data::end_of_turn_trained(std::slice::from_ref(&endless), &[2, 9], None), "0 of 1");
    assert_eq!(data::end_of_turn_trained(&[ending, endless.clone()], &[2], None).status, Status::Warned);
    let cut = TokenisedExample { truncated: 3, ..endless };
    failed(&data::end_of_turn_trained(&[cut], &[2], None), "every example is cut off");
}

/// Runs steps on a model, with the batches changed first.
struct Bench {
    model: Arc<Model>,
    stack: EditStack,
    examples: Vec<TokenisedExample>,
    dtype: DType,
}

impl Bench {
    fn new(dtype: DType) -> Bench {
        let model = stories(dtype);
        let mut edit = new_edit(&recipe("", ""), &model).unwrap();
        // B starts at zero and would hide half of the gradients.
        for (i, param) in edit.params.iter_mut().enumerate() {
            let key = RandomKey::new(3).index(i as u64);
            param
                .value
                .as_mut_slice::<f32>()
                .iter_mut()
                .enumerate()
                .for_each(|(j, v)| *v += 0.05 * key.normal(j as u64));
        }
        let examples = sentences(&model, 12);
        Bench { stack: EditStack::training(edit), model, examples, dtype }
    }

    fn checks(
        &self,
        normaliser: &dyn Fn(&FlatBatch, f32) -> f32,
        change: &dyn Fn(FlatBatch) -> FlatBatch,
    ) -> Vec<Check> {
        let run = |batches: &[FlatBatch], whole: f32| {
            let mut gradients = Gradients::new();
            let mut nll_sum = 0.0;
            for batch in batches {
                let cx = Context::new(Tape::recording(), self.stack.hooks(self.dtype), self.dtype);
                let out = next_token_loss(&self.model, &cx, &change(batch.clone()), normaliser(batch, whole));
                nll_sum += out.nll_sum;
                cx.tape.backward(&out.loss, Tensor::full(out.loss.value.dims(), DType::F32, 1.0), &mut gradients);
            }
            let of = |(id, _)| gradients.param(id).unwrap().clone();
            StepResult { loss_sum: nll_sum, gradients: self.stack.trained_params().map(of).collect() }
        };
        numeric::check(&numeric::few(&self.examples), self.dtype, &run)
    }
}

#[test]
fn documents_that_see_each_other_and_means_of_means_are_caught() {
    for dtype in [DType::F32, DType::BF16] {
        let bench = Bench::new(dtype);
        let right = |_: &FlatBatch, whole: f32| whole;
        for check in bench.checks(&right, &|batch| batch) {
            assert_eq!(check.status, Status::Held, "{check:?}");
        }
        // Packing without borders: all documents of a row as one.
        let leaking = bench.checks(&right, &|mut batch| {
            let len = batch.ids.len();
            batch.segments = vec![hone_data::DocumentRange { start: 0, len }];
            batch
        });
        failed(&leaking[0], "packed");
        failed(&leaking[1], "gradients");
        // Positions that go on over the border.
        let running_on = bench.checks(&right, &|mut batch| {
            batch.positions = (0..batch.ids.len() as u32).collect();
            batch
        });
        if dtype == DType::F32 {
            // Rotary attention sees distances only, so positions that run on are harmless; the check must know.
            assert_eq!(running_on[0].status, Status::Held, "{:?}", running_on[0]);
        }
        // Each micro-batch divided by its own tokens instead of the step's.
        let means = bench.checks(&|batch, _| batch.rows.len() as f32, &|batch| batch);
        assert_eq!(means[0].status, Status::Held, "{:?}", means[0]);
        failed(&means[1], "gradients");
    }
}

#[test]
fn an_adapter_that_is_not_what_was_trained_is_caught() {
    let model = stories(DType::F32);
    let base = Base::of(&model);
    let stack = EditStack::training(new_edit(&recipe("", ""), &model).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter");
    save_edit(&stack.entries[0].edit, &path).unwrap();
    assert_eq!(edit::adapter_loads(&path, &base, &stack).status, Status::Held);
    // One bit of one parameter.
    let mut other = stack.clone();
    let value = &mut other.entries[0].edit.params[7].value;
    value.as_mut_slice::<f32>()[0] = f32::from_bits(value.as_slice::<f32>()[0].to_bits() ^ 1);
    let key = &other.entries[0].edit.params[7].key;
    failed(&edit::adapter_loads(&path, &base, &other), &format!("`{key}` differs"));
    // A file that was cut short.
    let weights = path.join("adapter_model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    failed(&edit::adapter_loads(&path, &base, &stack), "adapter_model.safetensors: header");
}

#[test]
fn an_edit_that_does_nothing_and_a_merge_that_loses_it_are_caught() {
    let none = LogitDifference { tokens: 9, largest_logit: 10.0, ..LogitDifference::default() };
    failed(&edit::changes_the_model(&none), "max 0.0000");
    assert_eq!(edit::changes_the_model(&LogitDifference { max: 0.1, ..none }).status, Status::Held);

    assert_eq!(edit::merge_difference(&LogitDifference { max: 1e-3, ..none }, DType::F32).status, Status::Held);
    failed(&edit::merge_difference(&LogitDifference { max: 2.0, ..none }, DType::F32), "max 2.00e0");
    let noise = LogitDifference { max: 0.6, mean: 0.05, ..none };
    assert_eq!(edit::merge_difference(&noise, DType::BF16).status, Status::Held);
    assert_eq!(edit::merge_difference(&LogitDifference { mean: 0.1, ..noise }, DType::BF16).status, Status::Warned);
    let broken = LogitDifference { max: f64::NAN, mean: f64::NAN, ..none };
    failed(&edit::merge_difference(&broken, DType::BF16), "NaN");
}

#[test]
fn a_checkpoint_that_loses_a_bit_is_caught() {
    let model = stories(DType::F32);
    let recipe = recipe("", "");
    let stack = EditStack::training(new_edit(&recipe, &model).unwrap());
    let optimizer = Optimizer::new(&recipe.train, &stack);
    assert_eq!(edit::state_round_trip((&stack, &optimizer), (&stack, &optimizer)).status, Status::Held);
    let mut other = optimizer.clone();
    if let Memory::Adam(state) = &mut other.memory[3] {
        state.v[1] = f32::MIN_POSITIVE;
    }
    failed(&edit::state_round_trip((&stack, &optimizer), (&stack, &other)), "memory differs");
    let mut other = stack.clone();
    other.entries[0].edit.params[0].value.as_mut_slice::<f32>()[5] += 1.0;
    failed(&edit::state_round_trip((&stack, &optimizer), (&other, &optimizer)), "lora_A.weight` differs");
}

#[test]
fn a_failed_check_stops_the_run_and_stands_on_file() {
    let model = stories(DType::F32);
    let recipe = recipe("steps: 2, dtype: f32", "");
    let everything = |mut e: TokenisedExample| {
        e.trained = (0..e.ids.len()).map(|t| t > 0).collect();
        e
    };
    let examples = sentences(&model, 8).into_iter().map(everything).collect();
    let data = prepared(examples, Vec::new(), &recipe);
    let directory = tempfile::tempdir().unwrap();
    let run = train(&model, &data, &recipe, directory.path(), Start::Fresh);
    let message = run.outcome.unwrap_err().to_string();
    assert!(message.contains("trained_share") && message.contains("set `data.train_on: all`"), "{message}");
    let record = std::fs::read_to_string(directory.path().join("invariants.json")).unwrap();
    assert!(record.contains("\"status\": \"failed\""), "{record}");
}

#[test]
fn training_that_does_nothing_is_caught() {
    let model = stories(DType::F32);
    // SGD without momentum and a rate so small that no f32 moves.
    let recipe = recipe("steps: 2, learning_rate: 1e-30, optimizer: sgd, dtype: f32", "");
    let data = prepared(sentences(&model, 8), Vec::new(), &recipe);
    let directory = tempfile::tempdir().unwrap();
    let stack = EditStack::training(new_edit(&recipe, &model).unwrap());
    let run = train_with(&model, stack, &data, &recipe, directory.path(), Start::Fresh, &mut |_, _| {});
    match run.outcome.unwrap_err() {
        TrainError::Invariant { name, .. } => assert_eq!(name, "adapter_changes_the_model"),
        other => panic!("{other}"),
    }
}
