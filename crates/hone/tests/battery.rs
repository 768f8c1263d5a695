//! `hone battery`, `hone judge` and tasks asked in several ways, as a person runs them.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn hone(words: &[&str]) -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet").args(words);
    command
}

fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).expect("one JSON document")
}

fn refused(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.assert().code(2).get_output().stderr).into_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn number(ledger: &Value, measure: &str, name: &str) -> f64 {
    let find = |list: &Value, key: &str| -> Value {
        let items = list.as_array().expect("a list");
        items.iter().find(|item| item["name"] == key).unwrap_or_else(|| panic!("no {key}")).clone()
    };
    let task = find(&ledger["measures"], measure)["tasks"][0].clone();
    find(&task["numbers"], name)["value"].as_f64().expect("a number")
}

#[test]
fn a_model_against_itself_loses_nothing_and_is_scored_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("check");
    let battery = |more: &[&str]| {
        let mut command = hone(&["battery", "stories260k", "--limit", "2", "--out"]);
        command.arg(&out).args(more);
        command
    };
    let ledger = json(&mut battery(&["--against", "stories260k"]));
    assert_eq!((ledger["outcome"].as_str(), ledger["tasks"].as_array().map(Vec::len)), (Some("unchanged"), Some(14)));
    assert!(ledger["tasks"].as_array().expect("tasks").iter().all(|task| task["difference"] == 0.0), "{ledger}");
    assert_eq!(number(&ledger, "forgetting", "mean_loss"), 0.0);
    assert_eq!((number(&ledger, "forgetting", "skills"), number(&ledger, "forgetting", "tasks")), (12.0, 14.0));
    for file in ["report.html", "ledger.json", "report.md", "tuned/battery_text.jsonl"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    // A card says how long it took: the same bytes are the same scoring.
    let card = out.join("base/battery_reading.jsonl");
    let before = read(&card);
    battery(&["--against", "stories260k"]).assert().success();
    assert_eq!(read(&card), before, "what is scored is not scored again");
    let message = refused(&mut battery(&["--against", "stories260k", "--target", "battery_txt"]));
    assert!(message.contains("did you mean `battery_text`?"), "{message}");
    refused(&mut battery(&[]));
    refused(&mut battery(&["--against", "stories260k", "--tasks", "battery,battery_text"]));
}

const WAYS: &str = "task: ways\ndataset_path: rows.jsonl\noutput_type: multiple_choice\ndoc_to_text: \"{{q}} is\"\n\
    doc_to_choice: [big, red]\ndoc_to_target: \"{{a}}\"\nmetric_list: [{metric: acc}]\nsensitive: true\nnum_fewshot: 0\n\
    metadata: {variants: wording}\nvariants:\n  - {name: plain, set: observed}\n  \
    - {name: asked, set: unobserved, doc_to_text: \"How is {{q}}?\"}\n";

#[test]
fn ways_of_asking_are_cards_of_their_own_and_one_task_in_the_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ways.yaml");
    std::fs::write(&file, WAYS).expect("written");
    let rows = ["The ball", "The dog", "A house"].map(|q| format!("{{\"q\": \"{q}\", \"a\": \"big\"}}\n")).concat();
    std::fs::write(dir.path().join("rows.jsonl"), rows).expect("written");
    let eval = |task: &str, out: &str| {
        let mut command = hone(&["eval", "stories260k", "--tasks", task, "--out"]);
        command.arg(dir.path().join(out));
        command
    };
    let names = |out: &str| {
        let entries = std::fs::read_dir(dir.path().join(out)).expect("read");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let path = file.to_str().expect("a path");
    eval(path, "both").assert().success();
    assert_eq!(names("both"), ["ways@asked.jsonl", "ways@plain.jsonl"]);
    eval(&format!("{path}@asked"), "one").assert().success();
    assert_eq!(names("one"), ["ways@asked.jsonl"]);
    let message = refused(&mut eval(&format!("{path}@askd"), "none"));
    assert!(message.contains("did you mean `asked`?"), "{message}");

    let compare = |more: &[&str]| {
        let mut command = hone(&["compare"]);
        command
            .arg(dir.path().join("both"))
            .arg(dir.path().join("both"))
            .arg("--out")
            .arg(dir.path().join("comparison"));
        command.args(more);
        command
    };
    let shown = compare(&["--measure", "wording"]).assert().success().get_output().stdout.clone();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert_eq!(shown.lines().filter(|line| line.starts_with("ways@")).count(), 1, "{shown}");
    assert!(shown.contains("wording gap"), "{shown}");
    let ledger = json(&mut compare(&["--measure", "wording", "--measure", "safety"]));
    assert_eq!(
        (ledger["tasks"].as_array().map(Vec::len), ledger["tasks"][0]["is_variant"].as_bool()),
        (Some(2), Some(true))
    );
    assert_eq!(number(&ledger, "wording", "change"), 0.0);
    assert!(ledger["notes"].to_string().contains("`safety`"), "no task is one of safety: {}", ledger["notes"]);
    // The texts of a sensitive task are in the cards alone.
    assert!(!ledger["examples"].to_string().contains("The ball"), "{}", ledger["examples"]);
    assert!(read(&dir.path().join("both/ways@plain.jsonl")).contains("The ball"));
    assert!(!read(&dir.path().join("comparison/report.html")).contains("The ball"));
}

#[test]
fn verdicts_stand_beside_scores() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cards, judged) = (dir.path().join("cards"), dir.path().join("judged"));
    hone(&["eval", "stories260k", "--tasks", "battery_reading,battery_logic", "--limit", "3", "--out"])
        .arg(&cards)
        .assert()
        .success();
    let judge = |place: &Path, more: &[&str]| {
        let mut command = hone(&["judge"]);
        command.arg(place).args(["--with", "stories260k", "--chat-template", "false", "--out"]).arg(&judged).args(more);
        command
    };
    let headers = json(&mut judge(&cards, &[]));
    assert_eq!(headers.as_array().map(Vec::len), Some(1), "one card has written answers: {headers}");
    let metric = |name: &str| {
        let metrics = headers[0]["metrics"].as_array().expect("metrics");
        metrics.iter().find(|metric| metric["name"] == name).map(|metric| metric["value"].as_f64().expect("a number"))
    };
    // A model of stories says neither yes nor no.
    assert_eq!((metric("judge_unparsed"), metric("judge")), (Some(1.0), None));
    assert!(metric("f1").is_some(), "what was measured before is kept");
    let lines = read(&judged.join("battery_reading.jsonl"));
    assert_eq!(lines.matches("\"judge_unparsed\":1.0").count(), 3, "{lines}");
    assert!(judged.join("battery_logic.jsonl").is_file() && judged.join("replies").is_dir());
    // Another question, whose verdict is any word.
    let own = "task: own\noutput_type: generate_until\ndoc_to_text: \"{{prompt}} {{answer}}\"\ndoc_to_target: \"\"\n\
        generation_kwargs: {until: [\"\\n\"], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]\n";
    let filter = "filter_list: [{name: v, filter: [{function: regex, regex_pattern: \"(\\\\w)\"}, {function: take_first}, \
        {function: map, mapping_dict: {}, default_value: fine}]}]\nmetadata: {yes: fine}\n";
    let question = dir.path().join("own.yaml");
    std::fs::write(&question, format!("{own}{filter}")).expect("written");
    let asked = ["--question", question.to_str().expect("a path")];
    let headers = json(&mut judge(&cards.join("battery_reading.jsonl"), &asked));
    let metrics = headers[0]["metrics"].to_string();
    assert!(metrics.contains("\"judge\"") && metrics.contains("judge_unparsed"), "{metrics}");
    std::fs::write(&question, own).expect("written");
    let message = refused(&mut judge(&cards, &asked));
    assert!(message.contains("filter_list: a judge is"), "{message}");
    let message = refused(&mut judge(&cards.join("battery_logic.jsonl"), &[]));
    assert!(message.contains("no card has written answers"), "{message}");
    hone(&["compare"])
        .arg(&judged)
        .arg(&judged)
        .args(["--measure", "documents", "--out"])
        .arg(dir.path().join("comparison"))
        .assert()
        .success();
}
