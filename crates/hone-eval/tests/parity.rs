//! The same numbers as lm-evaluation-harness (`tools/golden/lm_eval_parity.py`): requests to the character, log-likelihoods of
//! every example, generated texts, scores and standard errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_engine::DType;
use hone_eval::evaluate::{EvalOptions, evaluate};
use hone_eval::scorecard::{Scorecard, ScorecardRow};
use hone_eval::task::data::hex;
use hone_eval::task::{PromptOptions, Prompts, Question};
use hone_eval::{DataRoot, Task};
use hone_model::{LoadOptions, Model, NoHooks};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Golden {
    tasks: BTreeMap<String, GoldenTask>,
}

#[derive(Deserialize)]
struct GoldenTask {
    results: BTreeMap<String, Value>,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    id: usize,
    requests_sha256: String,
    first_request: Vec<String>,
    answers: Vec<Answer>,
    filter: String,
    metrics: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    LogLikelihood(f64, bool),
    Document(f64),
    Text(String),
}

/// The harness adds in f32: a sum of hundreds of log-probabilities is good to a few parts in ten million.
fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-3 + 1e-6 * expected.abs()
}

fn parity(model: &Model, golden: &str) {
    let golden: Golden = serde_json::from_str(golden).unwrap();
    for (name, expected) in golden.tasks {
        let (task_name, chat) = name.strip_suffix("+chat").map_or((name.as_str(), false), |name| (name, true));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/parity/{task_name}.yaml"));
        let task = Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
        requests(model, &task, chat, &expected, &name);
        let options = EvalOptions {
            chat_template: chat,
            max_length: Some(512),
            bootstrap_iterations: 2000,
            ..EvalOptions::default()
        };
        let stop = AtomicBool::new(false);
        let card = evaluate(model, Arc::new(NoHooks), DType::F32, &task, &options, &mut |_| {}, &stop).unwrap();
        let mut largest: f64 = 0.0;
        for example in &expected.examples {
            let row = &card.rows[example.id];
            largest = largest.max(answers(row, example, &name));
            scores(row, example, &task, &name);
        }
        results(&card, &expected.results, &name);
        println!("{name}: {} examples, largest difference of a log-likelihood {largest:.2e}", expected.examples.len());
    }
}

/// The texts that are scored, to the character.
fn requests(model: &Model, task: &Task, chat: bool, expected: &GoldenTask, name: &str) {
    let options = PromptOptions { seed: 1234, multiturn: chat, ..PromptOptions::default() };
    let template = model.template.as_ref().filter(|_| chat);
    let mut prompts = Prompts::new(task, template, &options).unwrap();
    let items: Vec<_> = (0..task.docs.len()).map(|i| prompts.item(i).unwrap()).collect();
    for example in &expected.examples {
        let mut texts: Vec<String> = Vec::new();
        match &items[example.id].question {
            Question::Choices { contexts, continuations, .. } => {
                for i in 0..contexts.len().max(continuations.len()) {
                    texts.push(contexts[i.min(contexts.len() - 1)].clone());
                    texts.push(continuations[i.min(continuations.len() - 1)].clone());
                }
                if task.metrics.iter().any(|m| m.needs_unconditional()) {
                    texts.extend(continuations.iter().flat_map(|c| [String::new(), c.clone()]));
                }
            }
            Question::Target { context, continuation } => texts.extend([context.clone(), continuation.clone()]),
            Question::Document { text, .. } => texts.push(text.clone()),
            Question::Generate { context, .. } => texts.push(context.clone()),
        }
        assert_eq!(texts[..example.first_request.len()], example.first_request, "{name} {}", example.id);
        let hash = hex(&Sha256::digest(texts.join("\x1f")));
        assert_eq!(hash, example.requests_sha256, "{name} {}: {texts:?}", example.id);
    }
}

/// What the model answered; returns the largest difference.
fn answers(row: &ScorecardRow, example: &Example, name: &str) -> f64 {
    let mut largest: f64 = 0.0;
    let mut check = |found: f64, expected: f64| {
        largest = largest.max((found - expected).abs());
        assert!(close(found, expected), "{name} {}: {found}, expected {expected}", example.id);
    };
    for (i, answer) in example.answers.iter().enumerate() {
        match answer {
            Answer::Document(expected) => check(row.target_score.as_ref().unwrap().log_likelihood, *expected),
            Answer::Text(expected) => assert_eq!(&row.answer, expected, "{name} {}", example.id),
            Answer::LogLikelihood(expected, greedy) => {
                // Beyond the choices come their log-likelihoods without the prompt, which only the metric shows.
                let Some(found) = row.choices.get(i).or(row.target_score.as_ref().filter(|_| i == 0)) else { continue };
                check(found.log_likelihood, *expected);
                assert_eq!(found.is_greedy, *greedy, "{name} {}", example.id);
            }
        }
    }
    largest
}

/// The example's score on every metric.
fn scores(row: &ScorecardRow, example: &Example, task: &Task, name: &str) {
    for (metric, expected) in &example.metrics {
        let column =
            if task.config.filter_list.is_some() { format!("{metric},{}", example.filter) } else { metric.clone() };
        let parts = row.parts.get(&column);
        let what = format!("{name} {} {column}", example.id);
        match expected {
            Value::Array(pair) if metric == "brier_score" => {
                let gold = pair[0].as_u64().unwrap() as usize;
                let probabilities = pair[1].as_array().unwrap().iter().enumerate();
                let brier = probabilities.map(|(i, p)| (p.as_f64().unwrap() - f64::from(i == gold)).powi(2)).sum();
                assert!(close(row.scores[&column], brier), "{what}");
            }
            // The harness keeps reference and text, which are compared as answers; the score is the corpus'.
            Value::Array(_) if metric == "bleu" => {}
            Value::Array(pair) => {
                for (found, expected) in parts.unwrap().iter().zip(pair) {
                    assert!(close(*found, expected.as_f64().unwrap()), "{what}: {found}, expected {expected}");
                }
            }
            Value::Number(number) if metric == "perplexity" => {
                assert!(close(parts.unwrap()[0], number.as_f64().unwrap()), "{what}");
            }
            Value::Number(number) => assert_eq!(row.scores[&column], number.as_f64().unwrap(), "{what}"),
            other => panic!("{what}: {other}"),
        }
    }
}

/// The task's scores and their standard errors.
fn results(card: &Scorecard, expected: &BTreeMap<String, Value>, name: &str) {
    for metric in &card.header.metrics {
        let (plain, filter) = metric.name.split_once(',').unwrap_or((&metric.name, "none"));
        let near = |found: f64, key: String| {
            let expected = expected[&key].as_f64().unwrap();
            // Perplexities multiply the differences of log-likelihoods up.
            assert!(
                (found - expected).abs() <= 1e-9 + 1e-4 * expected.abs(),
                "{name} {key}: {found}, expected {expected}"
            );
        };
        near(metric.value, format!("{plain},{filter}"));
        let stderr = format!("{plain}_stderr,{filter}");
        match metric.stderr {
            Some(found) => near(found, stderr),
            None => assert_eq!(expected[&stderr], "N/A", "{name} {stderr}"),
        }
    }
    assert_eq!(card.header.metrics.len() * 2, expected.len(), "{name}: {expected:?}");
}

fn load(path: &Path) -> Model {
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

#[test]
fn the_model_in_the_tree_scores_as_in_the_harness() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    parity(&load(&path), include_str!("golden/lm_eval_stories260k.json"));
}

#[test]
fn smollm2_scores_as_in_the_harness() {
    let cache = std::env::var_os("HONE_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/hone"));
    let file = cache.or(home).unwrap_or_default().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !file.is_file() {
        eprintln!("skipped: no {}", file.display());
        return;
    }
    parity(&load(&file), include_str!("golden/lm_eval_smollm2.json"));
}
