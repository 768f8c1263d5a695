//! Whole evaluations on the model in the tree.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_engine::DType;
use hone_eval::evaluate::{EvalOptions, Progress, evaluate};
use hone_eval::files::read_scorecard;
use hone_eval::requests::{Encoder, Request};
use hone_eval::scorecard::Scorecard;
use hone_eval::scorer::{Scorer, score_text};
use hone_eval::{DataRoot, EvalError, Task, evaluate_to};
use hone_model::{LoadOptions, Model, NoHooks};

fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn task(name: &str) -> Task {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity").join(format!("{name}.yaml"));
    Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap()
}

fn card(model: &Model, name: &str, options: &EvalOptions) -> Scorecard {
    let stop = AtomicBool::new(false);
    evaluate(model, Arc::new(NoHooks), DType::F32, &task(name), options, &mut |_| {}, &stop).unwrap()
}

fn scorer(model: &Model, batch_tokens: usize) -> Scorer<'_> {
    Scorer { model, hooks: Arc::new(NoHooks), dtype: DType::F32, batch_tokens }
}

#[test]
fn batch_size_never_changes_a_score() {
    let model = model();
    for name in ["parity_arc", "parity_winogrande", "parity_pages", "parity_lambada"] {
        let with =
            |batch_tokens| card(&model, name, &EvalOptions { batch_tokens, limit: Some(8), ..Default::default() });
        let (one_by_one, together) = (with(1), with(4096));
        // To the bit, not only nearly.
        assert_eq!(one_by_one.rows, together.rows, "{name}");
    }
}

#[test]
fn shared_prefixes_score_as_whole_sequences_do() {
    let model = model();
    let encoder = Encoder::new(&model, None).unwrap();
    let context = "Once upon a time, there was a little girl named";
    let group: Vec<Request> = [" Lily.", " Lily and a dog.", " Tom", " a", ". She was very happy"]
        .iter()
        .map(|continuation| encoder.request(context, continuation).unwrap().unwrap())
        .collect();
    let scorer = scorer(&model, 1024);
    let together = scorer.score(std::slice::from_ref(&group), &mut |_| Ok(())).unwrap().swap_remove(0);
    let alone: Vec<Vec<Request>> = group.into_iter().map(|request| vec![request]).collect();
    let alone = scorer.score(&alone, &mut |_| Ok(())).unwrap();
    for (shared, alone) in together.iter().zip(alone.iter().flatten()) {
        assert_eq!(shared.is_greedy, alone.is_greedy);
        for (a, b) in shared.log_probs.iter().zip(&alone.log_probs) {
            assert!((a - b).abs() <= 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn white_space_may_stand_on_either_side_of_the_boundary() {
    let model = model();
    let encoder = Encoder::new(&model, None).unwrap();
    for (context, continuation) in [("Once upon a time", " there was"), ("She said:\n", "hello"), ("a \n\t ", "b")] {
        let moved = context.trim_end();
        let whole = format!("{}{continuation}", &context[moved.len()..]);
        assert_eq!(encoder.pair(context, continuation).unwrap(), encoder.pair(moved, &whole).unwrap());
    }
}

#[test]
fn windows_predict_every_token_once() {
    let model = model();
    let ids: Vec<u32> = (10..10 + 37).collect();
    for length in [1, 2, 4, 7, 36, 37, 38, 100] {
        let windows = Encoder::new(&model, Some(length)).unwrap().windows(1, &ids);
        let predicted: Vec<u32> = windows.iter().flat_map(|w| w.targets.clone()).collect();
        assert_eq!(predicted, ids, "{length}");
        for window in &windows {
            assert!(window.input.len() <= length && window.targets.len() <= window.input.len());
        }
    }
    // The harness' example: 10 tokens, length 4.
    let ten: Vec<u32> = (0..10).collect();
    let windows = Encoder::new(&model, Some(4)).unwrap().windows(99, &ten);
    let shown: Vec<_> = windows.iter().map(|w| (w.input.as_slice(), w.targets.as_slice())).collect();
    let expected: [(&[u32], &[u32]); 3] =
        [(&[99, 0, 1, 2], &[0, 1, 2, 3]), (&[3, 4, 5, 6], &[4, 5, 6, 7]), (&[5, 6, 7, 8], &[8, 9])];
    assert_eq!(shown, expected);
}

#[test]
fn long_prompts_are_cut_from_the_left_and_counted() {
    let model = model();
    let short = EvalOptions { max_length: Some(48), limit: Some(4), ..Default::default() };
    assert_eq!(card(&model, "parity_lambada", &short).header.truncated, 4);
    assert_eq!(card(&model, "parity_arc", &EvalOptions { limit: Some(4), ..Default::default() }).header.truncated, 0);
    let encoder = Encoder::new(&model, Some(8)).unwrap();
    let request = encoder.request("one two three four five six seven", " eight").unwrap().unwrap();
    assert_eq!(request.input.len(), 8);
    let whole = Encoder::new(&model, None).unwrap().request("one two three four five six seven", " eight");
    assert!(whole.unwrap().unwrap().input.ends_with(&request.input));
    let error = encoder.request("a", " one two three four five six seven").unwrap().unwrap_err();
    assert!(error.contains("over the model's length of 8"), "{error}");
    let error = encoder.request("a", "").unwrap().unwrap_err();
    assert!(error.contains("no tokens of its own"), "{error}");
    assert!(encoder.prompt("a b c", 8).unwrap().unwrap_err().contains("max_gen_toks"));
}

#[test]
fn generations_are_scored_under_every_filter() {
    let model = model();
    let options = EvalOptions { limit: Some(3), num_fewshot: Some(1), ..Default::default() };
    let card = card(&model, "parity_gsm8k", &options);
    assert_eq!(card.header.main_metric, "exact_match,strict-match");
    let names: Vec<&str> = card.header.metrics.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["exact_match,strict-match", "exact_match,flexible-extract"]);
    assert!(card.rows.iter().all(|row| !row.answer.is_empty() && !row.answer.contains("Question:")));
    assert_eq!((card.header.num_fewshot, card.header.fewshot_seed, card.rows.len()), (1, 1234, 3));
}

#[test]
fn a_text_scores_token_by_token() {
    let model = model();
    let text = "Once upon a time, there was a little girl named Lily.";
    let score = score_text(&scorer(&model, 1024), text).unwrap();
    assert_eq!(score.tokens.len(), score.ids.len());
    assert_eq!(score.logprobs.len(), score.ids.len() - 1);
    assert_eq!(score.ids[0], 1, "the tokenizer puts a beginning-of-text token first, which is not predicted");
    let mean = score.logprobs.iter().map(|p| f64::from(*p)).sum::<f64>() / score.logprobs.len() as f64;
    assert!((score.perplexity - (-mean).exp()).abs() < 1e-9 && score.perplexity < 20.0, "{}", score.perplexity);
    let longer = score_text(&scorer(&model, 1024), &text.repeat(60)).unwrap();
    assert!(longer.ids.len() > model.spec.max_position_embeddings);
    assert_eq!(longer.logprobs.len(), longer.ids.len() - 1);
}

#[test]
fn an_evaluation_says_how_far_it_is_and_stops_when_told() {
    let model = model();
    let stop = AtomicBool::new(false);
    let mut seen = Vec::new();
    let options = EvalOptions { batch_tokens: 1, limit: Some(10), ..Default::default() };
    let mut progress = |p: &Progress<'_>| {
        seen.push((p.done, p.total));
        if p.done == 4 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let task = task("parity_boolq");
    let stopped = evaluate(&model, Arc::new(NoHooks), DType::F32, &task, &options, &mut progress, &stop);
    assert!(matches!(stopped, Err(EvalError::Stopped { done: 4, total: 10, .. })), "{stopped:?}");
    assert_eq!(seen, [(0, 10), (1, 10), (2, 10), (3, 10), (4, 10)]);
}

/// Two waves and a bit, stopped within the second.
#[test]
fn a_stopped_evaluation_goes_on_where_it_was_and_ends_the_same() {
    let (model, directory) = (model(), tempfile::tempdir().unwrap());
    let rows: Vec<String> = (0..150)
        .map(|i| format!(r#"{{"a": "Lily saw {i} birds and {} cats. She liked the", "b": {}}}"#, i * i % 17, i % 3 / 2))
        .collect();
    std::fs::write(directory.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let yaml = "task: many\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
        num_fewshot: 2\nfewshot_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{a}}'\ndoc_to_target: b\ndoc_to_choice: [birds, cats]\n\
        metric_list: [{metric: acc}, {metric: f1}]\n";
    std::fs::write(directory.path().join("many.yaml"), yaml).unwrap();
    let load = || Task::load(directory.path().join("many.yaml").to_str().unwrap(), &DataRoot::default()).unwrap();
    let (task, options) = (load(), EvalOptions::default());
    let place = directory.path().join("cards/many.jsonl");
    let run = |contents: &str, stop_at: usize| {
        let (stop, mut first) = (AtomicBool::new(false), None);
        let mut progress = |p: &Progress<'_>| {
            first.get_or_insert(p.done);
            stop.store(p.done >= stop_at, Ordering::Relaxed);
        };
        let (hooks, dtype) = (Arc::new(NoHooks), DType::F32);
        let outcome = evaluate_to(&place, contents, &model, hooks, dtype, &task, &options, &mut progress, &stop);
        (first, outcome)
    };
    assert!(matches!(run("edit", 70), (Some(0), Err(EvalError::Stopped { .. }))));
    assert!(!place.exists(), "a scorecard is whole or not there");
    let (from, header) = run("edit", usize::MAX);
    assert!(from.is_some_and(|from| (70..128).contains(&from)), "what was done stays, a whole wave or not: {from:?}");
    let whole = evaluate(&model, Arc::new(NoHooks), DType::F32, &task, &options, &mut |_| {}, &AtomicBool::new(false));
    let (whole, read) = (whole.unwrap(), read_scorecard(&place).unwrap());
    assert!(read.rows == whole.rows && read.header.metrics == whole.header.metrics);
    assert_eq!(read.header, header.unwrap());
    assert_eq!(std::fs::read_dir(directory.path().join("cards")).unwrap().count(), 1, "the part is gone");
    // A finished card is not made again.
    let bytes = std::fs::read(&place).unwrap();
    let (from, again) = run("edit", 0);
    assert_eq!((from, again.unwrap()), (None, read.header));
    assert_eq!(std::fs::read(&place).unwrap(), bytes);
    // Another edit's is, and what another edit left is not gone on with.
    assert!(matches!(run("another edit", 70), (Some(0), Err(EvalError::Stopped { .. }))));
    assert_eq!(run("a third edit", usize::MAX).0, Some(0));
    assert_eq!(run("edit", usize::MAX).0, Some(0));
}

#[test]
fn a_chat_template_is_asked_for_in_vain_where_there_is_none() {
    let model = model();
    let options = EvalOptions { chat_template: true, ..Default::default() };
    let stop = AtomicBool::new(false);
    let error = evaluate(&model, Arc::new(NoHooks), DType::F32, &task("parity_arc"), &options, &mut |_| {}, &stop);
    assert!(error.unwrap_err().to_string().contains("has no chat template"));
}
