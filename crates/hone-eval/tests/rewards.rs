//! Rewards: a reward model's against `transformers` (`tools/golden/rewards.py`), implicit ones against what the scorer says, and
//! ratings that cannot be read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_engine::DType;
use hone_eval::requests::{Encoder, Request};
use hone_eval::rewards::Rewards;
use hone_eval::rewards::ratings::RatingQuestion;
use hone_eval::scorecard::Scorecard;
use hone_eval::{DataRoot, EvalError, EvalOptions, Scorer, Task, evaluate};
use hone_model::model::reward::RewardModel;
use hone_model::{LoadOptions, Model, NoHooks};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::Deserialize;

fn stories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k")
}

const OPTIONS: LoadOptions = LoadOptions { dtype: DType::F32, keep_quantised: false };

#[derive(Deserialize)]
struct Golden {
    head: Vec<f32>,
    tensors: Vec<(String, Vec<usize>)>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    f32: Vec<f64>,
    bf16: Vec<f64>,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rewards.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The model in the tree with a head of `labels` rows instead of its LM head, as `transformers` saves it.
fn reward_model(directory: &Path, head: &[f32], labels: usize) -> PathBuf {
    let place = directory.join(format!("rm{labels}"));
    std::fs::create_dir_all(&place).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(stories().join(file), place.join(file)).unwrap();
    }
    let bytes = std::fs::read(stories().join("model.safetensors")).unwrap();
    let own = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: HashMap<String, TensorView<'_>> = own.tensors().into_iter().collect();
    tensors.remove("lm_head.weight");
    let raw: Vec<u8> = head.iter().cycle().take(head.len() * labels).flat_map(|w| w.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![labels, head.len()], &raw).unwrap();
    tensors.insert("score.weight".into(), view);
    std::fs::write(place.join("model.safetensors"), serialize(tensors, None).unwrap()).unwrap();
    place
}

fn load(place: &Path, dtype: DType) -> RewardModel {
    RewardModel::load(place.to_str().unwrap(), LoadOptions { dtype, ..OPTIONS }).unwrap()
}

fn go_on<T>(_: &[T]) -> Result<(), EvalError> {
    Ok(())
}

fn read(loaded: &RewardModel, dtype: DType, groups: &[Vec<Request>], batch_tokens: usize) -> Vec<f64> {
    let scorer = Scorer { model: &loaded.model, hooks: Arc::new(NoHooks), dtype, batch_tokens };
    scorer.read(&loaded.head, groups, &mut go_on).unwrap().concat()
}

#[test]
fn a_reward_models_numbers_are_those_of_transformers() {
    let (directory, golden) = (tempfile::tempdir().unwrap(), golden());
    let place = reward_model(directory.path(), &golden.head, 1);
    let bytes = std::fs::read(place.join("model.safetensors")).unwrap();
    let ours = SafeTensors::deserialize(&bytes).unwrap();
    for (name, shape) in &golden.tensors {
        assert_eq!(ours.tensor(name).unwrap().shape(), shape, "{name}, as save_pretrained writes it");
    }
    let loaded = load(&place, DType::F32);
    let encoder = Encoder::new(&loaded.model, None).unwrap();
    let groups: Vec<Vec<Request>> = golden
        .texts
        .iter()
        .zip(&golden.ids)
        .map(|(text, ids)| {
            assert_eq!(&encoder.encode(text).unwrap(), ids, "{text}");
            vec![Request { input: ids.clone(), targets: vec![0], truncated: false, edit_group: None }]
        })
        .collect();
    let found = read(&loaded, DType::F32, &groups, 1024);
    for (found, expected) in found.iter().zip(&golden.f32) {
        assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{found}, expected {expected}");
    }
    // In bf16 no further from the exact numbers than 1.5 times what `transformers` is.
    let rounded = read(&load(&place, DType::BF16), DType::BF16, &groups, 1024);
    let distance = |values: &[f64]| values.iter().zip(&golden.f32).map(|(a, b)| (a - b).abs()).sum::<f64>();
    assert!(distance(&rounded) <= 1.5 * distance(&golden.bf16), "{rounded:?} against {:?}", golden.bf16);
    // Whatever shares the batch, and with a common beginning or not.
    assert_eq!(read(&loaded, DType::F32, &groups, 1), found);
    let together = read(&loaded, DType::F32, &[groups.concat()], 1024);
    for (together, alone) in together.iter().zip(&found) {
        assert!((together - alone).abs() <= 1e-5 * alone.abs(), "{together} {alone}");
    }
}

#[test]
fn other_heads_and_other_models_are_refused_by_name() {
    let (directory, golden) = (tempfile::tempdir().unwrap(), golden());
    let two = reward_model(directory.path(), &golden.head, 2);
    let message = RewardModel::load(two.to_str().unwrap(), OPTIONS).err().unwrap().to_string();
    assert!(message.contains("[2, 64]") && message.contains("num_labels: 1"), "{message}");
    let message = RewardModel::load(stories().to_str().unwrap(), OPTIONS).err().unwrap().to_string();
    assert!(message.contains("score.weight") && message.contains("--rewards implicit"), "{message}");
    let one = reward_model(directory.path(), &golden.head, 1);
    let message = Model::load(one.to_str().unwrap(), OPTIONS).err().unwrap().to_string();
    assert!(message.contains("--rewards head"), "{message}");
}

/// Three items with one right completion of three, and a task of ties over two prompts.
fn task(directory: &Path, yaml: &str) -> Result<Task, EvalError> {
    let rows = r#"{"group": "a", "prompt": "Once upon a time,", "chosen": [" there was a girl"], "rejected": [" xyzzy", " a", "!"]}
{"group": "a", "prompt": "Tom had", "chosen": [" a ball", " a dog"], "rejected": [" zzz zz"]}
{"group": "b", "prompt": "Lily was", "chosen": [" happy"], "rejected": [" the the", "?"]}
"#;
    std::fs::write(directory.join("rows.jsonl"), rows).unwrap();
    let file = directory.join("task.yaml");
    let own = "task: pick\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
        output_type: multiple_choice\ndoc_to_text: prompt\ndoc_to_choice: '{{chosen + rejected}}'\n\
        doc_to_target: '{{range(chosen|length)|list}}'\ntarget_delimiter: ''\n";
    std::fs::write(&file, format!("{own}{yaml}")).unwrap();
    Task::load(file.to_str().unwrap(), &DataRoot::default())
}

fn card(model: &Model, task: &Task, rewards: Rewards) -> Result<Scorecard, EvalError> {
    let options = EvalOptions { rewards: Some(rewards), ..EvalOptions::default() };
    let stop = AtomicBool::new(false);
    evaluate(model, Arc::new(NoHooks), DType::F32, task, &options, &mut |_| {}, &stop)
}

const BEST: &str = "metric_list: [{metric: best_of}]\n";

#[test]
fn rows_hold_the_rewards_and_the_metric_follows_them() {
    let (directory, golden) = (tempfile::tempdir().unwrap(), golden());
    let loaded = load(&reward_model(directory.path(), &golden.head, 1), DType::F32);
    let task = task(directory.path(), BEST).unwrap();
    let card = card(&loaded.model, &task, Rewards::Head(Arc::new(loaded.head.clone()))).unwrap();
    assert_eq!(card.header.rewards.as_deref(), Some("head"));
    let encoder = Encoder::new(&loaded.model, None).unwrap();
    let mut sum = 0.0;
    for (row, prompt) in card.rows.iter().zip(["Once upon a time,", "Tom had", "Lily was"]) {
        assert!(row.choices.is_empty(), "nothing stands where log-likelihoods would");
        for completion in &row.rewards {
            let ids = encoder.encode(&format!("{prompt}{}", completion.text)).unwrap();
            let alone = [vec![Request { input: ids, targets: vec![0], truncated: false, edit_group: None }]];
            let expected = read(&loaded, DType::F32, &alone, 1024)[0];
            assert!((completion.reward - expected).abs() < 1e-3, "{completion:?}, expected {expected}");
            assert_eq!(completion.characters, completion.text.chars().count());
        }
        let best = row.rewards.iter().map(|c| c.reward).fold(f64::NEG_INFINITY, f64::max);
        let hit = row.rewards.iter().any(|c| c.right && c.reward == best);
        assert_eq!(row.score, f64::from(hit));
        sum += row.score;
    }
    assert_eq!(card.rows[1].rewards.iter().filter(|c| c.right).count(), 2);
    assert!((card.header.metrics[0].value - sum / 3.0).abs() < 1e-12);
}

#[test]
fn implicit_rewards_are_what_one_model_finds_likelier_than_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let model = Model::load(stories().to_str().unwrap(), OPTIONS).unwrap();
    let task = task(directory.path(), BEST).unwrap();
    // Against itself every reward is 0, and the credit is shared: 1/4, 2/3, 1/3.
    let same = card(&model, &task, Rewards::Implicit { reference: None }).unwrap();
    assert!(same.rows.iter().flat_map(|row| &row.rewards).all(|c| c.reward == 0.0));
    let scores: Vec<f64> = same.rows.iter().map(|row| row.score).collect();
    assert_eq!(scores, [0.25, 2.0 / 3.0, 1.0 / 3.0]);
    // Against the model with rounded weights: the difference of the log-likelihoods.
    let rounded =
        Arc::new(Model::load(stories().to_str().unwrap(), LoadOptions { dtype: DType::BF16, ..OPTIONS }).unwrap());
    let found = card(&model, &task, Rewards::Implicit { reference: Some(rounded.clone()) }).unwrap();
    let encoder = Encoder::new(&model, None).unwrap();
    let mut differ = false;
    for (row, prompt) in found.rows.iter().zip(["Once upon a time,", "Tom had", "Lily was"]) {
        for completion in &row.rewards {
            let group = vec![vec![encoder.request(prompt, &completion.text).unwrap().unwrap()]];
            let likely = |model: &Model| {
                let scorer = Scorer { model, hooks: Arc::new(NoHooks), dtype: DType::F32, batch_tokens: 1024 };
                scorer.score(&group, &mut go_on).unwrap()[0][0].log_likelihood()
            };
            let expected = likely(&model) - likely(&rounded);
            assert!((completion.reward - expected).abs() < 1e-4, "{completion:?}, expected {expected}");
            assert_eq!(completion.tokens, group[0][0].targets.len());
            differ |= completion.reward != 0.0;
        }
    }
    assert!(differ, "rounding changes something");
}

#[test]
fn a_reply_without_a_number_counts_as_less_than_any() {
    let directory = tempfile::tempdir().unwrap();
    let model = Model::load(stories().to_str().unwrap(), OPTIONS).unwrap();
    let task = task(directory.path(), BEST).unwrap();
    let question = Arc::new(RatingQuestion::load("judge_rating").unwrap());
    let card = card(&model, &task, Rewards::Ratings(question)).unwrap();
    for completion in card.rows.iter().flat_map(|row| &row.rewards) {
        let reply = completion.reply.as_deref().unwrap();
        // A model of children's stories writes no ratings; should it write a digit, that is one.
        let expected = reply.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').find_map(|word| {
            word.parse::<u32>().ok().filter(|n| (1..=10).contains(n) && !word.starts_with('0')).map(f64::from)
        });
        assert_eq!(completion.reward, expected.unwrap_or(-1.0), "{reply:?}");
    }
}

#[test]
fn tasks_that_rewards_are_not_for_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let model = Model::load(stories().to_str().unwrap(), OPTIONS).unwrap();
    let refused = |yaml: &str| {
        let loaded = task(directory.path(), yaml);
        let error = loaded.and_then(|task| card(&model, &task, Rewards::Implicit { reference: None }));
        error.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let message = refused("metric_list: [{metric: best_of}, {metric: acc_norm}]\n");
    assert!(message.contains("`acc_norm` needs log-likelihoods"), "{message}");
    let message = refused("metric_list: [{metric: best_of, rule: ties}]\n");
    assert!(message.contains("doc_to_group"), "{message}");
    let message = refused("metric_list: [{metric: best_of, rule: worst}]\n");
    assert!(message.contains("`best` or `ties`"), "{message}");
    let message = RatingQuestion::load("boolq").err().unwrap().to_string();
    assert!(message.contains("one filter list"), "{message}");
}

#[test]
fn a_set_of_ties_is_scored_over_prompts() {
    let (directory, golden) = (tempfile::tempdir().unwrap(), golden());
    let loaded = load(&reward_model(directory.path(), &golden.head, 1), DType::F32);
    let task = task(directory.path(), "doc_to_group: group\nmetric_list: [{metric: best_of, rule: ties}]\n").unwrap();
    let card = card(&loaded.model, &task, Rewards::Head(Arc::new(loaded.head))).unwrap();
    let reward = |row: usize, i: usize| card.rows[row].rewards[i].reward;
    let highest = |row: usize, from: usize| {
        (from..card.rows[row].rewards.len()).map(|i| reward(row, i)).fold(f64::NEG_INFINITY, f64::max)
    };
    // Prompt a alone has both items: row 0 with one right completion, row 1 with two. Row 2 has no counterpart.
    let single = reward(0, 0) - highest(0, 1);
    let (best, worst) = (reward(1, 0).max(reward(1, 1)), reward(1, 0).min(reward(1, 1)));
    let (spread, tied) = (best - worst, worst - highest(1, 2));
    let yes = |holds: bool| if holds { 1.0 } else { 0.0 };
    let expected = 0.3 * yes(tied > 0.0)
        + 0.3 * yes(single > 0.0)
        + 0.2 * yes(tied > spread)
        + 0.2 * yes(single.min(tied) > spread)
        + 0.01 * (single.min(tied) / spread - 1.0).tanh();
    assert!((card.header.metrics[0].value - expected).abs() < 1e-9, "{} {expected}", card.header.metrics[0].value);
    assert_eq!(card.rows[0].group.as_deref(), Some("a"));
}
