//! `hone data alignment` as a person runs it, on the tiny model that ships with the program.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

/// The verb on `recipe`.
fn alignment(recipe: &Path, more: &[&str]) -> Command {
    let mut command = hone();
    command.args(["data", "alignment"]).arg(recipe).args(more);
    command
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).expect("UTF-8")
}

fn refused(command: &mut Command) -> String {
    let output = command.assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A recipe with three sources, of which the first two are the same file.
fn recipe(dir: &Path) -> PathBuf {
    let row = |text: &str, i: usize| format!("{{\"text\": \"{}\"}}\n", text.replace('N', &i.to_string()));
    let rows = |text: &str| (0..12).map(|i| row(text, i)).collect();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("written");
    write("balls.jsonl", rows("Tom has N red balls. Tom likes N red balls."));
    write("night.jsonl", rows("It was dark. The N owls flew into the N woods and slept."));
    let text = "model: stories260k\ndata: {mix: [{path: balls.jsonl}, {path: balls.jsonl}, {path: night.jsonl}]}\n\
        method: {type: lora, r: 4}\ntrain: {steps: 3, batch_size: 4, learning_rate: 0.01, dtype: f32}\n";
    write("recipe.yaml", text.into());
    dir.join("recipe.yaml")
}

#[test]
fn sources_that_are_the_same_agree_before_and_after_training() {
    let dir = tempfile::tempdir().expect("a directory");
    let recipe = recipe(dir.path());
    let run = dir.path().join("run");
    hone().arg("tune").arg(&recipe).arg("--out").arg(&run).assert().success();
    let run = run.to_string_lossy().into_owned();
    for more in [&["--json"][..], &["--json", "--edit", &run, "--parameters", "lora_b", "--examples", "6"][..]] {
        let text = stdout(&mut alignment(&recipe, more));
        let found: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("not one JSON document ({e}): {text}"));
        let cosine =
            |a: usize, b: usize| found["cosines"][a][b].as_f64().unwrap_or_else(|| panic!("no cosine: {text}"));
        assert!((cosine(0, 1) - 1.0).abs() < 1e-4, "{text}");
        assert!(cosine(0, 2) < 0.99 && cosine(0, 2) == cosine(2, 0), "{text}");
        let mean = (cosine(0, 1) + cosine(0, 2) + cosine(1, 2)) / 3.0;
        assert!((found["mean_cosine"].as_f64().expect("a mean") - mean).abs() < 1e-9, "{text}");
        let read = if more.len() > 1 { 6 } else { 12 };
        assert_eq!((&found["sources"][2]["name"], &found["sources"][2]["examples"]), (&"night".into(), &read.into()));
    }
}

#[test]
fn the_table_names_the_pairs_and_the_help_has_an_example() {
    let dir = tempfile::tempdir().expect("a directory");
    let recipe = recipe(dir.path());
    let text = stdout(&mut alignment(&recipe, &["--parameters", "lora_B"]));
    for part in ["with `lora_B` in their keys of a fresh `lora`", "balls (1)", "mean cosine of 3 pairs: +0.", "night"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(last, "+1.000  balls (1) and balls (2)", "{text}");
    let help = stdout(hone().args(["data", "alignment", "--help"]));
    assert!(help.contains("hone data alignment recipe.yaml --edit runs/first/adapter"), "{help}");
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_next_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let recipe = recipe(dir.path());
    let one = dir.path().join("one.yaml");
    std::fs::write(&one, "model: stories260k\ndata: {path: balls.jsonl}\ntrain: {dtype: f32}\n").expect("written");
    let alone = refused(&mut alignment(&one, &[]));
    assert!(alone.contains("one source") && alone.contains("data.mix"), "{alone}");
    let key = refused(&mut alignment(&recipe, &["--parameters", "lora_C"]));
    assert!(key.contains("`lora_C`") && key.contains("lora_A"), "{key}");
    let none = refused(&mut alignment(&recipe, &["--examples", "0"]));
    assert!(none.contains("--examples"), "{none}");
    let tasks = refused(&mut alignment(&recipe, &["--set", "method={type: poly, n_tasks: 2}"]));
    assert!(tasks.contains("no task 2") && tasks.contains("n_tasks"), "{tasks}");
}
