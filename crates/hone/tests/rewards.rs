//! Reward models on the command line: an adapter that PEFT saved with a head of its own (`tools/golden/rewards.py`).

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/stories260k");

fn adapter() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reward_adapter")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("there")).expect("JSON")
}

#[test]
fn an_adapter_with_a_head_gives_pefts_rewards() {
    let expected = json(&adapter().join("expected.json"));
    let dir = tempfile::tempdir().expect("a directory");
    // All texts as the answers to an empty question.
    std::fs::write(dir.path().join("rows.jsonl"), serde_json::json!({"texts": expected["texts"]}).to_string()).unwrap();
    let yaml = "task: texts\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
        output_type: multiple_choice\ndoc_to_text: ''\ndoc_to_choice: texts\ndoc_to_target: '1'\ntarget_delimiter: ''\n\
        metric_list: [{metric: best_of}]\n";
    let task = dir.path().join("texts.yaml");
    std::fs::write(&task, yaml).unwrap();
    let cards = dir.path().join("cards");
    let mut eval = Command::cargo_bin("hone").expect("built");
    eval.args(["--quiet", "eval", MODEL, "--rewards", "head", "--edit"]).arg(adapter());
    eval.arg("--tasks").arg(&task).arg("--out").arg(&cards).assert().success();
    let card = std::fs::read_to_string(cards.join("texts.jsonl")).expect("a card");
    let row: Value = serde_json::from_str(card.lines().nth(1).expect("a row")).expect("JSON");
    let found = row["rewards"].as_array().expect("rewards");
    let rewards = expected["rewards"].as_array().expect("rewards");
    assert_eq!(found.len(), rewards.len());
    for (found, expected) in found.iter().zip(rewards) {
        let (found, expected) = (found["reward"].as_f64().unwrap(), expected.as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found}, PEFT's {expected}");
    }
    // For what writes, it is no adapter.
    let mut score = Command::cargo_bin("hone").expect("built");
    let refused =
        score.args(["--quiet", "score", MODEL, "--text", "Once upon", "--edit"]).arg(adapter()).assert().code(2);
    let message = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(message.contains("SEQ_CLS"), "{message}");
}

/// A small model writes no ratings: that is said, so that its score is not taken for one.
#[test]
fn replies_without_a_rating_are_counted_and_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let row = |i: usize| serde_json::json!({"q": format!("Name {i}."), "texts": ["good", "bad"]}).to_string();
    std::fs::write(dir.path().join("rows.jsonl"), (0..3).map(|i| row(i) + "\n").collect::<String>()).unwrap();
    let yaml = "task: pick\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
        output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: texts\ndoc_to_target: 0\n\
        metric_list: [{metric: best_of}]\n";
    let task = dir.path().join("pick.yaml");
    std::fs::write(&task, yaml).unwrap();
    let eval = |more: &[&str]| {
        let mut eval = Command::cargo_bin("hone").expect("built");
        eval.args(["--quiet", "eval", MODEL, "--rewards", "ratings", "--chat-template", "false", "--tasks"]).arg(&task);
        let output = eval.args(more).assert().success().get_output().clone();
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    let [shown, said] = eval(&[]);
    assert!(shown.contains("  6 of 6 replies held no rating and count as -1\n"), "{shown}");
    let warning = "warning: pick: none of the 6 replies held a rating, so every answer counts as -1";
    assert!(said.contains(warning), "{said}");
    let [shown, said] = eval(&["--json"]);
    let document: Value = serde_json::from_str(&shown).expect("one JSON document");
    assert_eq!((&document["tasks"][0]["ratings"], &document["tasks"][0]["unrated"]), (&6.into(), &6.into()));
    assert!(said.contains(warning), "{said}");
}
