//! `hone explain`, as a person runs it: on scorecards, on a comparison with its measures, on a run's directory, and on names
//! that are not there.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

fn shown(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.assert().success().get_output().stdout).into_owned()
}

fn refused(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.assert().code(2).get_output().stderr).into_owned()
}

fn explain(place: &Path, more: &[&str]) -> Command {
    let mut command = hone();
    command.arg("explain").arg(place).args(more);
    command
}

/// Scorecards of a small model on two tasks that ship.
fn cards(dir: &Path, name: &str) -> PathBuf {
    let out = dir.join(name);
    let tasks = "demo_piqa,demo_lambada";
    hone().args(["eval", "stories260k", "--limit", "12", "--tasks", tasks, "--out"]).arg(&out).assert().success();
    out
}

fn lines(card: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(card).expect("a scorecard");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn write(path: &Path, lines: &[Value]) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
}

/// A second version of the card: two right answers become wrong, with the log-likelihoods that say so.
fn tuned(base: &Path, out: &Path) -> Vec<String> {
    let mut all = lines(&base.join("demo_piqa.jsonl"));
    let mut changed = Vec::new();
    for row in
        all.iter_mut().skip(1).filter(|row| row["scores"]["acc"] == 1.0 && row["scores"]["acc_norm"] == 1.0).take(2)
    {
        let right = row["target"].clone();
        let mut answer = Value::Null;
        for choice in row["choices"].as_array_mut().expect("choices") {
            if choice["text"] != right {
                choice["log_likelihood"] = (-0.5).into();
                answer = choice["text"].clone();
            }
        }
        row["answer"] = answer;
        for metric in ["acc", "acc_norm"] {
            row["scores"][metric] = 0.0.into();
        }
        row["score"] = 0.0.into();
        changed.push(row["id"].as_str().expect("an id").to_owned());
    }
    write(&out.join("demo_piqa.jsonl"), &all);
    write(&out.join("demo_lambada.jsonl"), &lines(&base.join("demo_lambada.jsonl")));
    changed
}

#[test]
fn a_metric_of_a_scorecard_comes_with_formula_interval_and_choices() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = cards(dir.path(), "base");
    let header = &lines(&out.join("demo_piqa.jsonl"))[0];
    let acc = header["metrics"].as_array().expect("metrics").iter().find(|m| m["name"] == "acc").expect("acc");
    let right = (acc["value"].as_f64().expect("a value") * 12.0).round();
    let text = shown(&mut explain(&out, &["acc", "--task", "demo_piqa", "--limit", "3"]));
    for part in [
        "acc of demo_piqa: stories260k",
        "share of questions whose most likely choice is right",
        &format!("acc = {right} right / 12 questions = "),
        "standard error = √(",
        "percentiles of 10,000 resamples of the 12 questions (bootstrap, seed 1234)",
        "examples (3 of 12)",
        "← picked",
    ] {
        assert!(text.contains(part), "no {part}: {text}");
    }
    // One file is as good as a directory; a task that has no such metric is left out.
    let alone = shown(&mut explain(&out.join("demo_lambada.jsonl"), &["perplexity", "--limit", "1"]));
    assert!(alone.contains("perplexity = exp(−(") && alone.contains("log-likelihood"), "{alone}");
    let json = shown(&mut explain(&out, &["acc_norm", "--json"]));
    let found: Value = serde_json::from_str(&json).expect("one JSON document");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{json}");
    assert_eq!((&found[0]["task"], &found[0]["n"]), (&"demo_piqa".into(), &12.into()));
    assert!(found[0]["interval"][0].as_f64() <= found[0]["value"].as_f64(), "{json}");
    assert_eq!(found[0]["examples"].as_array().map(Vec::len), Some(5));
}

#[test]
fn a_comparison_is_explained_down_to_the_answers_that_flipped() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = cards(dir.path(), "base");
    let new = dir.path().join("new");
    let changed = tuned(&base, &new);
    assert_eq!(changed.len(), 2, "the small model guesses at least two of twelve right");
    let out = dir.path().join("comparison");
    let mut compare = hone();
    compare.arg("compare").arg(&base).arg(&new).arg("--out").arg(&out);
    compare.args(["--measure", "compatibility", "--measure", "calibration", "--measure", "forgetting"]);
    compare.assert().success();

    let text = shown(&mut explain(&out, &["acc", "--task", "demo_piqa", "--limit", "2"]));
    for part in [
        "difference = (0 − 2) / 12 = −0.1667",
        "2 · P(X ≤ 0)), X the heads of 2 coins, = 0.5000",
        "unchanged: ",
        "1 → 0 (lost)",
    ] {
        assert!(text.contains(part), "no {part}: {text}");
    }
    assert!(changed.iter().all(|id| text.contains(&format!("example {id}\n"))), "{changed:?}: {text}");
    // Another metric of the same cards, a number of the ledger, numbers of measures with and without the measure's name.
    let norm = shown(&mut explain(&out, &["acc_norm", "--task", "demo_piqa"]));
    assert!(norm.contains("difference = (0 − 2) / 12"), "{norm}");
    let lost = shown(&mut explain(&out, &["lost", "--task", "demo_piqa"]));
    assert!(lost.contains("questions that were right before and wrong after"), "{lost}");
    for name in ["negative_flip_rate", "compatibility/negative_flip_rate"] {
        let rate = shown(&mut explain(&out, &[name, "--task", "demo_piqa", "--limit", "2"]));
        assert!(rate.contains("negative_flip_rate = 2 of 12 examples with `negative_flip` = 16.7 %"), "{rate}");
        assert!(rate.contains("Wilson's, of 2 of 12"), "{rate}");
        assert!(changed.iter().all(|id| rate.contains(&format!("example {id}\n"))), "{changed:?}: {rate}");
    }
    // A number over several tasks is found by one of them, and says which they are.
    let loss = shown(&mut explain(&out, &["measurably_worse", "--task", "demo_lambada"]));
    assert!(loss.contains("measurably_worse") && loss.contains("demo_piqa (acc"), "{loss}");
    let message = refused(&mut explain(&out, &["measurably_worse", "--task", "demo_arc"]));
    assert!(message.contains("no task `demo_arc`") && message.contains("all skills"), "{message}");
    let ece = shown(&mut explain(&out, &["ece_change"]));
    assert!(ece.contains("ece_change = sum of `ece_change`"), "{ece}");

    // The page leads to the cards, and Markdown says the same.
    let read = |file: &str| std::fs::read_to_string(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let page = read("report.html").replace("&#x2f;", "/");
    assert!(page.contains("href=\"../base/demo_piqa.jsonl\"") && page.contains("href=\"../new/demo_piqa.jsonl\""));
    assert!(page.contains("href=\"compatibility/demo_piqa.jsonl\""));
    assert!(read("report.md").contains("[tuned](../new/demo_piqa.jsonl)"));
    // Without the cards the ledger still says how the number came about.
    std::fs::remove_dir_all(&base).expect("removed");
    let text = shown(&mut explain(&out, &["acc", "--task", "demo_piqa"]));
    assert!(text.contains("difference = (0 − 2) / 12") && text.contains("(lost)"), "{text}");
}

#[test]
fn texts_of_sensitive_tasks_are_shown_only_when_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = cards(dir.path(), "base");
    let card = base.join("demo_piqa.jsonl");
    let mut all = lines(&card);
    all[0]["sensitive"] = true.into();
    let prompt = all[1]["prompt"].as_str().expect("a prompt").lines().next().expect("a line").to_owned();
    let answers: Vec<String> =
        all[1..].iter().map(|row| row["answer"].as_str().unwrap_or_default().to_owned()).collect();
    write(&card, &all);
    let new = dir.path().join("new");
    tuned(&base, &new);
    let out = dir.path().join("comparison");
    let mut compare = hone();
    compare.arg("compare").arg(&base).arg(&new).arg("--out").arg(&out).args(["--measure", "compatibility"]);
    compare.assert().success();
    for (place, metric) in [(&base, "acc"), (&out, "acc"), (&out, "negative_flip_rate")] {
        let all = ["--task", "demo_piqa", "--limit", "12"];
        let hidden = shown(&mut explain(place, &[&[metric], all.as_slice()].concat()));
        assert!(hidden.contains("withheld") && !hidden.contains(&prompt), "{hidden}");
        assert!(answers.iter().all(|answer| !hidden.contains(answer.as_str())), "{hidden}");
        let open = shown(&mut explain(place, &[&[metric, "--show-sensitive"], all.as_slice()].concat()));
        // What a measure keeps of each question has no texts to show: they are in the cards alone.
        let has_texts = metric == "acc";
        assert_eq!(answers.iter().any(|answer| open.contains(answer.as_str())), has_texts, "{open}");
    }
}

#[test]
fn names_that_are_not_there_are_met_with_those_that_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = cards(dir.path(), "base");
    let message = refused(&mut explain(&base, &["acc_nrom"]));
    assert!(message.contains("did you mean `acc_norm`?") && message.contains("perplexity"), "{message}");
    let message = refused(&mut explain(&base, &["acc", "--task", "demo_pica"]));
    assert!(message.contains("did you mean `demo_piqa`?"), "{message}");
    let out = dir.path().join("comparison");
    hone().arg("compare").arg(&base).arg(&base).arg("--out").arg(&out).assert().success();
    let message = refused(&mut explain(&out, &["negative_flip_rat"]));
    assert!(message.contains("did you mean `negative_flip_rate`?"), "{message}");
    refused(&mut explain(&out, &["acc", "--task", "demo_pica"]));
    let message = refused(&mut explain(&dir.path().join("nothing"), &["acc"]));
    assert!(message.contains("nothing"), "{message}");
    std::fs::write(out.join("ledger.json"), "{").expect("written");
    let message = refused(&mut explain(&out, &["acc"]));
    assert!(message.contains("ledger.json") && message.contains("compare again"), "{message}");
}
