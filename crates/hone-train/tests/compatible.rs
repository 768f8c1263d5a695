//! Training towards an old and a new version (`train.compatibility`) on stories260k: the loss against one that is worked out from
//! the logits, what runs do with it, and what is refused.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::versions::{Setting, another};
use common::{
    Run, adapter_bytes, divergence, example, log_probs, prepared, sentences, stories, stories_path, train, train_with,
};
use hone_data::{FlatBatch, StepBatch};
use hone_edit::{EditStack, load_edit, save_edit};
use hone_engine::{DType, ParamId, Tape, Tensor};
use hone_model::tokenizer::Tokenizer;
use hone_model::{Context, Hooks, Model};
use hone_train::compatibility::{Models, Versions};
use hone_train::objective::next_token_loss;
use hone_train::step::{self, Objective, Pass};
use hone_train::{Event, PreparedData, Recipe, Start, TrainError, Trainer, new_edit, recipe};
use serde_json::Value;

const MASKS: [&str; 6] =
    ["student_wrong", "old_right", "likelihood_token", "likelihood_sequence", "always_old", "never_old"];

fn versions(recipe: &Recipe, models: impl Into<Models>, data: &PreparedData) -> Result<Versions, TrainError> {
    Versions::read(&recipe.resolved().unwrap(), &models.into(), data).map(|versions| versions.expect("it names some"))
}

fn batch(model: &Model) -> FlatBatch {
    let examples = sentences(model, 7);
    StepBatch::new(&examples, &[0, 1, 2, 3, 4, 5, 6]).layout()
}

/// What a mask says of every trained token, from log-probabilities of the update and of the old version.
fn marked(mask: &str, own: &[Vec<f64>], old: &[Vec<f64>], batch: &FlatBatch) -> Vec<bool> {
    let targets = || batch.targets.iter().map(|target| *target as usize);
    let right = |of: &[Vec<f64>]| -> Vec<bool> {
        of.iter().zip(targets()).map(|(row, target)| row.iter().all(|other| *other <= row[target])).collect()
    };
    let document = |row: u32| batch.segments.iter().position(|s| (s.start..s.start + s.len).contains(&(row as usize)));
    let likelihood = |of: &[Vec<f64>], at: usize| -> f64 {
        let same = |other: &usize| document(batch.rows[*other]) == document(batch.rows[at]);
        (0..of.len()).filter(same).map(|other| of[other][batch.targets[other] as usize]).sum()
    };
    let rows = 0..batch.rows.len();
    match mask {
        "student_wrong" => right(own).into_iter().map(|right| !right).collect(),
        "old_right" => right(old),
        "likelihood_token" => rows.zip(targets()).map(|(at, target)| own[at][target] < old[at][target]).collect(),
        "likelihood_sequence" => rows.map(|at| likelihood(own, at) < likelihood(old, at)).collect(),
        other => vec![other == "always_old"; batch.rows.len()],
    }
}

#[test]
fn every_mask_teaches_what_it_says() {
    let setting = Setting::new(DType::F32);
    let (model, batch) = (&setting.model, batch(&setting.model));
    setting.save(model, "update", 3);
    let [own, old, new] = ["update", "old", "new"].map(|name| setting.hooks(model, name));
    let at = |hooks, temperature| log_probs(model, hooks, &batch, temperature);
    let mut counts = Vec::new();
    for mask in MASKS {
        let recipe = setting.of_adapters(&format!("mask: {mask}, temperature: 1.5, cross_entropy: 0.25"));
        let versions = versions(&recipe, model.clone(), &setting.data(&recipe)).unwrap();
        let got = versions.loss(model, &Context::inference(own.clone(), DType::F32), &batch, 10.0);
        let marked = marked(mask, &at(&own, 1.0), &at(&old, 1.0), &batch);
        let (soft_own, soft_old, soft_new) = (at(&own, 1.5), at(&old, 1.5), at(&new, 1.5));
        let teacher = |i: usize| if marked[i] { &soft_old[i] } else { &soft_new[i] };
        let divergence: f64 = (0..marked.len()).map(|i| divergence(teacher(i), &soft_own[i])).sum();
        let plain = at(&own, 1.0);
        let nll: f64 = plain.iter().zip(&batch.targets).map(|(row, target)| -row[*target as usize]).sum();
        let expected = 0.75 * divergence + 0.25 * nll;
        assert!((got.sum - expected).abs() < 1e-5 * expected, "{mask}: {} and {expected}", got.sum);
        assert!((f64::from(got.loss.value.item()) - expected / 10.0).abs() < 1e-5 * expected, "{mask}");
        assert_eq!(got.of_old, marked.iter().filter(|marked| **marked).count(), "{mask}");
        counts.push(got.of_old);
    }
    // Each mask has its say here, and no two that could be mixed up say the same.
    let all = batch.rows.len();
    assert_eq!((counts[4], counts[5]), (all, 0));
    assert!(counts[..4].iter().all(|count| *count > 0 && *count < all), "{counts:?} of {all}");
    counts.sort_unstable();
    counts.dedup();
    assert_eq!(counts.len(), MASKS.len(), "{counts:?}");
}

#[test]
fn an_old_version_on_another_model_speaks_with_its_own_head() {
    let setting = Setting::new(DType::F32);
    let other = Arc::new(another(&setting, 0.9));
    setting.save(&other, "old", 1);
    let edit = setting.dir("old");
    let recipe =
        setting.recipe(&format!("model: other, edit: '{}'", edit.display()), "mask: always_old, temperature: 1");
    let (model, batch) = (&setting.model, batch(&setting.model));
    let models = Models { model: model.clone(), old: Some(other.clone()) };
    let versions = versions(&recipe, models, &setting.data(&recipe)).unwrap();
    let own = setting.hooks(model, "new");
    let got = versions.loss(model, &Context::inference(own.clone(), DType::F32), &batch, 1.0);
    let ours = log_probs(model, &own, &batch, 1.0);
    let theirs = log_probs(&other, &setting.hooks(&other, "old"), &batch, 1.0);
    let expected: f64 = theirs.iter().zip(&ours).map(|(q, p)| divergence(q, p)).sum();
    assert!(expected > 1.0 && (got.sum - expected).abs() < 1e-5 * expected, "{} and {expected}", got.sum);
    // The old version may have no adapter.
    let recipe = setting.recipe("model: other", "mask: always_old, temperature: 1");
    let models = Models { model: model.clone(), old: Some(other.clone()) };
    let bare = self::versions(&recipe, models, &setting.data(&recipe)).unwrap();
    let bare = bare.loss(model, &Context::inference(own, DType::F32), &batch, 1.0);
    assert!((bare.sum - got.sum).abs() > 0.1, "{} and {}", bare.sum, got.sum);
}

#[test]
fn an_update_that_is_both_versions_has_nothing_to_learn() {
    for dtype in [DType::F32, DType::BF16] {
        let setting = Setting::new(dtype);
        for mask in MASKS {
            let edit = setting.dir("new");
            let recipe = setting.recipe(&format!("edit: '{}'", edit.display()), &format!("mask: {mask}"));
            let versions = versions(&recipe, setting.model.clone(), &setting.data(&recipe)).unwrap();
            let stack = EditStack::training(new_edit(&recipe, &setting.model).unwrap());
            let (hooks, batch) = (stack.hooks(dtype), batch(&setting.model));
            let (key, objective) = (None, Objective::Versions(&versions));
            let pass = Pass { hooks: &hooks, dtype, recompute: false, key, objective };
            let (sums, gradients) = step::gradients(&setting.model, &pass, &[batch], 1.0);
            assert_eq!(sums.loss, 0.0, "{mask} in {dtype}");
            for (id, param) in stack.trained_params() {
                let gradient = gradients.param(id).unwrap();
                assert!(gradient.to_vec_f32().iter().all(|g| *g == 0.0), "{mask} in {dtype}: {}", param.key);
            }
        }
    }
}

/// Along the gradient the loss rises by its square.
#[test]
fn the_gradient_is_the_derivative() {
    let setting = Setting::new(DType::F32);
    setting.save(&setting.model, "update", 3);
    let batch = batch(&setting.model);
    // Masks that hang on the update itself jump where its answer changes; the step is short enough to cross no such place.
    for compatibility in ["mask: always_old", "mask: old_right, cross_entropy: 0.5", "mask: student_wrong"] {
        let recipe = setting.of_adapters(compatibility);
        let versions = versions(&recipe, setting.model.clone(), &setting.data(&recipe)).unwrap();
        let edit = load_edit(&setting.dir("update"), &setting.model).unwrap().entries.remove(0).edit;
        let hooks = EditStack::training(edit.clone()).hooks(DType::F32);
        let (key, objective) = (None, Objective::Versions(&versions));
        let pass = Pass { hooks: &hooks, dtype: DType::F32, recompute: false, key, objective };
        let (_, gradients) = step::gradients(&setting.model, &pass, std::slice::from_ref(&batch), 1.0);
        let of = |number: usize| gradients.param(ParamId(number as u32)).unwrap().to_vec_f32();
        let square: f64 = (0..edit.params.len()).flat_map(of).map(|g| f64::from(g) * f64::from(g)).sum();
        let moved = |by: f64| {
            let mut edit = edit.clone();
            for (number, param) in edit.params.iter_mut().enumerate() {
                let values = param.value.to_vec_f32();
                let along = values.iter().zip(of(number)).map(|(v, g)| v + (by / square.sqrt()) as f32 * g);
                param.value = Tensor::from_slice(param.value.dims(), &along.collect::<Vec<f32>>());
            }
            let cx = Context::new(Tape::off(), EditStack::of(edit).hooks(DType::F32), DType::F32);
            versions.loss(&setting.model, &cx, &batch, 1.0).sum
        };
        let slope = (moved(2e-3) - moved(-2e-3)) / 4e-3;
        assert!((slope - square.sqrt()).abs() < 1e-2 * slope, "{compatibility}: {slope} and {}", square.sqrt());
    }
}

fn ok(run: Run) -> Vec<Event> {
    run.outcome.unwrap_or_else(|error| panic!("{error}"));
    run.events
}

fn shares(events: &[Event]) -> Vec<f64> {
    let share = |event: &Event| match event {
        Event::Step(metrics) => Some(metrics.old_share.expect("told at every step")),
        _ => None,
    };
    events.iter().filter_map(share).collect()
}

#[test]
fn a_run_towards_the_old_version_comes_near_it_and_one_towards_itself_stays() {
    let setting = Setting::new(DType::F32);
    let model = &setting.model;
    let batch = batch(model);
    let toward_old = setting.of_adapters("mask: always_old");
    let distance = versions(&toward_old, model.clone(), &setting.data(&toward_old)).unwrap();
    let from_old =
        |hooks: Arc<dyn Hooks>| distance.loss(model, &Context::inference(hooks, DType::F32), &batch, 1.0).sum;
    let start = from_old(setting.hooks(model, "new"));
    for (mask, ends) in [("always_old", 0.0..0.3), ("student_wrong", 0.0..0.9), ("never_old", 0.95..1.05)] {
        let recipe = setting.of_adapters(&format!("mask: {mask}"));
        let data = setting.data(&recipe);
        let run = setting.dir(mask);
        let events = ok(train(model, &data, &recipe, &run, Start::Fresh));
        let end = from_old(load_edit(&run, model).unwrap().hooks(DType::F32));
        assert!(ends.contains(&(end / start)), "{mask}: {end} after {start}");
        let shares = shares(&events);
        match mask {
            "always_old" => assert!(shares.iter().all(|share| *share == 1.0)),
            "never_old" => assert!(shares.iter().all(|share| *share == 0.0)),
            _ => assert!(shares.iter().all(|share| *share > 0.0 && *share < 1.0), "{shares:?}"),
        }
        // It starts as the new version, and what it is chosen by is the cross-entropy on the data.
        let first = events.iter().find_map(|event| match event {
            Event::Validation(metrics) => Some((metrics.step, metrics.validation_loss)),
            _ => None,
        });
        let cx = Context::inference(setting.hooks(model, "new"), DType::F32);
        let batches = data.validation_batches();
        let nll: f64 = batches.iter().map(|batch| next_token_loss(model, &cx, batch, 1.0).nll_sum).sum();
        let tokens: usize = batches.iter().map(|batch| batch.rows.len()).sum();
        assert_eq!(first, Some((0, nll / tokens as f64)), "{mask}");
        let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(log.lines().filter(|line| line.contains("\"old_share\"")).count(), 24);
        let provenance: Value =
            serde_json::from_str(&std::fs::read_to_string(run.join("provenance.json")).unwrap()).unwrap();
        let named = |name: &str| provenance["versions"][name]["edit"].as_str().map(Path::new);
        assert_eq!(named("old"), (mask != "never_old").then_some(setting.dir("old").as_path()));
        assert_eq!(named("new"), (mask != "always_old").then_some(setting.dir("new").as_path()));
    }
}

/// There is neither loss nor gradient then, whatever the method makes of its values while they are trained and afterwards, so that
/// checks of the numbers by their size do not stumble on rounding.
#[test]
fn a_run_that_starts_as_its_own_teacher_passes_its_checks() {
    for dtype in ["f32", "bf16"] {
        let model = stories(if dtype == "f32" { DType::F32 } else { DType::BF16 });
        let folder = tempfile::tempdir().unwrap();
        for method in ["full", "dora", "ia3", "glora", "parallel_adapter"] {
            let of = |method: &str, train: &str| {
                let text = format!(
                    "{{model: stories260k, data: {{path: none}}, method: {method}, train: {{steps: 2, dtype: {dtype}, {train}}}}}"
                );
                recipe::parse(&text, "test", &[]).unwrap()
            };
            let trained = folder.path().join(method);
            let recipe = of(&format!("{{type: {method}}}"), "learning_rate: 1e-2");
            let data = prepared(sentences(&model, 16), Vec::new(), &recipe);
            ok(train(&model, &data, &recipe, &trained, Start::Fresh));
            let goes_on = format!("{{type: {method}, init_from: '{}'}}", trained.display());
            let recipe = of(&goes_on, "compatibility: {mask: never_old}");
            let run = folder.path().join(format!("{method}-distilled"));
            let events = ok(train(&model, &data, &recipe, &run, Start::Fresh));
            let loss = events.iter().find_map(|event| match event {
                Event::Step(metrics) => Some(metrics.loss),
                _ => None,
            });
            assert!(loss.unwrap().abs() < 1e-9, "{method} in {dtype}: {loss:?}");
            let told =
                |event: &Event| matches!(event, Event::Warning { message } if message.contains("changes nothing"));
            assert!(events.iter().any(told), "{method}: nothing said");
        }
    }
}

/// The lines of training without what depends on the clock.
fn lines(run: &Path) -> Vec<(Value, Value, Value)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let read = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    read.filter(|line| line["kind"] == "train")
        .map(|mut line| (line["step"].take(), line["loss"].take(), line["old_share"].take()))
        .collect()
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits_and_only_with_the_same_versions() {
    let setting = Setting::new(DType::F32);
    let recipe = setting.of_adapters("mask: student_wrong, cross_entropy: 0.1");
    let (model, data) = (&setting.model, setting.data(&recipe));
    let (whole, parts) = (setting.dir("whole"), setting.dir("parts"));
    ok(train(model, &data, &recipe, &whole, Start::Fresh));
    let stack = || EditStack::training(new_edit(&recipe, model).unwrap());
    let mut stopped_at_16 = |event: &Event, stop: &std::sync::atomic::AtomicBool| {
        if let Event::Step(metrics) = event {
            stop.store(metrics.step == 16, Ordering::Relaxed);
        }
    };
    ok(train_with(model, stack(), &data, &recipe, &parts, Start::Fresh, &mut stopped_at_16));
    // A run that is killed leaves the checkpoint before, of step 14, and lines beyond it.
    std::fs::remove_dir_all(parts.join("checkpoints/step-00000016")).unwrap();
    assert_eq!(lines(&parts).len(), 16);

    // Another old version in the same place is another run; the same one in another place is not.
    let resume = |recipe: &Recipe| train(model, &data, recipe, &parts, Start::Resume);
    std::fs::rename(setting.dir("old"), setting.dir("moved")).unwrap();
    setting.save(model, "old", 9);
    let message = resume(&recipe).outcome.unwrap_err().to_string();
    assert!(message.contains("`train.compatibility.old.edit_sha256` was"), "{message}");
    let edit = setting.dir("moved");
    let moved = setting.recipe(&format!("edit: '{}'", edit.display()), "mask: student_wrong, cross_entropy: 0.1");
    ok(resume(&moved));
    assert_eq!(lines(&whole), lines(&parts));
    assert!(adapter_bytes(&whole) == adapter_bytes(&parts), "the adapters differ");
}

#[test]
fn what_cannot_be_compared_is_refused_by_name() {
    let setting = Setting::new(DType::F32);
    let model = &setting.model;
    let refused = |recipe: &Recipe, models: Models| match versions(recipe, models, &setting.data(recipe)) {
        Ok(_) => panic!("not refused"),
        Err(error) => error.to_string(),
    };
    let alone = || Models::from(model.clone());
    let beside = |old: Model| Models { model: model.clone(), old: Some(Arc::new(old)) };
    let says = |message: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| message.contains(part)), "said: {message}\nexpected: {parts:?}");
    };
    // Another model: not there, of another vocabulary, of other tokens.
    let other = setting.recipe("model: other", "");
    says(refused(&other, alone()), &["`train.compatibility.old.model`: `other`: found no such model"]);
    let mut smaller = another(&setting, 0.9);
    smaller.spec.vocab_size = 500;
    let next = "name an old version with the same tokenizer";
    says(
        refused(&other, beside(smaller)),
        &["`other`: found a vocabulary of 500, expected 512, that of `model`", next],
    );
    let mut swapped = another(&setting, 0.9);
    let text = std::fs::read_to_string(stories_path().join("tokenizer.json")).unwrap();
    let changed = text.replace("\"▁t\": 259", "\"▁t\": 260").replace("\"he\": 260", "\"he\": 259");
    assert_ne!(text, changed);
    std::fs::write(setting.dir("another").join("tokenizer.json"), changed).unwrap();
    swapped.tokenizer = Arc::new(Tokenizer::from_directory(&setting.dir("another")).unwrap());
    says(refused(&other, beside(swapped)), &["found \"he\" as token 259, expected \"▁t\", as `model` has it", next]);
    // Adapters: of another model, of none.
    let theirs = another(&setting, 0.9);
    setting.save(&theirs, "theirs", 4);
    let edit = |name: &str| format!("edit: '{}'", setting.dir(name).display());
    let foreign = refused(&setting.recipe(&edit("theirs"), ""), alone());
    let next = "name it as `train.compatibility.old.model`";
    says(foreign, &["`train.compatibility.old.edit`: ", "made for another base model", next]);
    let new = format!("new: {{{}}}", edit("theirs"));
    says(refused(&setting.recipe(&edit("old"), &new), alone()), &["`train.compatibility.new.edit`: ", "another base"]);
    says(refused(&setting.recipe(&edit("nowhere"), ""), alone()), &["`train.compatibility.old.edit`: ", "nowhere"]);
    // Examples that a version has no room for, behind its virtual tokens.
    let text = "{model: stories260k, data: {path: none}, method: {type: prompt_tuning, num_virtual_tokens: 500}}";
    let prompt = recipe::parse(text, "test", &[]).unwrap();
    save_edit(&new_edit(&prompt, model).unwrap(), &setting.dir("prompt")).unwrap();
    let recipe = setting.recipe(&edit("prompt"), "");
    says(refused(&recipe, alone()), &["found room for 12 tokens in the old version", "set `data.max_length: 12`"]);
}

/// The same weights by another name, or no adapter: the old version is the tuned model, in its bits, and that is said.
#[test]
fn an_old_version_whose_model_is_rounded_with_the_tuned_one_is_said() {
    let setting = Setting::new(DType::F32);
    let load = |bits: &str| {
        let path = stories_path();
        Arc::new(Model::load_quantised(path.to_str().unwrap(), DType::F32, bits.parse().unwrap()).unwrap())
    };
    let (rounded, plain) = (load("nf4"), setting.model.clone());
    let edit = setting.dir("old");
    let copy = setting.recipe(&format!("model: copy, edit: '{}'", edit.display()), "");
    let said = |recipe: &Recipe, own: &Arc<Model>, old: Option<Arc<Model>>| -> Vec<String> {
        let models = Models { model: own.clone(), old };
        let warnings = versions(recipe, models, &setting.data(recipe)).unwrap().warnings;
        warnings.into_iter().filter(|warning| warning.starts_with("`train.compatibility.old.model`")).collect()
    };
    let warned = said(&copy, &rounded, Some(plain.clone()));
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("`copy` is the model that is tuned") && warned[0].contains("`quantize: nf4`"),
        "{warned:?}"
    );
    // Another model stays as it is read, and without rounding there is nothing to say.
    let other = setting.recipe("model: other", "");
    assert_eq!(said(&other, &rounded, Some(Arc::new(another(&setting, 0.9)))), Vec::<String>::new());
    assert_eq!(said(&copy, &plain, Some(plain.clone())), Vec::<String>::new());
    // An adapter on the recipe's own model says for itself what it was tuned on.
    let own = setting.of_adapters("");
    assert_eq!(said(&own, &rounded, None), Vec::<String>::new());
    let all = versions(&own, rounded.clone(), &setting.data(&own)).unwrap().warnings;
    assert!(all.iter().any(|warning| warning.contains("old.edit") && warning.contains("it was tuned on")), "{all:?}");
}

#[test]
fn an_old_version_behind_virtual_tokens_is_read_too() {
    let setting = Setting::new(DType::F32);
    let text = "{model: stories260k, data: {path: none}, method: {type: prompt_tuning, num_virtual_tokens: 3}}";
    let prompt = recipe::parse(text, "test", &[]).unwrap();
    save_edit(&new_edit(&prompt, &setting.model).unwrap(), &setting.dir("prompt")).unwrap();
    let edit = setting.dir("prompt");
    let recipe = setting.recipe(&format!("edit: '{}'", edit.display()), "mask: old_right");
    let versions = versions(&recipe, setting.model.clone(), &setting.data(&recipe)).unwrap();
    let batch = batch(&setting.model);
    let cx = Context::inference(setting.hooks(&setting.model, "new"), DType::F32);
    let got = versions.loss(&setting.model, &cx, &batch, 1.0);
    assert!(got.sum > 0.0 && got.of_old > 0 && got.of_old < batch.rows.len(), "{} of_old {}", got.sum, got.of_old);
}

#[test]
fn two_passes_of_a_batch_are_refused() {
    let setting = Setting::new(DType::F32);
    let text = format!(
        "{{model: stories260k, data: {{path: none}}, method: adamix, train: {{dtype: f32, compatibility: {{mask: always_old, \
         old: {{edit: '{}'}}}}}}}}",
        setting.dir("old").display()
    );
    let recipe = recipe::parse(&text, "test", &[]).unwrap();
    let stack = EditStack::training(new_edit(&recipe, &setting.model).unwrap());
    let data = prepared(vec![example(vec![1, 5, 6, 2], vec![false, false, true, true], 1)], Vec::new(), &recipe);
    let run = setting.dir("run");
    let message = match Trainer::new(setting.model.clone(), stack, data, &recipe, &run, Start::Fresh) {
        Ok(_) => panic!("not refused"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains("`adamix` compares two passes") && message.contains("consistency_weight: 0"), "{message}");
}
