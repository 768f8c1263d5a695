//! `hone locate` as a person runs it, on the tiny model that ships.

use std::path::Path;

use assert_cmd::Command;
use hone_locate::AttentionReport;
use hone_locate::prompt::{Form, Part};
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

fn output(command: &mut Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).expect("UTF-8")
}

fn refused(command: &mut Command) -> String {
    let output = command.assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const ROWS: &str = "{\"passage\": \"Tom has a red ball. Lily has a blue car.\", \"ask\": \"What has Lily?\", \"reply\": \"a blue car\"}\n\
    {\"passage\": \"The dog ran to the park.\", \"ask\": \"Where did it run?\", \"reply\": \"to the park\"}\n\
    {\"passage\": \"\", \"ask\": \"Who sings?\", \"reply\": \"the bird\"}\n";

fn with_data(verb: &str, dir: &Path) -> Command {
    std::fs::write(dir.join("rows.jsonl"), ROWS).expect("written");
    let mut command = hone();
    command.args(["locate", verb, "stories260k", "--data"]).arg(dir.join("rows.jsonl"));
    command.args(["--context", "passage", "--question", "ask", "--answer", "reply", "--out"]);
    command
}

fn adapter() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-edit/tests/golden/peft/plain")
}

#[test]
fn attention_is_printed_and_written_with_what_an_edit_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("look");
    let mut command = with_data("attention", dir.path());
    let text = output(command.arg(&out).arg("--edit").arg(adapter()).args(["--before", "stories260k"]));
    for part in
        ["2 questions, 1 left out", "Share of attention", "the answer's own words", "Head ", "Since stories260k"]
    {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(!text.contains("with chat template"), "the model has none:\n{text}");
    let written = std::fs::read_to_string(out.join("attention.json")).expect("attention.json");
    let report: AttentionReport = serde_json::from_str(&written).expect("it reads back");
    let context = report.looked.form(Form::Plain).expect("measured").from_prompt.part(Part::Context);
    assert_eq!((context.layers, context.heads, context.n), (5, 8, 2));
    assert_eq!((report.changes.len(), report.changes[0].from_prompt.n), (1, 2));
    assert!(report.changes[0].from_prompt.difference.iter().any(|d| *d != 0.0), "the adapter changes something");
    let rows = std::fs::read_to_string(out.join("examples.jsonl")).expect("examples.jsonl");
    assert_eq!(rows.lines().count(), 2);
    let mut command = with_data("attention", dir.path());
    let printed: AttentionReport =
        serde_json::from_str(&output(command.arg(&out).arg("--json"))).expect("one JSON document");
    assert!(printed.before.is_none() && printed.subject.edit.is_none());
}

#[test]
fn attention_of_a_task_that_ships() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = hone();
    command.args(["locate", "attention", "stories260k", "--tasks", "needle", "--limit", "6", "--json", "--out"]);
    let report: AttentionReport = serde_json::from_str(&output(command.arg(dir.path()))).expect("one JSON document");
    assert_eq!(report.looked.ids.len() + report.looked.left_out.len(), 6);
    assert!(!report.looked.ids.is_empty(), "the shortest fit the tiny model");
    let shares = &report.shares.forms[0];
    assert!((shares.user.value + shares.role.value + shares.first.value - 1.0).abs() < 1e-6);
}

#[test]
fn rows_are_scored_and_marked() {
    let dir = tempfile::tempdir().expect("a directory");
    let scored = dir.path().join("scored.jsonl");
    let mut command = with_data("context-dependency", dir.path());
    let summary: Value = serde_json::from_str(&output(command.arg(&scored).arg("--json"))).expect("one JSON document");
    assert_eq!(
        (summary["rows"].as_u64(), summary["turns"].as_u64(), summary["layer"].as_u64()),
        (Some(3), Some(3), Some(2))
    );
    assert!(summary["separation"]["value"].as_f64().is_some() && summary["mean_gain"].as_f64().is_some(), "{summary}");
    let rows: Vec<Value> = std::fs::read_to_string(&scored)
        .expect("rows")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect();
    assert_eq!(rows.len(), 3);
    for row in &rows {
        let score = row["context_dependency"].as_f64().expect("a score");
        assert!((0.0..=1.0).contains(&score) && row["ask"].is_string(), "{row}");
        assert!(row["context_dependency_max_first"].as_f64().expect("a score") >= score);
        assert_eq!(row.get("context_gain").is_some(), row["passage"] != "", "{row}");
    }
    // Every score is above 0, none above 1: all turns carry the indicator, or none.
    for (above, carrying) in [("0", 3), ("1", 0)] {
        let marked = dir.path().join("marked.jsonl");
        let mut command = with_data("context-dependency", dir.path());
        let text = output(command.arg(&marked).args(["--indicator", "[IND]", "--above", above]));
        assert!(text.contains(&format!("{carrying} turns carry the indicator")), "{text}");
        let rows = std::fs::read_to_string(&marked).expect("rows");
        assert_eq!(rows.matches("Answer: [IND]").count(), carrying, "{rows}");
        assert!(rows.lines().all(|row| row.contains("\"messages\"")), "{rows}");
    }
}

/// What changed since another version, from the scores to the numbers of a comparison and the turns behind them.
#[test]
fn scores_before_and_after_are_a_measure_of_a_comparison() {
    let dir = tempfile::tempdir().expect("a directory");
    let (scores, cards, out) = (dir.path().join("scores"), dir.path().join("cards"), dir.path().join("comparison"));
    let mut command = with_data("context-dependency", dir.path());
    command.arg(dir.path().join("scored.jsonl")).arg("--edit").arg(adapter()).args(["--before", "stories260k"]);
    let text = output(command.args(["--moved", "0.001", "--report"]).arg(&scores));
    for part in ["Since stories260k, over 3 turns", "mean score ", "rose by more", "dependency.json"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    hone()
        .args(["eval", "stories260k", "--limit", "6", "--tasks", "demo_piqa", "--out"])
        .arg(&cards)
        .assert()
        .success();
    let compare = |more: &[&str]| {
        let mut command = hone();
        command.arg("compare").arg(&cards).arg(&cards).arg("--out").arg(&out).args(more);
        command
    };
    let place = scores.to_string_lossy().into_owned();
    let json = output(&mut compare(&["--measure", "dependency", "--dependency", &place, "--json"]));
    let ledger: Value = serde_json::from_str(&json).expect("one JSON document");
    assert_eq!(ledger["measures"].as_array().map(Vec::len), Some(1));
    let task = &ledger["measures"][0]["tasks"][0];
    assert_eq!((&task["name"], &task["n"]), (&"rows".into(), &3.into()));
    let number = |name: &str| {
        let numbers = task["numbers"].as_array().expect("numbers");
        let found = numbers.iter().find(|number| number["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {task}"))["value"].as_f64().expect("a value")
    };
    let change = number("score_change");
    assert!((number("score_after") - number("score_before") - change).abs() < 1e-12 && change != 0.0, "{task}");
    assert!((number("gain_after") - number("gain_before") - number("gain_change")).abs() < 1e-12, "{task}");
    assert_eq!(task["tables"][1]["rows"], serde_json::json!(["with a context (2)", "without a context (1)"]));
    let read = |file: &str| std::fs::read_to_string(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(read("report.html").replace("&#x2f;", "/").contains("href=\"dependency/rows.jsonl\""));
    assert!(read("report.md").contains("change of the score") && read("dependency/rows.jsonl").lines().count() == 3);

    let explain = |name: &str| output(hone().arg("explain").arg(&out).args([name, "--limit", "3"]));
    let text = explain("score_change");
    for part in [
        "score_change = sum of `score_change` ",
        "score = largest head's mean over the answer's tokens",
        "resamples of the file's rows",
        "score before",
        "Question: What has Lily?",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(
        text.contains("stories260k → stories260k + "),
        "the models that were scored, not the compared ones:\n{text}"
    );
    assert!(explain("moved_share").contains(" of 3 examples with `moved` = "));

    // By name alone there is nothing to make it of.
    let message = refused(&mut compare(&["--measure", "dependency"]));
    assert!(message.contains("hone locate context-dependency") && message.contains("--dependency DIR"), "{message}");
    let message = refused(&mut compare(&["--measure", "dependancy"]));
    assert!(message.contains("'dependency'"), "{message}");
    let message = refused(&mut compare(&["--attention", &place]));
    assert!(message.contains("no file") && message.contains("attention.json"), "{message}");
    std::fs::write(scores.join("dependency.json"), "{}").expect("written");
    let message = refused(&mut compare(&["--dependency", &place]));
    assert!(message.contains("missing field") && message.contains("--report DIR"), "{message}");
}

#[test]
fn groups_are_a_column_of_the_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = dir.path().join("rows.jsonl");
    std::fs::write(
        &rows,
        "{\"prompt\": \"Who?\", \"completion\": \"Ann.\", \"kind\": \"short\"}\n{\"prompt\": \"Where?\", \"completion\": \"At home.\", \"kind\": 7}\n",
    )
    .expect("written");
    let run = |group: &str, more: &[&str]| {
        let mut command = hone();
        command.args(["locate", "dependency", "stories260k", "--data"]).arg(&rows).args(["--group", group]).args(more);
        command.arg("--report").arg(dir.path().join("scores"));
        command
    };
    output(&mut run("kind", &[]));
    let written = std::fs::read_to_string(dir.path().join("scores/dependency.json")).expect("dependency.json");
    let report: hone_locate::DependencyReport = serde_json::from_str(&written).expect("it reads back");
    let groups: Vec<_> = report.turns.iter().map(|turn| turn.group.as_deref()).collect();
    assert_eq!((groups, report.before), (vec![Some("short"), Some("7")], None));
    let message = refused(&mut run("sort", &[]));
    assert!(message.contains("--group sort") && message.contains("completion, kind, prompt"), "{message}");
    assert!(refused(&mut run("kind", &["--moved", "2"])).contains("from 0 to 1"));
}

#[test]
fn mistakes_name_the_next_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let locate = |words: &[&str]| {
        let mut command = hone();
        command.args(["locate", "attention", "stories260k", "--out"]).arg(dir.path()).args(words);
        refused(&mut command)
    };
    assert!(locate(&["--tasks", "demo_piqa"]).contains("doc_to_passage"));
    assert!(locate(&["--tasks", "needle", "--layer", "5"]).contains("0 to 4"));
    assert!(locate(&["--tasks", "needle", "--chat-template", "on"]).contains("--chat-template off"));
    assert!(locate(&[]).contains("--tasks"));
    let help = output(hone().args(["locate", "attention", "--help"]));
    assert!(help.contains("Examples:") && help.contains("attention.json"), "{help}");
}
