//! `hone predict ladder`, as a person runs it: what is printed, what is written, what is refused.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

/// Scorecards of eight models: those of the model in the tree, with likelihoods that rise with `m`, for the right choice evenly and
/// for the wrong ones in another order on every question.
fn ladder(directory: &Path) -> Vec<String> {
    let base = directory.join("base");
    hone()
        .args(["eval", "stories260k", "--limit", "12", "--tasks", "demo_arc_easy", "--out"])
        .arg(&base)
        .assert()
        .success();
    let text = std::fs::read_to_string(base.join("demo_arc_easy.jsonl")).expect("read");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut places = Vec::new();
    for m in 0..8usize {
        let mut lines = lines.clone();
        for (i, line) in lines.iter_mut().enumerate().skip(1) {
            let target = line["target"].as_str().expect("a target").to_owned();
            for (c, choice) in line["choices"].as_array_mut().expect("choices").iter_mut().enumerate() {
                let wobble = ((i * 7 + c * 5 + m * m * 3) % 11) as f64;
                let own = if choice["text"] == target.as_str() { 0.0 } else { wobble - 7.5 };
                choice["log_likelihood"] = (-20.0 + m as f64 + own).into();
            }
        }
        let place = directory.join(format!("model-{m}"));
        std::fs::create_dir(&place).expect("made");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(place.join("demo_arc_easy.jsonl"), text).expect("written");
        places.push(place.to_string_lossy().into_owned());
    }
    places
}

/// From the ladder to the page of a comparison of two of its models, and to the questions behind its numbers.
#[test]
fn a_ladder_is_a_measure_of_a_comparison() {
    let dir = tempfile::tempdir().expect("a directory");
    let places = ladder(dir.path());
    let (out, found) = (dir.path().join("comparison"), dir.path().join("ladder"));
    let mut command = hone();
    command.args(["predict", "ladder"]).args(&places).args(["--compute", "1,2,4,8,16,32,64,128", "--out"]).arg(&found);
    command.assert().success();
    let compare = |more: &[&str]| {
        let mut command = hone();
        command.args(["compare", &places[0], &places[7], "--out"]).arg(&out).args(more);
        command
    };
    let place = found.to_string_lossy().into_owned();
    let mut both = compare(&["--ladder", &place, "--measure", "ladder", "--measure", "likelihoods"]);
    let shown = both.assert().success().get_output().stdout.clone();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("(ladder; Schaeffer et al. 2024") && shown.contains("demo_arc_easy-p_choices"), "{shown}");
    let read = |file: &str| std::fs::read_to_string(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let ledger: Value = serde_json::from_str(&read("ledger.json")).expect("JSON");
    let measure = ledger["measures"].as_array().expect("measures").iter().find(|measure| measure["name"] == "ladder");
    let tasks = measure.expect("the ladder")["tasks"].as_array().expect("tasks");
    let number = |task: usize, name: &str| {
        let numbers = tasks[task]["numbers"].as_array().expect("numbers");
        numbers.iter().find(|number| number["name"] == name).and_then(|number| number["value"].as_f64())
    };
    // What the verb found is what the comparison shows.
    let written: Value =
        serde_json::from_str(&std::fs::read_to_string(found.join("ladder.json")).expect("read")).expect("JSON");
    let task = &written["tasks"][0];
    for score in 0..5 {
        assert_eq!(number(score, "correlation_mean"), task["scores"][score]["mean"]["value"].as_f64());
        assert_eq!(number(score, "undefined"), task["scores"][score]["undefined"].as_f64());
        let loss = score.checked_sub(1).map(|step| &task["losses"][step]["loss"]["value"]);
        assert_eq!(number(score, "lost"), loss.and_then(Value::as_f64));
    }
    assert!(number(2, "lost").is_some_and(|lost| lost > 0.1), "{tasks:?}");
    let page = read("report.html").replace("&#x2f;", "/");
    assert!(page.contains("id=\"measure-ladder\"") && page.contains("href=\"ladder/demo_arc_easy-p_choices.jsonl\""));
    assert!(read("report.md").contains("| demo_arc_easy-accuracy |"));
    assert_eq!(read("ladder/demo_arc_easy-accuracy.jsonl").lines().count(), 12);

    let explain = |more: &[&str]| {
        let text = hone().arg("explain").arg(&out).args(more).assert().success().get_output().stdout.clone();
        String::from_utf8_lossy(&text).into_owned()
    };
    let text = explain(&["lost", "--task", "demo_arc_easy-p_choices", "--limit", "1"]);
    for part in
        ["lost = sum of `lost` ", "8 models of compute 1 to 128", "lost = correlation by the score before", "by model"]
    {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    // A task is all of its scores.
    let text = explain(&["correlation_median", "--task", "demo_arc_easy", "--limit", "1"]);
    assert_eq!(text.matches("correlation_median = middle one of ").count(), 5, "{text}");
    let text = explain(&["undefined", "--task", "demo_arc_easy-accuracy", "--json"]);
    assert!(
        serde_json::from_str::<Value>(&text).expect("JSON")[0]["steps"][1]
            .as_str()
            .is_some_and(|s| s.contains("`undefined`"))
    );

    let refused = |mut command: Command| {
        String::from_utf8_lossy(&command.assert().code(2).get_output().stderr.clone()).into_owned()
    };
    let message = refused(compare(&["--measure", "ladder"]));
    assert!(message.contains("hone predict ladder") && message.contains("--ladder DIR"), "{message}");
    std::fs::remove_file(found.join("demo_arc_easy.jsonl")).expect("removed");
    let message = refused(compare(&["--ladder", &place]));
    assert!(message.contains("0 questions, and ladder.json has 12"), "{message}");
    let elsewhere =
        std::fs::read_to_string(found.join("ladder.json")).expect("read").replace("demo_arc_easy", "../base/x");
    std::fs::write(found.join("ladder.json"), elsewhere).expect("written");
    assert!(refused(compare(&["--ladder", &place])).contains("has a slash in its name"));
}

#[test]
fn a_ladder_says_where_the_correlation_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let places = ladder(dir.path());
    let out = dir.path().join("out");
    let run = |places: &[String], compute: &str, more: &[&str]| {
        let mut command = hone();
        command.args(["predict", "ladder"]).args(places).args(["--compute", compute, "--out"]).arg(&out).args(more);
        command
    };
    let compute = "1e15,2e15,4e15,8e15,1.6e16,3.2e16,6.4e16,1.28e17";
    let json = run(&places, compute, &["--json"]).assert().success().get_output().stdout.clone();
    let found: Value = serde_json::from_slice(&json).expect("one JSON document");
    let task = &found["tasks"][0];
    let mean = |score: usize| task["scores"][score]["mean"]["value"].as_f64().expect("a mean");
    // The right choice rises with every model.
    assert!((mean(0) - 1.0).abs() < 1e-12 && mean(0) == mean(1) && mean(2) < 0.9, "{task}");
    assert_eq!(task["lost_at"], "p_choices");
    assert_eq!((found["correlation"].as_str(), task["questions"].as_u64()), (Some("spearman"), Some(12)));
    assert!(out.join("demo_arc_easy.svg").is_file());
    let rows = std::fs::read_to_string(out.join("demo_arc_easy.jsonl")).expect("read");
    let row: Value = serde_json::from_str(rows.lines().next().expect("a row")).expect("JSON");
    assert!(rows.lines().count() == 12 && row["log_p"].as_f64().is_some_and(|r| (r - 1.0).abs() < 1e-12), "{row}");
    let written: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("ladder.json")).expect("read")).expect("JSON");
    assert_eq!(written, found);

    let shown = run(&places, compute, &["--correlation", "pearson"]).assert().success().get_output().stdout.clone();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("pearson correlation with compute") && shown.contains("log p(right)"), "{shown}");
    assert!(shown.contains("from p to p_choices: loses") && shown.contains("the most"), "{shown}");

    let refused = |command: &mut Command| {
        String::from_utf8_lossy(&command.assert().code(2).get_output().stderr.clone()).into_owned()
    };
    let message = refused(&mut run(&places, "1,2,3", &[]));
    assert!(message.contains("8 models and 3 numbers of compute"), "{message}");
    let message = refused(&mut run(&places[..2], "1,2", &[]));
    assert!(message.contains("need at least 3"), "{message}");
    let message = refused(&mut run(&places[..3], "1,0,2", &[]));
    assert!(message.contains("expected a positive number"), "{message}");
    let few = run(&places[..3], "1,2,3", &["--correlation", "kendall"]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8_lossy(&few).contains("note: 3 models"), "{}", String::from_utf8_lossy(&few));
}
