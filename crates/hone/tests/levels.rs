//! `hone data levels` as a person runs it: a collection of small files, split, evaluated and trained on.

use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

/// The verb on the collection in `dir`.
fn levels(dir: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = hone();
    command.args(["data", "levels"]).arg(dir.join("collection.yaml")).arg("--out").arg(dir.join(out)).args(more);
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

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not one JSON document ({error}): {text}"))
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(json_of).collect()
}

const HOLD_OUT: &str = "hold_out: {categories: [animals], tasks: 1, rows: 0.25}\n";

/// Five tasks: two of sums and two of colours as JSON, one of animals as CSV in a data root. `sum` and `animal` share a prompt.
fn collection(dir: &Path, head: &str) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("written");
    std::fs::create_dir_all(dir.join("root")).expect("a directory");
    let numbers = |of: fn(i32, i32) -> i32| {
        let rows: Vec<Value> =
            (0..24).map(|i| json!({"input": format!("{i} {}", i * 7), "output": of(i, i * 7)})).collect();
        json!({"examples": rows}).to_string()
    };
    write("sum.json", numbers(|a, b| a + b));
    write("diff.json", numbers(|a, b| a - b));
    let colours = |what: &str| {
        (0..24)
            .map(|i| format!("{}\n", json!({"prompt": format!("{what} {i}:"), "completion": " red"})))
            .collect::<String>()
    };
    write("light.jsonl", colours("Light"));
    write("dark.jsonl", colours("Dark"));
    let animal = |i: i32| format!("animal number {i},cat\n");
    let animals =
        format!("question,answer\n{}\"Sum.\nInput: 1 7\nOutput:\",8\nnone,\n", (0..12).map(animal).collect::<String>());
    write("root/animal.csv", animals);
    let tasks = r#"
tasks:
  - name: sum
    category: numbers
    path: sum.json
    field: examples
    prompt_template: "Sum.\nInput: {{ input }}\nOutput:"
    completion_template: " {{ output }}"
  - name: diff
    category: numbers
    path: diff.json
    field: examples
    prompt_template: "Subtract.\nInput: {{ input }}\nOutput:"
    completion_template: " {{ output }}"
  - {name: light, category: colours, path: light.jsonl}
  - {name: dark, category: colours, path: dark.jsonl}
  - name: animal
    category: animals
    path: animal.csv
    prompt_template: "{{ question }}"
    completion_template: "{{ answer }}"
"#;
    write("collection.yaml", format!("{head}{tasks}"));
}

#[test]
fn a_collection_is_split_evaluated_and_trained_on() {
    let dir = tempfile::tempdir().expect("a directory");
    collection(dir.path(), &format!("seed: 1\n{HOLD_OUT}"));
    let root = dir.path().join("root").display().to_string();
    let split = json_of(&stdout(&mut levels(dir.path(), "out", &["--json", "--data-root", &root])));
    let out = dir.path().join("out");
    assert_eq!(split, json_of(&std::fs::read_to_string(out.join("split.json")).expect("written")));
    assert_eq!((&split["seed"], split["sha256"].as_str().map(str::len)), (&json!(1), Some(64)));
    let counts: Vec<(&str, u64)> = split["levels"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|level| (level["name"].as_str().expect("a name"), level["tasks"].as_u64().expect("a count")))
        .collect();
    assert_eq!(counts, [("trained", 2), ("rows", 2), ("tasks", 2), ("categories", 1)]);

    // Every row is in one file or counted, and no prompt is in a training and an evaluation file.
    let mut trained = Vec::new();
    let tasks = split["tasks"].as_array().expect("a list");
    let read = |task: &Value, file: &str| task[file].as_str().map_or_else(Vec::new, |path| rows(&out.join(path)));
    for task in tasks {
        let (train, evaluate) = (read(task, "train_file"), read(task, "evaluate_file"));
        assert_eq!((json!(train.len()), json!(evaluate.len())), (task["trained"].clone(), task["evaluated"].clone()));
        let dropped: u64 = task["dropped"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
        let whole = if task["name"] == "animal" { 14 } else { 24 };
        assert_eq!(train.len() + evaluate.len() + dropped as usize, whole, "{task}");
        trained.extend(train.into_iter().map(|row| row["prompt"].clone()));
    }
    for row in tasks.iter().flat_map(|task| read(task, "evaluate_file")) {
        assert!(
            !trained.contains(&row["prompt"]) && row["target"].as_str().is_some_and(|t| !t.starts_with(' ')),
            "{row}"
        );
    }
    let animal = &tasks[4];
    assert_eq!((&animal["level"], &animal["dropped"]["empty"]), (&json!("categories"), &json!(1)));
    let sum_is_trained = trained.contains(&json!("Sum.\nInput: 1 7\nOutput:"));
    assert_eq!(animal["dropped"]["equal_prompt"], json!(u64::from(sum_is_trained)), "{split}");
    assert_eq!(split["shared"].as_array().map(Vec::len), Some(usize::from(sum_is_trained)));

    // The tasks can be evaluated at once, with their labels; and again after a step of training on the rest.
    let group = out.join("levels.yaml");
    let evaluate = |cards: &str, more: &[&str]| {
        let mut command = hone();
        command.args(["eval", "stories260k", "--limit", "2", "--json", "--tasks"]).arg(&group);
        command.arg("--out").arg(dir.path().join(cards)).args(more);
        json_of(&stdout(&mut command))
    };
    let before = evaluate("before", &[]);
    let header =
        before["tasks"].as_array().expect("tasks").iter().find(|task| task["task"] == "animal").expect("animal");
    assert_eq!((&header["labels"]["level"], &header["labels"]["category"]), (&json!("categories"), &json!("animals")));
    assert_eq!(before["tasks"].as_array().map(Vec::len), Some(5));
    let run = dir.path().join("run");
    let recipe = out.join("recipe-data.yaml");
    let set = ["--set", "model=stories260k", "--set", "train.steps=1", "--set", "train.dtype=f32"];
    hone().arg("tune").arg(&recipe).args(set).arg("--out").arg(&run).assert().success();
    evaluate("after", &["--edit", &run.join("adapter").display().to_string()]);
    let mut compare = hone();
    compare.arg("compare").arg(dir.path().join("before")).arg(dir.path().join("after"));
    compare.args(["--measure", "levels", "--json", "--out"]).arg(dir.path().join("comparison"));
    let text = stdout(&mut compare);
    for number in ["rows_gain", "tasks_gain", "categories_gain"] {
        assert!(text.contains(number), "{number}: {text}");
    }
}

#[test]
fn the_table_says_what_was_dropped_and_what_to_do_next() {
    let dir = tempfile::tempdir().expect("a directory");
    collection(dir.path(), "hold_out: {categories: [animals], tasks: [diff], rows: 0}\n");
    let root = dir.path().join("root").display().to_string();
    let text = stdout(&mut levels(dir.path(), "out", &["--data-root", &root]));
    let table: Vec<Vec<&str>> = text.lines().take(5).map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        vec!["level", "categories", "tasks", "rows"],
        vec!["trained", "2", "3", "72"],
        vec!["rows", "0", "0", "0"],
        vec!["tasks", "1", "1", "24"],
        vec!["categories", "1", "1", "12"],
    ];
    assert_eq!(table, expected, "{text}");
    for part in [
        "rows dropped: 1 without an answer, 1 with a prompt that is trained on",
        "7.7 % of `animal` stand in `sum`: 1 equal prompts, 0 by the 13-gram rule",
        "recipe-data.yaml --set model=MODEL",
        "hone compare cards/before cards/after --measure levels",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The same split again needs another place; the first is as it was.
    let again = refused(&mut levels(dir.path(), "out", &["--data-root", &root]));
    assert!(again.contains("is not empty") && again.contains("new directory"), "{again}");
    stdout(&mut levels(dir.path(), "other", &["--data-root", &root]));
    let read = |out: &str, file: &str| std::fs::read_to_string(dir.path().join(out).join(file)).expect("written");
    for file in ["split.json", "levels.yaml", "recipe-data.yaml", "train/sum.jsonl", "evaluate/animal.yaml"] {
        assert_eq!(read("out", file), read("other", file), "{file}");
    }
    let help = stdout(hone().args(["data", "levels", "--help"]));
    assert!(help.contains("hone data levels collection.yaml --out levels"), "{help}");
}

#[test]
fn mistakes_are_named_with_their_line_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root").display().to_string();
    let message = |head: &str, change: (&str, &str)| {
        collection(dir.path(), head);
        let file = dir.path().join("collection.yaml");
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(text.contains(change.0), "{}", change.0);
        std::fs::write(&file, text.replacen(change.0, change.1, 1)).expect("written");
        let message = refused(&mut levels(dir.path(), "out", &["--data-root", &root]));
        assert!(!dir.path().join("out").exists(), "{message}");
        message
    };
    let same = ("sum.json", "sum.json");
    let holds = |head: &str, change: (&str, &str), parts: &[&str]| {
        let text = message(head, change);
        parts.iter().for_each(|part| assert!(text.contains(part), "{part}: {text}"));
    };
    holds("hold_out: {category: 1}\n", same, &["line 1: `hold_out.category`", "did you mean `categories`?", "next:"]);
    holds("hold_out:\n  rows: 2\n", same, &["line 2: `hold_out.rows`: found 2, expected a share"]);
    holds("hold_out:\n  limit: 1\n", same, &["line 2: `hold_out.limit`: found 1"]);
    holds("hold_out: {tasks: much}\n", same, &["`hold_out.tasks`: found \"much\", expected how many"]);
    holds("seed: -1\n", same, &["line 1: `seed`: found -1"]);
    holds("hold_out: {categories: 3}\n", same, &["3 to hold out of 3", "hold out fewer"]);
    holds(HOLD_OUT, ("field: examples", "feild: examples"), &["`tasks.0.feild`", "did you mean `field`?"]);
    holds(HOLD_OUT, ("name: diff", "name: SUM"), &["line 10: `tasks.1.name`: found `SUM` again"]);
    holds(HOLD_OUT, ("name: diff", "name: a/b"), &["`tasks.1.name`: found `a/b`"]);
    holds(HOLD_OUT, ("category: animals", "title: animals"), &["`tasks.4.title`", "an unknown key"]);
    holds(
        HOLD_OUT,
        ("path: sum.json", "path: none.json"),
        &["line 6: `tasks.0.path`", "none.json", "root", "--data-root"],
    );
    holds(HOLD_OUT, ("{{ input }}", "{{ inputs }}"), &["task `sum`", "no `inputs`"]);
    holds(HOLD_OUT, ("{{ input }}", "{{ input"), &["line 8: `tasks.0.prompt_template`", "Jinja"]);
    holds(HOLD_OUT, ("path: dark.jsonl", "path: dark.jsonl, reader: jsn"), &["`tasks.3.reader`", "jsonl"]);
    holds(HOLD_OUT, ("\ntasks:", "\ntask:"), &["line 3: `task`: found an unknown key; did you mean `tasks`?"]);
}
