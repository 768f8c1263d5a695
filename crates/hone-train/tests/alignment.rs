//! Whether the sources of a mix pull the same way, on stories260k: properties that hold whatever the numbers are.

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;

use common::{prepared, sentences, stories};
use hone_data::TokenisedExample;
use hone_edit::{EditStack, Role};
use hone_engine::DType;
use hone_model::Model;
use hone_train::alignment::{Alignment, AlignmentOptions, alignment, batches_of, chosen_parameters, gradient};
use hone_train::step::{Objective, Pass};
use hone_train::{PreparedData, Recipe, TrainError, new_edit, recipe};

/// A mix of so many sources, its method, and perhaps more.
fn mixed(sources: usize, method: &str, train: &str) -> Recipe {
    let mix: Vec<String> = (0..sources).map(|part| format!("{{path: source{part}.jsonl}}")).collect();
    let text = format!(
        "{{model: stories260k, data: {{mix: [{}]}}, method: {method}, train: {{dtype: f32, batch_size: 4{train}}}}}",
        mix.join(", ")
    );
    recipe::parse(&text, "test", &[]).unwrap()
}

/// The examples as source `part` of the mix.
fn of_part(examples: &[TokenisedExample], part: usize) -> Vec<TokenisedExample> {
    examples.iter().map(|example| TokenisedExample { part, ..example.clone() }).collect()
}

/// Three sources: sentences, the same once more, and the same sentences in the order of their last tokens first.
fn sources(model: &Model) -> Vec<TokenisedExample> {
    let own = sentences(model, 9);
    let mut other = own.clone();
    other.iter_mut().for_each(|example| example.ids[1..].reverse());
    [of_part(&own, 0), of_part(&own, 1), of_part(&other, 2)].concat()
}

fn measured(
    model: &Model,
    data: &PreparedData,
    recipe: &Recipe,
    n: usize,
    parameters: Option<&str>,
) -> Result<Alignment, TrainError> {
    let stack = EditStack::training(new_edit(recipe, model)?);
    let options =
        AlignmentOptions { examples: NonZeroUsize::new(n).unwrap(), parameters: parameters.map(str::to_string) };
    let mut told = Vec::new();
    let found = alignment(model, &stack, data, recipe, &options, &mut |done| told.push(done))?;
    assert_eq!(told, (1..=found.sources.len()).collect::<Vec<_>>());
    Ok(found)
}

const LORA: &str = "{type: lora, r: 4, init_lora_weights: false}";

fn setting(method: &str) -> (Arc<Model>, Arc<PreparedData>, Recipe) {
    let model = stories(DType::F32);
    let recipe = mixed(3, method, "");
    let data = prepared(sources(&model), Vec::new(), &recipe);
    (model, data, recipe)
}

fn near(found: Option<f64>, expected: f64, tolerance: f64) {
    let found = found.expect("a cosine");
    assert!((found - expected).abs() < tolerance, "{found}, expected {expected}");
}

#[test]
fn equal_sources_agree_and_the_matrix_is_symmetric() {
    let (model, data, recipe) = setting(LORA);
    let found = measured(&model, &data, &recipe, 9, None).unwrap();
    near(found.cosines[0][1], 1.0, 1e-4);
    for a in 0..3 {
        assert_eq!(found.cosines[a][a], Some(1.0));
        for b in 0..3 {
            assert_eq!(found.cosines[a][b], found.cosines[b][a]);
            assert!(found.cosines[a][b].unwrap().abs() <= 1.0);
        }
    }
    let apart = found.cosines[0][2].unwrap();
    assert!(apart < 0.9, "other sentences, other gradients: {apart}");
    near(found.mean_cosine, (1.0 + 2.0 * apart) / 3.0, 1e-4);
    let pairs = found.pairs();
    assert_eq!((pairs.len(), (pairs[2].first, pairs[2].second)), (3, (0, 1)), "{pairs:?}");
    assert!(pairs[0].cosine <= pairs[1].cosine && pairs[1].cosine <= pairs[2].cosine, "{pairs:?}");
    let (same, again) = (&found.sources[0], &found.sources[1]);
    assert_eq!((same.loss, same.norm, same.examples, same.available), (again.loss, again.norm, 9, 9));
    assert!(same.halves.is_some_and(|halves| halves > 0.2), "halves of sentences of one kind: {same:?}");
    let names: Vec<&str> = found.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["source0", "source1", "source2"]);
    assert_eq!(found.parameters, EditStack::training(new_edit(&recipe, &model).unwrap()).trained_count());
}

#[test]
fn the_loss_is_that_of_training_and_few_examples_are_spread_over_the_source() {
    let (model, data, recipe) = setting("{type: lora, r: 4}");
    // A fresh edit is the base: the loss of all examples is what a validation would measure.
    let found = measured(&model, &data, &recipe, 100, None).unwrap();
    let cx = hone_model::Context::inference(Arc::new(hone_model::NoHooks), DType::F32);
    for (part, source) in found.sources.iter().enumerate() {
        let documents: Vec<usize> = (9 * part..9 * part + 9).collect();
        let batch = &batches_of(&data.tokenised.train, &documents, 9)[0];
        let loss = hone_train::objective::next_token_loss(&model, &cx, batch, 1.0).nll_sum / batch.rows.len() as f64;
        assert!((source.loss - loss).abs() < 1e-5 * loss, "{} {loss}", source.loss);
        assert_eq!((source.examples, source.trained_tokens), (9, batch.rows.len()));
    }
    let few = measured(&model, &data, &recipe, 3, None).unwrap();
    let tokens = |at: usize| data.tokenised.train[at].trained_tokens();
    assert_eq!((few.sources[0].examples, few.sources[0].trained_tokens), (3, tokens(0) + tokens(3) + tokens(6)));
    let one = measured(&model, &data, &recipe, 1, None).unwrap();
    assert_eq!((one.sources[0].halves, one.mean_halves), (None, None));
}

#[test]
fn the_sources_gradients_add_up_to_that_of_all() {
    for method in [LORA, "{type: poly, r: 2, n_tasks: 3, n_skills: 3, n_splits: 4, init_weights: false}"] {
        let (model, data, recipe) = setting(method);
        let stack = EditStack::training(new_edit(&recipe, &model).unwrap());
        let parameters = chosen_parameters(&stack, None).unwrap();
        let hooks = stack.hooks(DType::F32);
        let objective = Objective::NextToken;
        let pass = Pass { hooks: &hooks, dtype: DType::F32, recompute: false, key: None, objective };
        let examples = &data.tokenised.train;
        let of = |documents: Vec<usize>, batch_size: usize| {
            gradient(&model, &pass, &parameters, &batches_of(examples, &documents, batch_size), 100.0)
        };
        let (loss, all) = of((0..27).collect(), 27);
        let parts: Vec<(f64, Vec<f32>)> = (0..3).map(|part| of((9 * part..9 * part + 9).collect(), 4)).collect();
        let sum = |at: usize| parts.iter().map(|(_, gradient)| gradient[at]).sum::<f32>();
        let largest = all.iter().fold(0f32, |most, value| most.max(value.abs()));
        assert!(largest > 0.0, "{method}");
        for (at, value) in all.iter().enumerate() {
            assert!((value - sum(at)).abs() < 1e-4 * largest, "{method}: {at}: {value} and {}", sum(at));
        }
        let losses: f64 = parts.iter().map(|(loss, _)| loss).sum();
        assert!((loss - losses).abs() < 1e-5 * loss, "{method}: {loss} and {losses}");
    }
}

/// Poly's task of an example is its source. What is one task's own gets no gradient from another; what they share does.
#[test]
fn routings_are_apart_and_skills_are_shared() {
    let method = "{type: poly, r: 2, n_tasks: 3, n_skills: 3, n_splits: 4, init_weights: false}";
    let (model, data, recipe) = setting(method);
    let over = |parameters: Option<&str>| measured(&model, &data, &recipe, 9, parameters).unwrap();
    let all = over(None);
    // Capitals do not count.
    let [a, b, routing] = ["lora_A", "LORA_b", "module_logits"].map(|text| over(Some(text)));
    for source in &routing.sources {
        assert!(source.norm > 0.0, "{source:?}");
    }
    assert_eq!((routing.cosines[0][1], routing.cosines[0][2], routing.mean_cosine), (Some(0.0), Some(0.0), Some(0.0)));
    // The first two differ in their first routing alone, which is nearly even.
    near(b.cosines[0][1], 1.0, 1e-2);
    // What is measured over parts is what is measured over all.
    assert_eq!(a.parameters + b.parameters + routing.parameters, all.parameters);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let norms = |part: &Alignment| (part.sources[one].norm, part.sources[other].norm);
        let product = |part: &Alignment| part.cosines[one][other].unwrap() * norms(part).0 * norms(part).1;
        let expected = [&a, &b, &routing].map(product).iter().sum::<f64>() / (norms(&all).0 * norms(&all).1);
        near(all.cosines[one][other], expected, 1e-6);
    }
}

#[test]
fn a_source_without_a_gradient_has_no_cosine() {
    // Where `B` is 0, nothing reaches `A`.
    let (model, data, recipe) = setting("{type: lora, r: 4}");
    let found = measured(&model, &data, &recipe, 9, Some("lora_A")).unwrap();
    assert!(found.sources.iter().all(|source| source.norm == 0.0 && source.halves.is_none()));
    assert!(found.cosines.iter().flatten().all(Option::is_none) && found.pairs().is_empty());
    assert_eq!(found.mean_cosine, None);
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let model = stories(DType::F32);
    let examples = sources(&model);
    let refused = |recipe: &Recipe, examples: &[TokenisedExample], parameters: Option<&str>| {
        let data = prepared(examples.to_vec(), Vec::new(), recipe);
        measured(&model, &data, recipe, 4, parameters).unwrap_err().to_string()
    };
    let one = refused(&mixed(1, LORA, ""), &of_part(&examples[..9], 0), None);
    assert!(one.contains("one source") && one.contains("data.mix"), "{one}");
    let empty = refused(&mixed(3, LORA, ""), &examples[..18], None);
    assert!(empty.contains("`source2` (`mix[2]`) has no example left"), "{empty}");
    let key = refused(&mixed(3, LORA, ""), &examples, Some("lora_C"));
    assert!(key.contains("contains `lora_C`") && key.contains("lora_A"), "{key}");
    let tasks = refused(&mixed(3, "{type: poly, n_tasks: 2}", ""), &examples, None);
    assert!(tasks.contains("no task 2"), "{tasks}");
    let recipe = mixed(3, LORA, "");
    let data = prepared(examples.clone(), Vec::new(), &recipe);
    let coarse = measured(&stories(DType::BF16), &data, &recipe, 4, None).unwrap_err().to_string();
    assert!(coarse.contains("loaded in") && coarse.contains("train.dtype"), "{coarse}");
    // An edit whose every parameter is fixed.
    let mut edit = new_edit(&recipe, &model).unwrap();
    edit.params.iter_mut().for_each(|param| param.traits.role = Role::Fixed);
    let chosen = chosen_parameters(&EditStack::training(edit), None).map(|chosen| chosen.len());
    let frozen = chosen.unwrap_err().to_string();
    assert!(frozen.contains("no trained parameter"), "{frozen}");
}

#[test]
fn an_edit_that_has_diverged_is_no_measurement() {
    let (model, data, recipe) = setting(LORA);
    let mut edit = new_edit(&recipe, &model).unwrap();
    edit.params[0].value.as_mut_slice::<f32>()[0] = f32::NAN;
    let options = AlignmentOptions { examples: NonZeroUsize::new(4).unwrap(), parameters: None };
    let found = alignment(&model, &EditStack::training(edit), &data, &recipe, &options, &mut |_| {});
    let message = found.unwrap_err().to_string();
    assert!(message.contains("`source0` has a loss of NaN") && message.contains("diverged"), "{message}");
}
