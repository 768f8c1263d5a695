//! What templates print of the values of data files is what lm-evaluation-harness prints, which reads them through Hugging Face's
//! `datasets` (`tools/golden/data_types.py`): types of the columns of JSON and CSV, and Parquet's kinds that JSON has not.

use std::collections::BTreeMap;
use std::path::Path;

use hone_eval::task::template::Templates;
use hone_eval::{DataRoot, Task};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/types");

#[derive(Deserialize)]
struct Golden {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    reader: String,
    data_files: Map<String, Value>,
    kwargs: Map<String, Value>,
    splits: BTreeMap<String, Split>,
}

#[derive(Deserialize)]
struct Split {
    count: usize,
    /// Of each of the last rows, templates and what they print.
    last: Vec<BTreeMap<String, String>>,
}

/// The rows of a split, by a task file that names the files as they are named there.
fn task(directory: &Path, keys: &Value, split: &str) -> Task {
    let mut keys = keys.as_object().unwrap().clone();
    keys.insert("task".into(), "types".into());
    keys.insert("test_split".into(), split.into());
    keys.insert("doc_to_text".into(), "{{ 1 }}".into());
    keys.insert("doc_to_target".into(), "{{ 2 }}".into());
    let path = directory.join("types.yaml");
    std::fs::write(&path, serde_json::to_string(&keys).unwrap()).unwrap();
    Task::load(path.to_str().unwrap(), &DataRoot { directories: vec![FILES.into()] }).unwrap()
}

fn printed(template: &str, columns: &Map<String, Value>) -> String {
    let mut templates = Templates::new();
    templates.add("it", template).unwrap();
    templates.render("it", columns).unwrap_or_else(|error| format!("error: {error}"))
}

#[test]
fn values_print_as_in_the_harness() {
    let directory = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(Path::new(FILES).join("types.json")).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (name, case) in &golden.cases {
        let mut kwargs = case.kwargs.clone();
        kwargs.insert("data_files".into(), case.data_files.clone().into());
        for (split, expected) in &case.splits {
            let keys = json!({"dataset_path": case.reader, "dataset_kwargs": kwargs});
            let task = task(directory.path(), &keys, split);
            assert_eq!(task.docs.len(), expected.count, "{name}, {split}");
            for (i, row) in expected.last.iter().enumerate() {
                let at = expected.count - expected.last.len() + i;
                let doc = task.docs.get(at).unwrap().unwrap();
                for (template, text) in row {
                    let found = printed(template, &doc.columns);
                    compared += 1;
                    if found != *text {
                        wrong.push(format!("{name}, {split}, row {}: {template}: {found}, not {text}", at + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 500, "{compared}");
}

/// A label of a CSV file is a number, so it names a choice.
#[test]
fn labels_of_csv_files_are_indices() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "task: labels\ndataset_path: csv\ndataset_kwargs: {data_files: {test: csv_labels/labels.csv}}\ntest_split: test\n\
        output_type: multiple_choice\ndoc_to_text: sentence\ndoc_to_target: label\ndoc_to_choice: [\"no\", \"yes\"]\n\
        metric_list: [{metric: acc}]\n";
    let path = directory.path().join("labels.yaml");
    std::fs::write(&path, yaml).unwrap();
    let task = Task::load(path.to_str().unwrap(), &DataRoot { directories: vec![FILES.into()] }).unwrap();
    let labels: Vec<Value> = task.docs.iter().map(|doc| doc.unwrap().columns["label"].clone()).collect();
    assert_eq!(labels, [0, 1, 0, 1, 0, 1].map(Value::from));
}

/// `untyped` leaves values as the file has them.
#[test]
fn values_stay_as_they_are_where_asked() {
    let directory = tempfile::tempdir().unwrap();
    let keys = |file: &str, reader: &str, untyped: bool| {
        let kwargs = json!({"data_files": {"test": file}, "untyped": untyped});
        json!({"dataset_path": reader, "dataset_kwargs": kwargs})
    };
    let first = |keys: &Value| {
        let task = task(directory.path(), keys, "test");
        task.docs.get(0).unwrap().unwrap().columns.clone()
    };
    assert_eq!(first(&keys("csv_types/types.csv", "csv", true))["id"], "00");
    assert_eq!(first(&keys("csv_types/types.csv", "csv", false))["id"], 0);
    let json = first(&keys("json_types/types.jsonl", "json", true));
    assert_eq!((&json["d"], &json["l"]), (&json!("2020-01-03"), &json!([1, 2])));
    assert!(!json.contains_key("late"));
}

/// Other splits are of the types of the one that stands first in the task's file, whatever its name.
#[test]
fn the_split_that_stands_first_decides() {
    let directory = tempfile::tempdir().unwrap();
    let rows = |names: [&str; 2]| {
        let files = json!({names[0]: format!("{}.jsonl", names[0]), names[1]: format!("{}.jsonl", names[1])});
        let keys = json!({"dataset_path": "json", "dataset_kwargs": {"data_files": files}});
        let first = |split| task(directory.path(), &keys, split).docs.first().unwrap().columns["v"].clone();
        (first("a"), first("b"))
    };
    std::fs::write(directory.path().join("a.jsonl"), "{\"v\": 1}\n").unwrap();
    std::fs::write(directory.path().join("b.jsonl"), "{\"v\": 2.0}\n").unwrap();
    assert_eq!(rows(["a", "b"]), (json!(1), json!(2)));
    assert_eq!(rows(["b", "a"]), (json!(1.0), json!(2.0)));
}
