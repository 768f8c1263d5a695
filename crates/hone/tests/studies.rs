//! Studies as a person runs them, on the tiny model that ships with the program: what holds, what is done again, what is refused.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

/// Trains the story teller for a few and for more steps. The last claim is false on purpose.
const TINY: &str = r#"title: Does more training lower the loss on what was trained?
paper: Kaplan et al. 2020, arXiv 2001.08361
about: The loss of a language model falls with the tokens it was trained on.
minutes: 1
needs: {models: [stories260k]}
variables:
  length: [1, 12]
files:
  train.jsonl: |
    {"text": "Tom has one red ball. Tom likes red balls."}
    {"text": "Tom has two red balls. Tom likes red balls."}
    {"text": "Tom has six red balls. Tom likes red balls."}
    {"text": "Tom has ten red balls. Tom likes red balls."}
steps:
  - name: base
    hone: eval stories260k --tasks demo_piqa --limit 8 --out {dir}
  - name: tune-{length}
    files:
      recipe.yaml:
        model: stories260k
        data: {path: "../../{files}/train.jsonl"}
        method: {type: lora, r: 4}
        train: {steps: "{length}", batch_size: 2, learning_rate: 0.01, dtype: f32, save_every: 5}
    hone: tune {dir}/recipe.yaml --out {dir}
    resume: --resume
  - name: score-{length}
    hone: eval stories260k --edit {steps}/tune-{length}/adapter --tasks demo_piqa --limit 8 --out {dir}
measures:
  loss: {json: "tune-{length}/result.json", value: /last_loss}
  base: {scorecard: base/demo_piqa.jsonl, metric: acc}
  accuracy: {scorecard: "score-{length}/demo_piqa.jsonl", metric: acc}
claims:
  - claim: The loss falls
    expected: a fall
    measured: loss[length=1] - loss[length=12]
    holds: "> 0"
  - claim: Stories answer no questions about the world
    measured: max(accuracy - base over length)
    holds: within -100 to 100
    unit: points
  - claim: Twelve steps make it perfect
    measured: accuracy[length=12] - base
    holds: "> 100"
    unit: points
tables:
  - title: Loss by steps
    each: [length]
    columns: [{name: loss, of: loss}, {name: accuracy, of: accuracy, unit: points, interval: true}]
plots:
  - name: loss
    title: The loss falls
    kind: lines
    each: [length]
    x: {of: length, label: steps}
    y: {of: loss, label: loss}
caveats: [Eight questions.]
"#;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

/// A directory with a study in it, under `studies/`.
fn study(name: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("studies")).expect("made");
    std::fs::write(dir.path().join("studies").join(name).with_extension("yaml"), text).expect("written");
    dir
}

fn run(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = hone();
    command.current_dir(dir).args(["study", "run"]).args(arguments);
    command
}

/// The message of a study that is refused before anything runs.
fn refused(text: &str) -> String {
    let dir = study("tiny", text);
    let output = run(dir.path(), &["tiny"]).assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!dir.path().join("runs").exists(), "nothing runs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_study_says_of_each_claim_whether_it_holds_and_does_nothing_twice() {
    let dir = study("tiny", TINY);
    let first = run(dir.path(), &["tiny"]).assert().code(1).get_output().clone();
    let shown = String::from_utf8(first.stdout).expect("UTF-8");
    assert!(shown.contains("yes          The loss falls") && shown.contains("no           Twelve steps"), "{shown}");
    assert!(shown.contains("2 of 3 claims hold"), "{shown}");
    let out = dir.path().join("runs/studies/tiny");
    let page = read(&dir.path().join("docs/studies/tiny.md"));
    assert_eq!(page, read(&out.join("study.md")));
    assert!(dir.path().join("docs/studies/tiny-loss.svg").is_file());
    let place = dir.path().to_string_lossy().into_owned();
    assert!(!page.contains(&place), "the page holds a place of this machine: {page}");
    insta::with_settings!({filters => vec![
        (r"sha256 [0-9a-f]{12}…", "sha256 [hash]…"),
        (r"\| hone \| [0-9.]+ ", "| hone | [version] "),
        (r"\| machine \| .* \|", "| machine | [machine] |"),
        // Digits of a loss may differ between processors.
        (r"\| a fall \| [0-9.]+ ", "| a fall | [number] "),
        (r"\| (1|12) \| [0-9.]+ \|", "| $1 | [number] |"),
        (r"\| time \| [0-9.]+ minutes", "| time | [minutes] minutes"),
    ]}, { insta::assert_snapshot!("tiny_page", page) });
    // Every step's record stays as it is: nothing is done again, and the outcome is the same.
    let results = json(&out.join("results.json"));
    let records =
        || ["base", "tune-1", "tune-12", "score-12"].map(|step| read(&out.join("steps").join(step).join("step.json")));
    let before = records();
    let again = run(dir.path(), &["tiny", "--json"]).assert().code(1).get_output().stdout.clone();
    let again: Value = serde_json::from_slice(&again).expect("one JSON document");
    assert_eq!(records(), before);
    assert_eq!(again["claims"], results["claims"]);
    assert_eq!(again["claims"][2]["holds"], "no");
    // The commands can be typed.
    let commands = read(&out.join("commands.sh"));
    let tune = "hone tune steps/tune-12/recipe.yaml --out steps/tune-12 --json > steps/tune-12/result.json";
    assert!(commands.contains(tune), "{commands}");
    // A changed step is done again, with those that read it; the others are not.
    let changed = TINY.replace("learning_rate: 0.01", "learning_rate: 0.02");
    std::fs::write(dir.path().join("studies/tiny.yaml"), changed).expect("written");
    run(dir.path(), &["tiny"]).assert().code(1);
    let now = records();
    assert_eq!(now[0], before[0]);
    assert!(now[1..].iter().zip(&before[1..]).all(|(now, before)| now != before));
    // Another study does not take over its directory.
    std::fs::write(dir.path().join("studies/other.yaml"), TINY).expect("written");
    let other = run(dir.path(), &["other", "--out", "runs/studies/tiny"]).assert().code(2).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&other).contains("holds a run of the study `tiny`"));
}

/// Starts a study and waits until `file` is there.
fn begun(dir: &Path, file: &str) -> Child {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("hone"));
    command.current_dir(dir).args(["--quiet", "study", "run", "tiny"]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("started");
    let since = Instant::now();
    while !dir.join("runs/studies/tiny/steps").join(file).exists() {
        assert!(since.elapsed() < Duration::from_secs(300), "{file} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// A study whose second step is long enough to be stopped in.
fn long() -> String {
    TINY.replace("length: [1, 12]", "length: [1, 400]").replace("length=12", "length=400")
}

#[test]
fn a_killed_study_goes_on_after_the_steps_that_are_done() {
    let dir = study("tiny", &long());
    let mut child = begun(dir.path(), "tune-400/checkpoints");
    child.kill().expect("killed");
    child.wait().expect("ended");
    let steps = dir.path().join("runs/studies/tiny/steps");
    let before = ["base", "tune-1"].map(|step| read(&steps.join(step).join("step.json")));
    assert_eq!(json(&steps.join("tune-400/step.json"))["state"], "started");
    // The step that outlived the study is waited for, then finished.
    run(dir.path(), &["tiny"]).assert().code(1);
    assert_eq!(["base", "tune-1"].map(|step| read(&steps.join(step).join("step.json"))), before);
    assert_eq!(json(&steps.join("tune-400/result.json"))["steps"], 400);
}

#[cfg(unix)]
#[test]
fn a_stopped_study_lets_its_step_save_and_exits_with_130() {
    let dir = study("tiny", &long());
    let mut child = begun(dir.path(), "tune-400/checkpoints");
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let steps = dir.path().join("runs/studies/tiny/steps");
    let stopped = json(&steps.join("tune-400/result.json"));
    assert_eq!(stopped["reason"], "interrupted", "{stopped}");
    assert!(stopped["steps"].as_u64().is_some_and(|steps| steps < 400), "{stopped}");
    run(dir.path(), &["tiny"]).assert().code(1);
    assert_eq!(json(&steps.join("tune-400/result.json"))["steps"], 400);
}

#[test]
fn a_failed_step_is_named_with_its_command_and_its_messages() {
    let text = TINY.replace("data: {path: \"../../{files}/train.jsonl\"}", "data: {path: nowhere.jsonl}");
    let dir = study("tiny", &text);
    let failed = run(dir.path(), &["tiny"]).assert().code(2).get_output().stderr.clone();
    let message = String::from_utf8_lossy(&failed).into_owned();
    assert!(message.contains("step `tune-1` failed (exit status: 2)"), "{message}");
    assert!(message.contains("hone tune steps/tune-1/recipe.yaml --out steps/tune-1 --json"), "{message}");
    assert!(message.contains("steps/tune-1/log.txt") && message.contains("nowhere.jsonl"), "{message}");
}

#[test]
fn what_could_only_fail_later_is_refused_before_anything_runs() {
    let with = |from: &str, to: &str| {
        assert!(TINY.contains(from), "{from}");
        refused(&TINY.replace(from, to))
    };
    let missing = with("needs: {models: [stories260k]}", "needs: {data: [classification/no_such.jsonl]}");
    assert!(missing.contains("classification/no_such.jsonl") && missing.contains("--data-root"), "{missing}");
    let syntax = with("minutes: 1\n", "minutes: [1\n");
    assert!(syntax.contains("tiny.yaml") && syntax.contains("line"), "{syntax}");
    let key = with("minutes: 1\n", "minuets: 1\n");
    assert!(key.contains("unknown field `minuets`") && key.contains("line 4"), "{key}");
    let placeholder = with("--tasks demo_piqa --limit 8 --out {dir}\n  - name: tune", "--out {dri}\n  - name: tune");
    assert!(placeholder.contains("line 16") && placeholder.contains("did you mean `dir`"), "{placeholder}");
    let unnamed = with("name: score-{length}", "name: score");
    assert!(unnamed.contains("it uses `{length}`, so its name has to"), "{unnamed}");
    let formula = with("measured: loss[length=1] -", "measured: los[length=1] -");
    assert!(formula.contains("`claims.0.measured`: no measure `los`; did you mean `loss`?"), "{formula}");
    let many = with("measured: accuracy[length=12] - base", "measured: accuracy - base");
    assert!(many.contains("a number for every `length`"), "{many}");
    let never = with("loss[length=12]", "loss[length=13]");
    assert!(never.contains("`length` is never `13`"), "{never}");
    let condition = with("holds: \"> 100\"", "holds: maybe");
    assert!(condition.contains("found `maybe`, expected `> 0`"), "{condition}");
    let option =
        with("--tasks demo_piqa --limit 8 --out {dir}\n  - name: tune", "--task demo_piqa --out {dir}\n  - name: tune");
    assert!(option.contains("step `base`") && option.contains("--task"), "{option}");
    let recipe = with("method: {type: lora, r: 4}", "method: {type: lorra}");
    assert!(recipe.contains("step `tune-1`") && recipe.contains("did you mean `lora`"), "{recipe}");
    let nested = with("hone: eval stories260k --tasks demo_piqa --limit 8 --out {dir}", "hone: study list");
    assert!(nested.contains("a study runs no study"), "{nested}");
    let unknown = hone().args(["study", "run", "peft-fronteer"]).assert().code(2).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&unknown).contains("did you mean `peft-frontier`?"));
}

#[test]
fn the_list_says_what_a_study_needs() {
    let dir = study("tiny", TINY);
    let output = hone()
        .env_remove("HONE_DATA")
        .current_dir(dir.path())
        .args(["study", "list", "--json"])
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    let list: Value = serde_json::from_slice(&output).expect("one JSON document");
    let named = |name: &str| list.as_array().and_then(|all| all.iter().find(|s| s["name"] == name)).cloned();
    let tiny = named("tiny").expect("the study of the directory");
    assert_eq!(
        (&tiny["steps"], &tiny["claims"], &tiny["missing_data"]),
        (&5.into(), &3.into(), &serde_json::json!([]))
    );
    let shipped = named("peft-frontier").expect("the study that ships");
    assert_eq!(shipped["missing_data"], shipped["data"], "nothing of it is below an empty directory");
}
