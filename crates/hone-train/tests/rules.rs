//! Methods with rules of their own, trained on stories260k: they learn, what they promise of the written edit holds, and an
//! interrupted run goes on to the same bits.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Run, adapter_bytes, prepared, sentences, stories, train, train_with};
use hone_edit::{Base, Edit, EditStack, files::read_edit};
use hone_engine::{DType, ParamId, RandomKey, Tape, Tensor};
use hone_model::{Context, Model};
use hone_train::alignment::batches_of;
use hone_train::objective::consistent_loss;
use hone_train::step::{self, Objective, Pass};
use hone_train::{Event, PreparedData, Recipe, Start, new_edit, recipe};

const STEPS: usize = 24;

fn setting(method: &str, train: &str) -> (Arc<Model>, Arc<PreparedData>, Recipe) {
    let model = stories(DType::F32);
    let text = format!(
        "{{model: stories260k, data: {{path: none}}, method: {method}, train: {{steps: {STEPS}, batch_size: 8, dtype: f32, \
         validation_every: 0, save_every: 7, {train}}}}}"
    );
    let recipe = recipe::parse(&text, "test", &[]).unwrap();
    let mut examples = sentences(&model, 40);
    let validation = examples.split_off(32);
    let data = prepared(examples, validation, &recipe);
    (model, data, recipe)
}

fn whole(method: &str, how: &str, run: &Path) -> (Edit, Vec<f64>) {
    let (model, data, recipe) = setting(method, how);
    let run_of: Run = train(&model, &data, &recipe, run, Start::Fresh);
    run_of.outcome.as_ref().unwrap_or_else(|error| panic!("{method}: {error}"));
    let edit = read_edit(&run.join("adapter"), &Base::of(&model)).unwrap_or_else(|error| panic!("{method}: {error}"));
    (edit, run_of.losses())
}

/// Trains whole, and in two parts; both must write the same bytes, and the loss must have fallen.
fn learns_and_resumes(method: &str, how: &str) -> Edit {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("whole"), directory.path().join("parts"));
    let (edit, losses) = whole(method, how, &first);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (start, end) = (mean(&losses[..4]), mean(&losses[STEPS - 4..]));
    assert!(end < start, "{method}: loss {start} at the start, {end} at the end");

    let (model, data, recipe) = setting(method, how);
    let stack = EditStack::training(new_edit(&recipe, &model).unwrap());
    let interrupt = &mut |event: &Event, stop: &std::sync::atomic::AtomicBool| {
        if let Event::Step(metrics) = event {
            stop.store(metrics.step == 15, Ordering::Relaxed);
        }
    };
    train_with(&model, stack, &data, &recipe, &second, Start::Fresh, interrupt).outcome.unwrap();
    train(&model, &data, &recipe, &second, Start::Resume).outcome.unwrap();
    assert_eq!(adapter_bytes(&first), adapter_bytes(&second), "{method}: resumed");
    edit
}

/// Numbers that are not 0, and all.
fn density(edit: &Edit) -> (usize, usize) {
    let values = || edit.params.iter().flat_map(|param| param.value.as_slice::<f32>());
    (values().filter(|value| **value != 0.0).count(), values().count())
}

#[test]
fn a_fish_mask_moves_its_share_and_nothing_else() {
    let edit = learns_and_resumes("{type: fish_mask, share: 0.02, samples: 4}", "learning_rate: 3e-3");
    let (changed, all) = density(&edit);
    let share = changed as f64 / all as f64;
    assert!(share <= 0.02 && share > 0.015, "{share}");
}

#[test]
fn child_tuning_learns_by_either_rule() {
    learns_and_resumes("{type: child_tuning, share: 0.3}", "learning_rate: 1e-3");
    let edit =
        learns_and_resumes("{type: child_tuning, mode: task_driven, share: 0.1, samples: 4}", "learning_rate: 1e-3");
    let (changed, all) = density(&edit);
    assert!(changed as f64 <= 0.1 * all as f64, "{changed} of {all}");
}

#[test]
fn diff_pruning_ends_with_its_share_of_the_elements() {
    let edit = learns_and_resumes("{type: diff_pruning, share: 0.03, sparsity_penalty: 1e-6}", "learning_rate: 2e-3");
    let (changed, all) = density(&edit);
    let share = changed as f64 / all as f64;
    assert!(share <= 0.03 && share > 0.02, "{share}");
}

#[test]
fn mask_tuning_drops_a_few_weights_with_and_without_gradient_dropout() {
    for dropout in ["0.0", "1.0"] {
        let method = format!("{{type: mask_tuning, gradient_dropout: {dropout}}}");
        let edit = learns_and_resumes(&method, "learning_rate: 5e-4, schedule: constant");
        let (kept, all) = density(&edit);
        let dropped = (all - kept) as f64 / all as f64;
        assert!(dropped > 0.001 && dropped < 0.5, "{dropped} dropped");
    }
}

#[test]
fn lisa_learns_in_turns() {
    learns_and_resumes("{type: lisa, layers: 2, interval: 4}", "learning_rate: 1e-3");
}

#[test]
fn galore_learns_with_moments_in_a_space_that_changes() {
    learns_and_resumes("{type: galore, rank: 4, update_gap: 5, scale: 1.0}", "learning_rate: 1e-3");
}

#[test]
fn a_graft_carries_a_part_of_the_tuning_and_a_subnetwork_trains_where_it_lies() {
    let directory = tempfile::tempdir().unwrap();
    let tuned = directory.path().join("tuned");
    let (full, tuned_losses) = whole("{type: full, target_modules: '.*proj'}", "learning_rate: 1e-3", &tuned);
    let all = density(&full).1;
    let path = tuned.to_str().unwrap();
    let graft = format!("{{type: grafting, tuned: '{path}', share: 0.2}}");
    let edit = learns_and_resumes(&graft, "learning_rate: 1.0, schedule: constant, warmup_ratio: 0");
    let (kept, _) = density(&edit);
    assert!(kept > 0 && (kept as f64) < 0.4 * all as f64, "{kept} of {all}");
    // Half of the change by size, nothing learned: better than the base on the same batch.
    let patch = format!("{{type: grafting, tuned: '{path}', share: 0.5, optimise: false}}");
    let (_, losses) = whole(&patch, "learning_rate: 1e-3", &directory.path().join("patch"));
    assert!(losses[0] < tuned_losses[0], "{} and {}", losses[0], tuned_losses[0]);
    let subnetwork = format!("{{type: subnetwork, changed_by: '{path}', tolerance: 1e-3}}");
    let edit = learns_and_resumes(&subnetwork, "learning_rate: 1e-3");
    let (changed, _) = density(&edit);
    assert!(changed > 0 && changed < all, "{changed} of {all}");
}

#[test]
fn adamix_learns_with_two_routings_a_step() {
    learns_and_resumes("{type: adamix, r: 2, num_experts: 3, consistency_weight: 2}", "learning_rate: 5e-3");
}

/// Two routings of a step are different ones, and the gradient is that of the loss with their disagreement: along it, the loss
/// rises by its square.
#[test]
fn the_gradient_of_a_consistent_loss_is_its_derivative() {
    let (model, data, recipe) = setting("{type: adamix, r: 2, num_experts: 3}", "learning_rate: 5e-3");
    let mut edit = new_edit(&recipe, &model).unwrap();
    // `B` starts at 0, where all routes are one.
    for (number, param) in edit.params.iter_mut().enumerate().filter(|(_, param)| param.key.ends_with("lora_B")) {
        let key = RandomKey::new(7).index(number as u64);
        let values: Vec<f32> = (0..param.value.elements() as u64).map(|at| 0.02 * key.normal(at)).collect();
        param.value = Tensor::from_slice(param.value.dims(), &values);
    }
    let batch = &batches_of(&data.tokenised.train, &[0, 1, 2, 3], 4)[0];
    let normaliser = batch.rows.len() as f32;
    let key = RandomKey::new(3);
    let loss = |edit: &Edit, weight: f32| {
        let hooks = EditStack::training(edit.clone()).hooks(DType::F32);
        let context =
            |key| Context { training: true, key, ..Context::new(Tape::recording(), hooks.clone(), DType::F32) };
        let first = key.index(0);
        let passes = [&context(first), &context(first.named("again"))];
        f64::from(consistent_loss(&model, passes, batch, normaliser, weight).loss.value.item())
    };
    let gradient = |consistency: Option<f32>| {
        let hooks = EditStack::training(edit.clone()).hooks(DType::F32);
        let (key, objective) = (Some(key), consistency.map_or(Objective::NextToken, Objective::TwoPasses));
        let pass = Pass { hooks: &hooks, dtype: DType::F32, recompute: false, key, objective };
        let (sums, gradients) = step::gradients(&model, &pass, std::slice::from_ref(batch), normaliser);
        (sums.loss, gradients)
    };
    let (alone, apart) = (loss(&edit, 0.0), loss(&edit, 1.0) - loss(&edit, 0.0));
    assert!(apart > 1e-3, "two routings of one batch: {apart} apart");
    let mut lengths = Vec::new();
    for weight in [None, Some(1.0), Some(5.0)] {
        let (nll_sum, gradients) = gradient(weight);
        assert!((nll_sum / f64::from(normaliser) - alone).abs() < 1e-5 * alone, "the loss that is told is the first's");
        let of = |number: usize| gradients.param(ParamId(number as u32)).unwrap();
        let square: f64 = (0..edit.params.len())
            .flat_map(|number| of(number).to_vec_f32())
            .map(|g| f64::from(g) * f64::from(g))
            .sum();
        let moved = |by: f64| {
            let mut edit = edit.clone();
            for (number, param) in edit.params.iter_mut().enumerate() {
                let slope = of(number).to_vec_f32();
                let values = param.value.to_vec_f32();
                let moved: Vec<f32> =
                    values.iter().zip(&slope).map(|(v, g)| v + (by / square.sqrt()) as f32 * g).collect();
                param.value = Tensor::from_slice(param.value.dims(), &moved);
            }
            loss(&edit, weight.unwrap_or(0.0))
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        assert!((slope - square.sqrt()).abs() < 1e-2 * slope, "{weight:?}: {slope} and {}", square.sqrt());
        lengths.push(slope);
    }
    // The term has a part in it that the tolerance does not hide.
    assert!((lengths[2] - lengths[0]).abs() > 0.1 * lengths[0], "{lengths:?}");
}

/// A run says how many numbers it trained, whatever is kept of them: methods are compared at an equal number.
#[test]
fn what_was_trained_is_counted_not_what_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let method = "{type: ept, num_virtual_tokens: 3, r: 2, max_length: 16}";
    let (model, data, recipe) = setting(method, "learning_rate: 1e-3");
    let outcome = train(&model, &data, &recipe, directory.path(), Start::Fresh).outcome.unwrap();
    let trained = new_edit(&recipe, &model).unwrap().parameter_count();
    let kept = read_edit(&directory.path().join("adapter"), &Base::of(&model)).unwrap().parameter_count();
    assert_eq!(outcome.trained_parameters, trained);
    assert_ne!(trained, kept);
}
