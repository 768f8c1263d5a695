//! `hone eval --run-code`: tasks that run what the model writes are refused without it, and counted with it.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

const TASK: &str = r#"
task: words
dataset_path: rows.jsonl
output_type: generate_until
doc_to_text: "Once upon a time"
doc_to_target: "said = '''<<answer>>'''\nassert len(said) > {{least}}, len(said)"
generation_kwargs: {max_gen_toks: 8}
repeats: 2
num_fewshot: 0
metric_list: [{metric: pass@1}, {metric: pass@2}]
"#;

fn eval(directory: &Path, task: &str, more: &[&str]) -> Command {
    std::fs::write(directory.join("rows.jsonl"), "{\"least\": 0}\n{\"least\": 1000}\n").expect("written");
    let file = directory.join("words.yaml");
    std::fs::write(&file, task).expect("written");
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.args(["--quiet", "eval", "stories260k", "--tasks"]).arg(file).args(more);
    command
}

fn message(command: &mut Command) -> String {
    let output = command.assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn nothing_is_run_unasked() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = message(&mut eval(directory.path(), TASK, &[]));
    assert!(said.contains("`pass@1` runs programs that the model writes") && said.contains("--run-code"), "{said}");
    let once = TASK.replace("repeats: 2", "repeats: 1");
    let said = message(&mut eval(directory.path(), &once, &[]));
    assert!(said.contains("`pass@2` takes 2 answers or more a question; `repeats` is 1"), "{said}");
    let filtered = format!("{TASK}filter_list: [{{name: a, filter: [{{function: take_first}}]}}]\n");
    let said = message(&mut eval(directory.path(), &filtered, &[]));
    assert!(said.contains("leave `filter_list` and `reasoning` out"), "{said}");
    let unknown = TASK.replace("pass@2", "pass@x");
    let said = message(&mut eval(directory.path(), &unknown, &[]));
    assert!(said.contains("unknown metric `pass@x` for generate_until tasks; did you mean `pass@k`?"), "{said}");
}

#[test]
fn what_cannot_run_it_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = message(&mut eval(directory.path(), TASK, &["--run-code", "--python", "no-such-python"]));
    assert!(said.contains("no Python to run programs with: no-such-python"), "{said}");
    let said = message(&mut eval(directory.path(), TASK, &["--run-code", "--without-layer", "roof"]));
    assert!(said.contains("system-calls, files, namespaces"), "{said}");
}

#[test]
fn what_passes_is_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let cards = directory.path().join("cards");
    let output = eval(directory.path(), TASK, &["--run-code", "--json", "--out"]).arg(&cards).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("the sandbox is not tight") || !cfg!(target_os = "linux") {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let metrics = json["tasks"][0]["metrics"].as_array().expect("metrics");
    let values: Vec<_> = metrics.iter().map(|m| (m["name"].as_str(), m["value"].as_f64())).collect();
    assert_eq!(values, [(Some("pass@1"), Some(0.5)), (Some("pass@2"), Some(0.5))]);
    let card = std::fs::read_to_string(cards.join("words.jsonl")).expect("a scorecard");
    let rows: Vec<Value> = card.lines().skip(1).map(|line| serde_json::from_str(line).expect("a row")).collect();
    // Every row says how its programs ended.
    assert_eq!((rows[0]["scored"].as_str(), rows[0]["score"].as_f64()), (Some("2 passed"), Some(1.0)));
    assert!(
        rows[1]["scored"].as_str().is_some_and(|said| said.starts_with("2 failed: AssertionError: ")),
        "{}",
        rows[1]
    );
    assert_eq!(rows[1]["parts"]["pass@1"], serde_json::json!([2.0, 0.0]));
}
