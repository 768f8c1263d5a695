//! The program as a person runs it, on the tiny model that ships with it.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").assert().success().get_output().stdout.clone();
    let text = String::from_utf8(output).expect("UTF-8");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not one JSON document ({e}): {text}"))
}

#[test]
fn generate_and_score_print_one_json_document() {
    let made = json(
        hone()
            .args(["generate", "stories260k", "--prompt", "Once upon a time", "--greedy"])
            .args(["--max-new-tokens", "12"]),
    );
    assert!(made["text"].as_str().is_some_and(|t| t.starts_with(", there was a little girl named Lily")), "{made}");
    assert_eq!(made["finish_reason"], "length");
    assert_eq!(made["ids"].as_array().map(Vec::len), Some(12));
    let score = json(hone().args(["score", "stories260k", "--text", "Once upon a time"]));
    let count = |key: &str| score[key].as_array().map_or(0, Vec::len);
    assert_eq!(count("ids"), count("tokens"));
    assert_eq!(count("logprobs"), count("ids") - 1, "one log-probability a predicted token: {score}");
    assert!(score["perplexity"].as_f64().is_some_and(|p| p > 1.0 && p < 100.0), "{score}");
}

#[test]
fn a_mistake_names_place_and_next_step_and_exits_with_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let recipe = dir.path().join("recipe.yaml");
    std::fs::write(&recipe, "model: stories260k\ndata: {path: no.jsonl}\ntrain: {learning_rat: 1}\n").expect("written");
    let failed = hone().arg("tune").arg(&recipe).arg("--out").arg(dir.path().join("run")).assert().code(2);
    let message = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    assert!(message.contains("recipe.yaml, line 3") && message.contains("did you mean `learning_rate`"), "{message}");
    let failed = hone().args(["generate", "no-such-model", "--prompt", "x"]).assert().code(2);
    assert!(String::from_utf8_lossy(&failed.get_output().stderr).contains("no model `no-such-model`"));
}

/// Added biases have no place in a model whose maps have none: that is said, and the tuning is compared all the same.
#[test]
fn an_edit_that_this_model_cannot_take_in_is_compared_all_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows: String = (0..8).map(|i| format!("{{\"text\": \"Tom has {i} red balls.\"}}\n")).collect();
    std::fs::write(dir.path().join("train.jsonl"), rows).expect("written");
    for method in ["{type: beft}", "{type: lora, r: 2, lora_bias: true}"] {
        let recipe = format!(
            "model: stories260k\ndata: {{path: train.jsonl}}\nmethod: {method}\n\
             train: {{steps: 2, batch_size: 4, learning_rate: 0.01, dtype: f32, validation_every: 0, save_every: 0}}\n\
             eval: {{before_after: [demo_piqa], limit: 4}}\n"
        );
        std::fs::write(dir.path().join("recipe.yaml"), recipe).expect("written");
        let run = dir.path().join(method.len().to_string());
        let tuned = json(hone().arg("tune").arg(dir.path().join("recipe.yaml")).arg("--out").arg(&run));
        assert_eq!(tuned["ledger"]["tasks"][0]["n"], 4, "{tuned}");
        let invariants = std::fs::read_to_string(run.join("invariants.json")).expect("there");
        assert!(invariants.contains("cannot be merged into the weights"), "{method}: {invariants}");
    }
}

/// Tune, compare, guard: the main job in small.
#[test]
fn tune_compares_before_with_after_and_rules_set_the_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let row = |i: usize| format!("{{\"text\": \"Tom has {i} red balls. Tom likes {i} red balls.\"}}\n");
    std::fs::write(dir.path().join("train.jsonl"), (0..40).map(row).collect::<String>()).expect("written");
    let recipe = "model: stories260k\ndata: {path: train.jsonl, validation_fraction: 0.1}\n\
        method: {type: lora, r: 4}\ntrain: {learning_rate: 1.0e-2, steps: 12, batch_size: 4, dtype: f32}\n\
        eval: {before_after: [demo_piqa], limit: 12}\n";
    std::fs::write(dir.path().join("recipe.yaml"), recipe).expect("written");
    let run = dir.path().join("run");
    let tuned = json(hone().arg("tune").arg(dir.path().join("recipe.yaml")).arg("--out").arg(&run));
    assert_eq!(tuned["steps"], 12, "{tuned}");
    assert_eq!(tuned["ledger"]["tasks"][0]["n"], 12, "{tuned}");
    for file in ["recipe.yaml", "provenance.json", "invariants.json", "metrics.jsonl", "ledger.json", "report.html"] {
        assert!(run.join(file).is_file(), "{file} is missing");
    }
    assert!(run.join("adapter/adapter_model.safetensors").is_file());
    let cards = |side: &str| run.join("scorecards").join(side);
    let out = dir.path().join("comparison");
    let compared = |tuned: &Path, rule: &str| {
        let mut command = hone();
        command.arg("compare").arg(cards("base")).arg(tuned).arg("--out").arg(&out).args(["--fail-if", rule]);
        command
    };
    let compare = |rule: &str| compared(&cards("tuned"), rule);
    // A version that is wrong everywhere drops by all that the first one had right: the rule must break.
    let text = std::fs::read_to_string(cards("tuned").join("demo_piqa.jsonl")).expect("a scorecard");
    let wrong = text.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).expect("JSON");
        if row.get("score").is_some() {
            (row["score"], row["scores"]["acc"]) = (0.0.into(), 0.0.into());
        }
        format!("{row}\n")
    });
    let worse = dir.path().join("worse");
    std::fs::create_dir(&worse).expect("made");
    std::fs::write(worse.join("demo_piqa.jsonl"), wrong.collect::<String>()).expect("written");
    compared(&worse, "demo_piqa=1").assert().code(3);
    compared(&worse, "demo_piqa=100").assert().success();
    let refused = compare("demo_piqa=-200").assert().code(2).get_output().stderr.clone();
    let refused = String::from_utf8_lossy(&refused).into_owned();
    assert!(refused.contains("--fail-if") && refused.contains("`demo_piqa=-200`, expected"), "{refused}");
    let ledger = json(&mut compare("demo_piqa=200"));
    for key in
        ["name", "metric", "n", "base", "tuned", "difference", "ci_low", "ci_high", "mcnemar_p", "gained", "lost"]
    {
        assert!(ledger["tasks"][0].get(key).is_some(), "ledger.json has no `{key}`");
    }
    compare("no_such_task=3").assert().code(2);
    // The page says what was compared by its contents: model and adapter.
    let report = std::fs::read_to_string(out.join("report.html")).expect("a report");
    let held = hone_edit::files::contents_sha256(&run.join("adapter")).expect("an adapter");
    assert_eq!(report.matches(&format!("sha256 {held}")).count(), 1, "the contents of the adapter");
    // A study, or a script, reads scores with their intervals and where the rows are.
    let mut eval = hone();
    let base = dir.path().join("cards");
    eval.args(["eval", "stories260k", "--tasks", "demo_piqa,demo_lambada", "--limit", "12", "--out"]).arg(&base);
    let scored = json(&mut eval);
    for task in scored["tasks"].as_array().expect("tasks") {
        for metric in task["metrics"].as_array().expect("metrics") {
            let (name, value) = (metric["name"].as_str().expect("a name"), metric["value"].as_f64().expect("a value"));
            let end = |i: usize| task["intervals"][name][i].as_f64().unwrap_or_else(|| panic!("no interval: {task}"));
            assert!(end(0) <= value && value <= end(1), "{task}");
        }
        let card = std::fs::read_to_string(task["scorecard"].as_str().expect("a path")).expect("the scorecard");
        assert_eq!(card.lines().count(), 13, "a header and a row an example");
    }
    // The merged model is a model.
    let merged = dir.path().join("merged.gguf");
    let mut export = hone();
    export.args(["export", "stories260k", "--format", "gguf-f16", "--edit"]).arg(run.join("adapter"));
    export.arg("--out").arg(&merged).assert().success();
    json(hone().arg("score").arg(&merged).args(["--text", "Tom has red balls."]));
}
