//! An evaluation that is killed at any moment: what was done is on the disk, is not computed again, and the card is the same.
//!
//! A moment is the file as it is when an evaluation says how far it is: what a kill there leaves. (A process that is really killed:
//! `crates/hone/tests/killed.rs`.) To tell a row that was kept from one that was computed again, the kept ones are changed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_engine::DType;
use hone_eval::evaluate::{EvalOptions, Progress};
use hone_eval::files::read_scorecard;
use hone_eval::rewards::Rewards;
use hone_eval::rewards::ratings::RatingQuestion;
use hone_eval::scorecard::Scorecard;
use hone_eval::{DataRoot, Task, evaluate_to};
use hone_model::{LoadOptions, Model, NoHooks};
use serde_json::Value;

fn model(dtype: DType) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype, keep_quantised: false }).unwrap()
}

/// A task of `yaml` over `count` rows, whose texts begin alike and are of many lengths.
fn task(directory: &Path, count: usize, yaml: &str) -> Task {
    let names = ["Lily", "Tom", "Sue", "Max", "Ben"];
    let things = ["3 balls", "a dog", "2 cats and a bird", "a big red car that was very fast"];
    let row = |i: usize| {
        let text = format!(
            "Once upon a time, there was a little child named {} with {}.{}",
            names[i % 5],
            things[i % 4],
            " It was a sunny day.".repeat(i % 4)
        );
        serde_json::json!({ "text": text, "name": names[i % 5], "i": i }).to_string()
    };
    std::fs::write(directory.join("rows.jsonl"), (0..count).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let file = directory.join("task.yaml");
    std::fs::write(&file, format!("task: killed\ndataset_path: rows.jsonl\n{yaml}")).unwrap();
    Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap()
}

/// The file while it was being written.
struct Moment {
    done: usize,
    part: Vec<u8>,
}

/// Places of the examples whose marks are whole.
fn marked(part: &[u8]) -> Vec<usize> {
    let whole = part.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let place = |line: &[u8]| Some(serde_json::from_slice::<Value>(line).ok()?["example"].as_u64()? as usize);
    whole.filter_map(place).collect()
}

/// Evaluates into `place`; how far it was at first, and every moment at which it was further.
fn run(model: &Model, task: &Task, options: &EvalOptions, place: &Path) -> (usize, Vec<Moment>) {
    let part = place.with_extension("jsonl.part");
    let (mut first, mut moments) = (None, Vec::<Moment>::new());
    let mut progress = |at: &Progress<'_>| {
        first.get_or_insert(at.done);
        if moments.last().is_none_or(|moment| moment.done != at.done) {
            let part = std::fs::read(&part).unwrap_or_default();
            assert_eq!(marked(&part).len(), at.done, "all that is done is on the disk");
            moments.push(Moment { done: at.done, part });
        }
    };
    let (hooks, stop) = (Arc::new(NoHooks), AtomicBool::new(false));
    evaluate_to(place, "", model, hooks, DType::F32, task, options, &mut progress, &stop).unwrap();
    assert!(!part.exists());
    (first.unwrap(), moments)
}

/// A card without the seconds it took.
fn card(place: &Path) -> Scorecard {
    let mut card = read_scorecard(place).unwrap();
    card.header.seconds = 0.0;
    card
}

const KEPT: &str = "This row was kept. ";

/// Evaluates, then again from several moments within a wave. The card, of an evaluation that nobody disturbed.
fn killed_at_any_moment(model: &Model, task: &Task, options: &EvalOptions) -> Scorecard {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("killed.jsonl");
    let (first, moments) = run(model, task, options, &place);
    assert_eq!(first, 0);
    let whole = card(&place);
    let total = whole.rows.len();
    let within: Vec<&Moment> = moments.iter().filter(|at| at.done % 64 != 0 && at.done < total).collect();
    assert!(!within.is_empty(), "no moment within a wave: {:?}", moments.iter().map(|at| at.done).collect::<Vec<_>>());
    let picked = [0, within.len() / 3, 2 * within.len() / 3, within.len() - 1];
    for at in picked {
        let Moment { done, part } = within[at];
        // As it was; then with the last row cut off in its middle.
        for (part, done) in [(&part[..], *done), (&part[..part.len() - 60], done - 1)] {
            std::fs::remove_file(&place).unwrap();
            let kept = marked(part);
            let text = String::from_utf8(part.to_vec()).unwrap();
            let changed = text.replace("\"prompt\":\"", &format!("\"prompt\":\"{KEPT}"));
            std::fs::write(place.with_extension("jsonl.part"), changed).unwrap();
            let (first, moments) = run(model, task, options, &place);
            assert_eq!((first, kept.len()), (done, done));
            assert_eq!(moments.last().map(|at| at.done), Some(total));
            let mut again = card(&place);
            assert_eq!(again.header, whole.header, "gone on from {done}");
            for (at, (row, expected)) in again.rows.iter_mut().zip(&whole.rows).enumerate() {
                let was_kept = row.prompt.strip_prefix(KEPT).map(str::to_owned);
                assert_eq!(was_kept.is_some(), kept.contains(&at), "example {at}, gone on from {done}");
                row.prompt = was_kept.unwrap_or_else(|| row.prompt.clone());
                assert_eq!(row, expected, "example {at}, gone on from {done}");
            }
        }
    }
    whole
}

/// Whether examples were done in another order than their own.
fn out_of_order(moments: &[Moment]) -> bool {
    moments.iter().any(|moment| !marked(&moment.part).is_sorted())
}

#[test]
fn choices() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "output_type: multiple_choice\ndoc_to_text: text\ndoc_to_target: name\n\
        doc_to_choice: [Lily, Tom, Sue, Max, Ben]\nmetric_list: [{metric: acc}, {metric: acc_mutual_info}, {metric: ece}]\n\
        num_fewshot: 1\n";
    let task = task(directory.path(), 70, yaml);
    let options = EvalOptions { batch_tokens: 200, max_length: Some(90), ..EvalOptions::default() };
    let truncated = killed_at_any_moment(&model(DType::F32), &task, &options).header.truncated;
    assert!(truncated > 0 && truncated < 70, "{truncated} prompts were cut");
}

#[test]
fn documents() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: text\n\
        metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n";
    let task = task(directory.path(), 9, yaml);
    let options = EvalOptions { batch_tokens: 40, max_length: Some(24), ..EvalOptions::default() };
    killed_at_any_moment(&model(DType::F32), &task, &options);
}

#[test]
fn texts_drawn_several_times() {
    let (directory, model) = (tempfile::tempdir().unwrap(), model(DType::F32));
    let yaml = "output_type: generate_until\ndoc_to_text: text\ndoc_to_target: name\nrepeats: 3\n\
        generation_kwargs: {until: ['.', '!'], max_gen_toks: 40, do_sample: true, temperature: 0.9, top_p: 0.95}\n\
        metric_list: [{metric: f1}]\n";
    let task = task(directory.path(), 70, yaml);
    let options = EvalOptions::default();
    let whole = killed_at_any_moment(&model, &task, &options);
    let place = directory.path().join("order.jsonl");
    assert!(out_of_order(&run(&model, &task, &options, &place).1), "texts end when they end");
    // Another seed draws other texts; the same one the same.
    let other = EvalOptions { seed: 7, limit: Some(4), ..options };
    run(&model, &task, &other, &place);
    assert_ne!(card(&place).rows, whole.rows[..4]);
}

#[test]
fn texts_behind_prompts_that_were_cut() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "output_type: generate_until\ndoc_to_text: text\ndoc_to_target: name\n\
        generation_kwargs: {until: ['.'], max_gen_toks: 30}\nmetric_list: [{metric: exact_match}]\n";
    let task = task(directory.path(), 40, yaml);
    let options = EvalOptions { max_length: Some(75), ..EvalOptions::default() };
    let truncated = killed_at_any_moment(&model(DType::F32), &task, &options).header.truncated;
    assert!(truncated > 0 && truncated < 40, "{truncated} prompts were cut");
}

const ANSWERS: &str = "output_type: multiple_choice\ndoc_to_text: text\ndoc_to_target: '0'\ntarget_delimiter: ''\n\
    doc_to_choice: \"{{[' ' ~ name ~ ' was happy.', ' The end.', ' ' ~ i]}}\"\nmetric_list: [{metric: best_of}]\n";

#[test]
fn rewards() {
    let directory = tempfile::tempdir().unwrap();
    let (model, rounded) = (model(DType::F32), Arc::new(model(DType::BF16)));
    let task = task(directory.path(), 20, ANSWERS);
    let head: Vec<f32> = (0..model.spec.hidden_size).map(|i| (i % 7) as f32 - 3.0).collect();
    for rewards in [Rewards::Head(Arc::new(head)), Rewards::Implicit { reference: Some(rounded) }] {
        let options =
            EvalOptions { rewards: Some(rewards), batch_tokens: 300, max_length: Some(90), ..EvalOptions::default() };
        killed_at_any_moment(&model, &task, &options);
    }
}

#[test]
fn ratings() {
    let directory = tempfile::tempdir().unwrap();
    let task = task(directory.path(), 6, ANSWERS);
    let question = Arc::new(RatingQuestion::load("judge_rating").unwrap());
    let options = EvalOptions { rewards: Some(Rewards::Ratings(question)), ..EvalOptions::default() };
    killed_at_any_moment(&model(DType::F32), &task, &options);
}

#[test]
fn answers_behind_a_reasoning() {
    let directory = tempfile::tempdir().unwrap();
    let reasoning =
        "reasoning: {cue: ' The child was', max_gen_toks: 40, until: ['the end'], interventions: [cut, wrong]}\n";
    let choices = "output_type: multiple_choice\ndoc_to_text: text\ndoc_to_target: name\n\
        doc_to_choice: [Lily, Tom, Sue, Max, Ben]\nmetric_list: [{metric: acc}]\n";
    let words = "output_type: generate_until\ndoc_to_text: text\ndoc_to_target: name\n\
        generation_kwargs: {until: ['.'], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n";
    for (answers, max_length) in [(choices, 180), (words, 160)] {
        let task = task(directory.path(), 8, &format!("{answers}{reasoning}"));
        let options = EvalOptions { batch_tokens: 300, max_length: Some(max_length), ..EvalOptions::default() };
        let whole = killed_at_any_moment(&model(DType::F32), &task, &options);
        assert!(whole.rows.iter().any(|row| row.reasoning.as_ref().is_some_and(|trace| trace.steps > 1)));
    }
}
