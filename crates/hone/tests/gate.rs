//! `hone eval --baseline` and `hone compare --fail-if-worse`: the exit codes a CI run depends on.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

const TASK: &str = "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
    output_type: multiple_choice\ntest_split: test\ndoc_to_text: \"{{q}}\"\ndoc_to_choice: [\" red\", \" blue\"]\n\
    doc_to_target: gold\nmetric_list: [{metric: acc}]\n";

/// A task of twenty questions, and where it lies.
fn task(dir: &Path) -> PathBuf {
    let row = |i: usize| format!("{{\"q\": \"Tom has {i}\", \"gold\": {}}}\n", i % 2);
    std::fs::write(dir.join("rows.jsonl"), (0..20).map(row).collect::<String>()).expect("written");
    std::fs::write(dir.join("sums.yaml"), TASK).expect("written");
    dir.join("sums.yaml")
}

fn eval(task: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = hone();
    command.arg("eval").arg("stories260k").arg("--tasks").arg(task).arg("--out").arg(out).args(more);
    command
}

/// A baseline as of a model that was right (or wrong) everywhere.
fn baseline(card: &Path, out: &Path, right: bool) -> PathBuf {
    let text = std::fs::read_to_string(card).expect("a scorecard");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for row in &mut lines[1..] {
        let score = f64::from(u8::from(right));
        row["score"] = score.into();
        row["scores"]["acc"] = score.into();
    }
    std::fs::create_dir_all(out).expect("made");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(out.join("sums.jsonl"), text).expect("written");
    out.to_owned()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn a_version_that_got_measurably_worse_ends_with_3_and_others_with_0() {
    let dir = tempfile::tempdir().expect("a directory");
    let (task, first) = (task(dir.path()), dir.path().join("first"));
    eval(&task, &first, &[]).assert().success();
    let card = first.join("sums.jsonl");
    let better = baseline(&card, &dir.path().join("all-right"), true);
    let lower = baseline(&card, &dir.path().join("all-wrong"), false);
    let with = |base: &Path, more: &[&str]| {
        let mut command = eval(&task, &dir.path().join("new"), more);
        command.arg("--baseline").arg(base);
        command
    };
    // Against itself nothing changed; against one that was wrong everywhere it is better.
    with(&first, &[]).assert().code(0);
    with(&lower, &[]).assert().code(0);
    // The small model guesses about half of the questions right: the rest is lost, nothing gained.
    let output = with(&better, &[]).assert().code(3).get_output().clone();
    let shown = text(&output.stdout);
    assert!(shown.contains("rule broken: sums: acc measurably worse by") && shown.contains("report: "), "{shown}");
    for file in ["ledger.json", "report.html", "report.md"] {
        assert!(dir.path().join("new/comparison").join(file).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(dir.path().join("new/comparison/report.md")).expect("a page");
    assert!(page.contains("[base](../../all-right/sums.jsonl), [tuned](../sums.jsonl)"), "{page}");
    // Rules of one's own instead, or both.
    with(&better, &["--fail-if", "sums=101"]).assert().code(0);
    with(&better, &["--fail-if", "sums=101", "--fail-if-worse"]).assert().code(3);
    let output = with(&better, &["--fail-if", "sums=3", "--fail-if-worse"]).assert().code(3).get_output().clone();
    assert_eq!(text(&output.stdout).matches("rule broken:").count(), 1, "one task, one reason");
    // One JSON document, the comparison's.
    let output = with(&better, &["--json"]).assert().code(3).get_output().clone();
    let ledger: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(ledger["broken_rules"].as_array().map(Vec::len), Some(1), "{ledger}");
    // The same guard between two sets of cards.
    let mut compare = hone();
    compare.arg("compare").arg(&better).arg(&first).arg("--out").arg(dir.path().join("compared"));
    compare.assert().code(0);
    compare.arg("--fail-if-worse").assert().code(3);
}

#[test]
fn a_baseline_that_cannot_guard_is_refused_before_anything_is_scored() {
    let dir = tempfile::tempdir().expect("a directory");
    let (task, first, new) = (task(dir.path()), dir.path().join("first"), dir.path().join("new"));
    eval(&task, &first, &[]).assert().success();
    let refused = |command: &mut Command| text(&command.assert().code(2).get_output().stderr);
    let mut other = eval(Path::new("demo_piqa"), &new, &["--limit", "2"]);
    let message = refused(other.arg("--baseline").arg(&first));
    assert!(message.contains("the baseline has no scorecard of `demo_piqa`"), "{message}");
    std::fs::write(&task, TASK.replace("{{q}}", "{{q}}!")).expect("written");
    let message = refused(eval(&task, &new, &[]).arg("--baseline").arg(&first));
    assert!(message.contains("are not what the baseline was asked"), "{message}");
    std::fs::write(&task, TASK).expect("written");
    let message = refused(eval(&task, &new, &["--fail-if", "sum=3"]).arg("--baseline").arg(&first));
    assert!(message.contains("did you mean `sums`?"), "{message}");
    assert!(!new.join("sums.jsonl").exists(), "nothing was scored");
    refused(eval(&task, &new, &[]).arg("--baseline").arg(dir.path().join("nowhere")));
    // Without a place to keep the new cards, and without a baseline for the rules.
    refused(hone().args(["eval", "stories260k", "--tasks"]).arg(&task).arg("--baseline").arg(&first));
    refused(&mut eval(&task, &new, &["--fail-if", "sums=3"]));
}

/// A model of its own with a chat template.
fn chatty(dir: &Path, template: &str) -> PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k"), dir.join("chatty"));
    std::fs::create_dir_all(&to).expect("made");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(file), to.join(file)).expect("copied");
    }
    std::fs::write(to.join("chat_template.jinja"), template).expect("written");
    to
}

#[test]
fn settings_and_prompts_that_differ_are_refused_before_anything_is_scored() {
    let dir = tempfile::tempdir().expect("a directory");
    let (task, new) = (task(dir.path()), dir.path().join("new"));
    let eval = |base: Option<&Path>, out: &Path, more: &[&str]| {
        let mut command = hone();
        command.arg("eval").arg(dir.path().join("chatty")).arg("--tasks").arg(&task).arg("--out").arg(out).args(more);
        if let Some(base) = base {
            command.arg("--baseline").arg(base);
        }
        command
    };
    let refused = |base: &Path, more: &[&str]| {
        let message = text(&eval(Some(base), &new, more).assert().code(2).get_output().stderr);
        assert!(!new.join("sums.jsonl").exists() && !message.contains("scoring"), "nothing was scored: {message}");
        message
    };
    chatty(dir.path(), "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}");
    let (plain, chat) = (dir.path().join("plain"), dir.path().join("chat"));
    eval(None, &plain, &["--limit", "10"]).assert().success();
    eval(None, &chat, &["--chat-template", "true"]).assert().success();
    let message = refused(&plain, &["--chat-template", "true"]);
    assert!(message.contains("chat template off against on"), "{message}");
    let message = refused(&chat, &[]);
    assert!(message.contains("chat template on against off"), "{message}");
    let message = refused(&plain, &["--num-fewshot", "1"]);
    assert!(message.contains("shots 0 against 1"), "{message}");
    // The card says only that there was a template; its prompts say which.
    chatty(dir.path(), "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}");
    let message = refused(&chat, &["--chat-template", "true"]);
    assert!(message.contains("20 of 20 prompts differ") && message.contains("[user]"), "{message}");
    // Another limit compares what both have.
    eval(Some(&plain), &new, &["--limit", "5"]).assert().success();
}
