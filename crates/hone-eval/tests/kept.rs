//! What an evaluation leaves for the next one in its place: what rows depend on, who may write, and what a mistake takes away (nothing).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_engine::DType;
use hone_eval::evaluate::{EvalOptions, Progress};
use hone_eval::files::read_scorecard;
use hone_eval::route::Route;
use hone_eval::scorecard::ScorecardHeader;
use hone_eval::{DataRoot, EvalError, Task, evaluate_to};
use hone_model::{LoadOptions, Model, NoHooks};
use serde_json::json;

fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

const CHOICES: &str = "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: a\ndoc_to_choice: [birds, cats]\n\
    metric_list: [{metric: acc}]\n";

/// Questions, the answer of each, and `domain`, which is `law` but for that of the last.
fn rows(directory: &Path, file: &str, count: usize, word: &str) {
    let row = |i: usize| {
        let domain = if i + 1 == count { "lore" } else { "law" };
        json!({ "q": format!("{word} saw {i} of them. She liked the"), "a": i % 2, "domain": domain }).to_string()
    };
    std::fs::write(directory.join(file), (0..count).map(row).collect::<Vec<_>>().join("\n")).unwrap();
}

fn load(directory: &Path, yaml: &str) -> Result<Task, EvalError> {
    let file = directory.join("task.yaml");
    let data = "dataset_kwargs: {data_files: {test: rows.jsonl, train: train.jsonl}}\ntest_split: test\n";
    std::fs::write(&file, format!("task: kept\ndataset_path: json\n{data}{yaml}")).unwrap();
    Task::load(file.to_str().unwrap(), &DataRoot::default())
}

/// Evaluates until so many examples are done; how many were at first, if it began at all, and what came of it.
fn run(
    model: &Model,
    task: &Task,
    options: &EvalOptions,
    place: &Path,
    stop_at: usize,
) -> (Option<usize>, Result<ScorecardHeader, EvalError>) {
    let (stop, mut first) = (AtomicBool::new(false), None);
    let mut progress = |at: &Progress<'_>| {
        first.get_or_insert(at.done);
        stop.store(at.done >= stop_at, Ordering::Relaxed);
    };
    let outcome = evaluate_to(place, "", model, Arc::new(NoHooks), DType::F32, task, options, &mut progress, &stop);
    (first, outcome)
}

#[test]
fn an_evaluation_that_comes_to_nothing_takes_nothing_away() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    rows(directory.path(), "rows.jsonl", 90, "Lily");
    let (place, options) = (directory.path().join("cards/kept.jsonl"), EvalOptions::default());
    let task = load(directory.path(), CHOICES).unwrap();
    assert!(matches!(run(&model, &task, &options, &place, 70).1, Err(EvalError::Stopped { .. })));
    let part = directory.path().join("cards/kept.jsonl.part");
    let left = std::fs::read(&part).unwrap();
    // A task file with a mistake, which the first wave shows.
    let mistaken = load(directory.path(), &CHOICES.replace("doc_to_target: a", "doc_to_target: '{{a + 7}}'")).unwrap();
    assert!(matches!(run(&model, &mistaken, &options, &place, usize::MAX).1, Err(EvalError::TaskFile { .. })));
    assert!(std::fs::read(&part).unwrap() == left, "a mistake");
    // Other settings, stopped at once.
    let other = EvalOptions { seed: 5, max_length: Some(64), ..EvalOptions::default() };
    assert!(matches!(run(&model, &task, &other, &place, 0), (Some(0), Err(EvalError::Stopped { .. }))));
    assert!(std::fs::read(&part).unwrap() == left, "second thoughts");
    let (from, header) = run(&model, &task, &options, &place, usize::MAX);
    assert!(from.is_some_and(|from| from >= 70) && header.unwrap().n == 90, "{from:?}");
}

#[test]
fn a_card_is_made_by_one_at_a_time() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    rows(directory.path(), "rows.jsonl", 5, "Lily");
    let (place, options) = (directory.path().join("kept.jsonl"), EvalOptions::default());
    let task = load(directory.path(), CHOICES).unwrap();
    let (stop, mut refusals) = (AtomicBool::new(false), Vec::new());
    let mut progress = |_: &Progress<'_>| refusals.push(run(&model, &task, &options, &place, usize::MAX));
    let hooks = Arc::new(NoHooks);
    evaluate_to(&place, "", &model, hooks, DType::F32, &task, &options, &mut progress, &stop).unwrap();
    assert!(!refusals.is_empty());
    for (began, outcome) in refusals {
        let error = outcome.unwrap_err();
        assert!(began.is_none() && matches!(error, EvalError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("kept.jsonl: another process is making this scorecard"), "{error}");
    }
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("kept.jsonl.")), "{names:?}");
    assert_eq!(run(&model, &task, &options, &place, usize::MAX).0, None, "done is done");
}

#[test]
fn other_shots_make_another_card() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    rows(directory.path(), "rows.jsonl", 6, "Lily");
    rows(directory.path(), "train.jsonl", 4, "Tom");
    let place = directory.path().join("kept.jsonl");
    let task = load(directory.path(), &format!("{CHOICES}training_split: train\nnum_fewshot: 1\n")).unwrap();
    let none = EvalOptions { num_fewshot: Some(0), ..EvalOptions::default() };
    let one = EvalOptions::default();
    let prompt = || read_scorecard(&place).unwrap().rows[0].prompt.clone();
    let began = |options: &EvalOptions| {
        let (from, outcome) = run(&model, &task, options, &place, usize::MAX);
        outcome.unwrap();
        from.is_some()
    };
    assert!(began(&one) && prompt().contains("Tom") && !began(&one));
    rows(directory.path(), "train.jsonl", 4, "Ben");
    assert!(began(&one) && prompt().contains("Ben"), "{}", prompt());
    // Where no shot is drawn the pool is nothing to the rows.
    assert!(began(&none) && !prompt().contains("Ben"));
    rows(directory.path(), "train.jsonl", 4, "Tom");
    assert!(!began(&none));
    // Which edit answers is something to them, though here all edits are the same.
    let route = |group: u32| {
        let groups = vec![("law".to_string(), group), ("lore".to_string(), 2)];
        EvalOptions { route: Some(Route { column: "domain".into(), groups }), ..none.clone() }
    };
    assert!(began(&route(1)) && !began(&route(1)) && began(&route(2)));
}

#[test]
fn a_row_that_names_no_edit_is_found_before_anything_is_scored() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    rows(directory.path(), "rows.jsonl", 130, "Lily");
    let task = load(directory.path(), CHOICES).unwrap();
    let route = Route { column: "domain".into(), groups: vec![("law".into(), 1)] };
    let options = EvalOptions { route: Some(route), ..EvalOptions::default() };
    let place = directory.path().join("cards/kept.jsonl");
    let (began, outcome) = run(&model, &task, &options, &place, usize::MAX);
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("row 130") && message.contains("`domain` is `lore`, which no edit is for"), "{message}");
    assert!(began.is_none() && !directory.path().join("cards").exists(), "nothing was scored");
    assert!(options.allow(&task).is_err(), "and a program may ask before it loads a model");
    // Nobody asks for the last one.
    let fewer = EvalOptions { limit: Some(2), ..options };
    assert!(run(&model, &task, &fewer, &place, usize::MAX).1.is_ok());
}

#[test]
fn a_document_without_a_byte_and_a_target_of_white_space_leave_a_card_that_is_read() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let texts = ["Once upon a time there was a dog.", "", "The cat ran.", " "];
    let lines = texts.map(|text| json!({ "text": text, "q": "A dog" }).to_string());
    std::fs::write(directory.path().join("rows.jsonl"), lines.join("\n")).unwrap();
    let all = "metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}, {metric: byte_perplexity}]\n";
    for (kind, limit) in [("output_type: loglikelihood_rolling\ndoc_to_target: text", 4), TARGETS] {
        let place = directory.path().join("kept.jsonl");
        let task = load(directory.path(), &format!("{kind}\n{all}")).unwrap();
        let options = EvalOptions { limit: Some(limit), ..EvalOptions::default() };
        run(&model, &task, &options, &place, usize::MAX).1.unwrap();
        let text = std::fs::read_to_string(&place).unwrap();
        let scored = text.lines().skip(1).collect::<String>();
        assert!(!scored.contains("null"), "{scored}");
        let card = read_scorecard(&place).unwrap();
        let bits = &card.header.metrics[0];
        let (sum, bytes) = card.rows.iter().fold((0.0, 0.0), |(sum, bytes), row| {
            let part = &row.parts["bits_per_byte"];
            (sum + row.target_score.as_ref().unwrap().log_likelihood, bytes + part[1])
        });
        assert!((bits.value - -sum / bytes / 2f64.ln()).abs() < 1e-9, "{} {sum} {bytes}", bits.value);
        assert!(card.rows.iter().all(|row| row.scores.values().all(|score| (0.0..1e9).contains(score))));
    }
}

/// The rows that have a target: white space is one.
const TARGETS: (&str, usize) =
    ("output_type: loglikelihood\ndoc_to_text: q\ndoc_to_target: '{{text if text else \" \"}}'", 4);
