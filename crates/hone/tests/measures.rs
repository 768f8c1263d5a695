//! `hone compare --measure`, as a person runs it: what is printed, what is written, what is refused.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

const TASK: &str = "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
    output_type: generate_until\ntest_split: test\ndoc_to_text: \"{{q}}\"\ndoc_to_target: \"{{a}}\"\n\
    generation_kwargs: {until: [\"\\n\"], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n\
    filter_list: [{name: first, filter: [{function: regex, regex_pattern: \"(\\\\w+)\"}, {function: take_first}]}]\n";

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

fn refused(command: &mut Command) -> String {
    let output = command.assert().code(2).get_output().clone();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn evaluated(task: &str, out: &Path) -> Vec<Value> {
    hone().args(["eval", "stories260k", "--limit", "8", "--tasks", task, "--out"]).arg(out).assert().success();
    let file = std::fs::read_dir(out).expect("read").next().expect("a scorecard").expect("an entry").path();
    let text = std::fs::read_to_string(file).expect("read");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn write(path: &Path, lines: &[Value]) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
}

/// Gives an example's row the other of two choices.
fn flip(row: &mut Value, metric: &str) {
    let was = row["scores"][metric].as_f64().expect("a score");
    let other = row["choices"].as_array().expect("choices").iter().find(|choice| choice["text"] != row["answer"]);
    row["answer"] = other.expect("another choice")["text"].clone();
    row["scores"][metric] = (1.0 - was).into();
    row["score"] = (1.0 - was).into();
}

#[test]
fn compatibility_is_printed_written_and_read_by_pointer() {
    let dir = tempfile::tempdir().expect("a directory");
    let (base, tuned, out) = (dir.path().join("base"), dir.path().join("tuned"), dir.path().join("comparison"));
    let mut lines = evaluated("demo_piqa", &base);
    let metric = lines[0]["main_metric"].as_str().expect("a metric").to_owned();
    let right: Vec<usize> = (1..=8).filter(|&i| lines[i]["scores"][&metric] == 1.0).collect();
    let wrong = 8 - right.len();
    assert!(right.len() > 1 && wrong > 0, "a model that guesses is right about half of the time: {right:?}");
    let first_wrong = (1..=8).find(|i| !right.contains(i)).expect("a wrong answer");
    [right[0], right[1], first_wrong].into_iter().for_each(|i| flip(&mut lines[i], &metric));
    write(&tuned.join("demo_piqa.jsonl"), &lines);
    let compare = |more: &[&str]| {
        let mut command = hone();
        command.arg("compare").arg(&base).arg(&tuned).arg("--out").arg(&out).args(more);
        command
    };
    compare(&[]).assert().success();
    let page = || std::fs::read_to_string(out.join("report.md")).expect("the report as Markdown");
    assert!(!page().contains("What did the update break"), "nothing was asked for");

    let shown = compare(&["--measure", "compatibility"]).assert().success().get_output().stdout.clone();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("What did the update break that worked? (compatibility; Echterhoff et al. 2024"), "{shown}");
    assert!(shown.contains("demo_piqa: flip matrix"), "{shown}");
    let row = shown.lines().find(|line| line.starts_with("right before")).expect("the matrix");
    let cells: Vec<String> = row.split_whitespace().skip(2).map(str::to_owned).collect();
    assert_eq!(cells, [(right.len() - 2).to_string(), "–".into(), "2".into()], "{shown}");

    let twice = ["--measure", "compatibility", "--measure", "compatibility", "--json"];
    let json = compare(&twice).assert().success().get_output().stdout.clone();
    let ledger: Value = serde_json::from_slice(&json).expect("one JSON document");
    assert_eq!(ledger["measures"].as_array().map(Vec::len), Some(1), "asked for twice is asked for once");
    let numbers = ledger["measures"][0]["tasks"][0]["numbers"].as_array().expect("numbers");
    let rate = numbers.iter().find(|number| number["name"] == "negative_flip_rate").expect("the rate");
    assert_eq!(rate["value"].as_f64(), Some(0.25));
    assert!(rate["low"].as_f64() < Some(0.25) && rate["high"].as_f64() > Some(0.25), "{rate}");

    let read = |file: &str| std::fs::read_to_string(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert_eq!(read("compatibility/demo_piqa.jsonl").matches("\"negative_flip\":true").count(), 2);
    assert!(page().contains("| right before |"));
    assert!(read("report.html").contains("id=\"measure-compatibility\""));

    let message = refused(&mut compare(&["--measure", "compatability"]));
    assert!(message.contains("compatibility"), "{message}");
    let message = refused(&mut compare(&["--measure", "compatibility", "--tolerance=-1"]));
    assert!(message.contains("expected a number from 0"), "{message}");
    refused(&mut compare(&["--tolerance", "0.1"]));
    let help = hone().args(["compare", "--help"]).assert().success().get_output().stdout.clone();
    let help = String::from_utf8_lossy(&help);
    assert!(help.contains("What did the update break that worked?"), "the help lists what there is: {help}");
}

#[test]
fn cards_from_before_the_scored_text_was_kept_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("task.yaml"), TASK).expect("written");
    let rows: String =
        ["Tom", "Lily", "Max"].map(|q| format!("{{\"q\": \"{q} has a red\", \"a\": \"ball\"}}\n")).concat();
    std::fs::write(dir.path().join("rows.jsonl"), rows).expect("written");
    let (new, old, out) = (dir.path().join("new"), dir.path().join("old"), dir.path().join("comparison"));
    let mut lines = evaluated(&dir.path().join("task.yaml").to_string_lossy(), &new);
    for line in &lines[1..] {
        let (answer, scored) = (line["answer"].as_str().expect("an answer"), line["scored"].as_str().expect("scored"));
        assert!(!scored.is_empty() && !scored.contains(' ') && answer.contains(scored), "{line}");
    }
    let compare = |base: &Path| {
        let mut command = hone();
        command.arg("compare").arg(base).arg(&new).arg("--out").arg(&out).args(["--measure", "compatibility"]);
        command
    };
    compare(&new).assert().success();
    for line in &mut lines[1..] {
        line.as_object_mut().expect("a row").remove("scored");
    }
    write(&old.join("sums.jsonl"), &lines);
    let message = refused(&mut compare(&old));
    assert!(message.contains("`scored`") && message.contains("stories260k"), "{message}");
    hone().arg("compare").arg(&old).arg(&new).arg("--out").arg(&out).assert().success();
}
