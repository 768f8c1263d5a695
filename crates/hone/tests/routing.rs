//! `hone eval --route` as a person runs it: examples of different adapters in one batch, held against each adapter on its own.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use hone_edit::{Base, Edit, registry, save_edit};
use hone_engine::DType;
use hone_model::{LoadOptions, Model};
use serde_json::{Value, json};

/// An adapter that PEFT made.
fn adapter(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-edit/tests/golden/peft").join(name)
}

/// Rows of three domains, in turn, and two tasks over them: choices, and written answers.
fn tasks(directory: &Path) {
    let domains = ["law", "finance", "other"];
    let words = ["dog", "ball", "girl", "boat", "tree", "bird", "cake"];
    let rows = (0..21).map(|i| {
        let text = format!("Once upon a time there was a {} and a {}. The", words[i % 7], words[(i * 3 + 1) % 7]);
        json!({ "text": text, "domain": domains[i % 3], "answer": i % 2 }).to_string() + "\n"
    });
    std::fs::write(directory.join("rows.jsonl"), rows.collect::<String>()).unwrap();
    let common =
        "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\ndoc_to_text: text\n";
    let choices = "task: choices\noutput_type: multiple_choice\ndoc_to_choice: [' dog was happy', ' little girl saw it']\n\
                   doc_to_target: answer\nmetric_list: [{metric: acc}]\n";
    let written = "task: written\noutput_type: generate_until\ndoc_to_target: domain\n\
                   generation_kwargs: {until: ['.'], max_gen_toks: 12}\nmetric_list: [{metric: exact_match}]\n";
    for (name, text) in [("choices", choices), ("written", written)] {
        std::fs::write(directory.join(format!("{name}.yaml")), format!("{text}{common}")).unwrap();
    }
}

fn eval(directory: &Path, out: &str) -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.current_dir(directory).args(["--quiet", "eval", "stories260k", "--tasks", "choices.yaml,written.yaml"]);
    command.args(["--data-root", ".", "--out", out]);
    command
}

/// The rows of a scorecard, behind its header.
fn card(directory: &Path, out: &str, task: &str) -> (Value, Vec<Value>) {
    let text = std::fs::read_to_string(directory.join(out).join(format!("{task}.jsonl"))).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (lines.next().unwrap(), lines.collect())
}

#[test]
fn every_example_is_answered_with_the_edit_that_its_row_names() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    tasks(at);
    let [law, finance] = ["plain", "rslora"].map(|name| adapter(name).display().to_string());
    let sides = ["law", "finance", "other"];
    for (side, edit) in sides.iter().zip([Some(&law), Some(&finance), None]) {
        let mut command = eval(at, side);
        edit.into_iter().for_each(|edit| {
            command.args(["--edit", edit]);
        });
        command.assert().success();
    }
    let routed = |out: &str| {
        let mut command = eval(at, out);
        command.args(["--route", "domain", "--edit-for", "other="]);
        command.args(["--edit-for", &format!("law={law}"), "--edit-for", &format!("finance={finance}")]);
        command
    };
    routed("routed").assert().success();
    let mut told_apart = 0;
    for task in ["choices", "written"] {
        let (header, rows) = card(at, "routed", task);
        assert!(header["edit"].as_str().is_some_and(|edit| edit.starts_with("by `domain`: other=, law=")), "{header}");
        let alone = sides.map(|side| card(at, side, task).1);
        assert_eq!(rows.len(), 21);
        for (i, row) in rows.iter().enumerate() {
            assert!(same(row, &alone[i % 3][i]), "{task}: {row} and {} of `{}`", alone[i % 3][i], sides[i % 3]);
            told_apart += usize::from(!same(row, &alone[(i + 1) % 3][i]));
        }
    }
    assert!(told_apart > 21, "the adapters differ in what they answer: {told_apart}");

    // The same again is there already; another edit for a value is another evaluation.
    let before = std::fs::read(at.join("routed/choices.jsonl")).unwrap();
    routed("routed").assert().success();
    assert_eq!(std::fs::read(at.join("routed/choices.jsonl")).unwrap(), before);
    let mut swapped = eval(at, "routed");
    swapped.args(["--route", "domain", "--edit-for", "other="]);
    swapped.args(["--edit-for", &format!("law={finance}"), "--edit-for", &format!("finance={law}")]);
    swapped.assert().success();
    assert_ne!(std::fs::read(at.join("routed/choices.jsonl")).unwrap(), before);
}

/// Whether two rows say the same, log-likelihoods but for rounding: a map with several edits adds up in another order.
fn same(a: &Value, b: &Value) -> bool {
    let scored = |row: &Value| -> Vec<f64> {
        let choices = row["choices"].as_array().cloned().unwrap_or_default();
        choices.iter().filter_map(|choice| choice["log_likelihood"].as_f64()).collect()
    };
    let (first, second) = (scored(a), scored(b));
    a["answer"] == b["answer"]
        && first.len() == second.len()
        && first.iter().zip(&second).all(|(first, second)| (first - second).abs() < 1e-3)
}

#[test]
fn what_cannot_be_routed_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    tasks(at);
    let refused = |arguments: &[&str]| {
        let output = eval(at, "out").args(arguments).assert().code(2).get_output().clone();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let law = format!("law={}", adapter("plain").display());
    let missing = refused(&["--route", "domain", "--edit-for", &law]);
    assert!(
        missing.contains("`domain` is `finance`, which no edit is for") && missing.contains("rows.jsonl"),
        "{missing}"
    );
    let column = refused(&["--route", "domian", "--edit-for", &law]);
    assert!(column.contains("no column `domian`; did you mean `domain`?"), "{column}");
    let twice = refused(&["--route", "domain", "--edit-for", &law, "--edit-for", "law="]);
    assert!(twice.contains("`--edit-for law=…` is given twice"), "{twice}");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    let model = Model::load(model.to_str().unwrap(), options).unwrap();
    for word in ["prompt_tuning", "prefix_tuning"] {
        let recipe = json!({ "type": word, "num_virtual_tokens": 2 });
        let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
        save_edit(&Edit::new(method, &Base::of(&model), 1).unwrap(), &at.join(word)).unwrap();
        let law = format!("law={word}");
        let all = ["--route", "domain", "--edit-for", &law, "--edit-for", "finance=", "--edit-for", "other="];
        let shared = refused(&all);
        assert!(shared.contains("cannot be routed") && shared.contains("virtual tokens"), "{shared}");
    }
}

/// An adapter of elsewhere brings a note.
#[test]
fn the_notes_of_an_edit_for_all_rows_are_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    tasks(at);
    let [all, law] = ["plain", "rslora"].map(adapter);
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.current_dir(at).args(["eval", "stories260k", "--tasks", "choices.yaml", "--data-root", "."]);
    command.arg("--edit").arg(&all).args(["--route", "domain", "--edit-for", &format!("law={}", law.display())]);
    command.args(["--edit-for", "finance=", "--edit-for", "other="]);
    let output = command.assert().success().get_output().clone();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for path in [&all, &law] {
        assert_eq!(said.matches(&format!("note: {}: ", path.display())).count(), 1, "{said}");
    }
}
