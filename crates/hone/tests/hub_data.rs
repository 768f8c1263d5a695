//! A harness task that names a data set of the hub, whose files are in the hub's cache.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/stories260k");

/// lm-evaluation-harness' `arc_easy.yaml`, its keys as they are.
const ARC_EASY: &str = "tag:\n  - ai2_arc\ntask: arc_easy\ndataset_path: allenai/ai2_arc\ndataset_name: ARC-Easy\n\
    output_type: multiple_choice\ntraining_split: train\nvalidation_split: validation\ntest_split: test\n\
    doc_to_text: \"Question: {{question}}\\nAnswer:\"\ndoc_to_target: \"{{choices.label.index(answerKey)}}\"\n\
    doc_to_choice: \"{{choices.text}}\"\nshould_decontaminate: true\n\
    doc_to_decontamination_query: \"Question: {{question}}\\nAnswer:\"\nmetric_list:\n  - metric: acc\n    aggregation: mean\n\
    \x20   higher_is_better: true\n  - metric: acc_norm\n    aggregation: mean\n    higher_is_better: true\nmetadata:\n  version: 1.0\n\
    dataset_kwargs:\n  trust_remote_code: true\n";

/// A cache as `huggingface_hub` writes it: files in `blobs`, links to them in a snapshot.
fn cache(home: &Path) {
    let set = home.join("hub/datasets--allenai--ai2_arc");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ai2_arc");
    let snapshot = set.join("snapshots/210d026faf9955653af8916fad021475a3f00453");
    std::fs::create_dir_all(snapshot.join("ARC-Easy")).expect("made");
    for directory in ["refs", "blobs"] {
        std::fs::create_dir_all(set.join(directory)).expect("made");
    }
    std::fs::write(set.join("refs/main"), "210d026faf9955653af8916fad021475a3f00453").expect("written");
    for file in ["README.md", "ARC-Easy/test-00000-of-00002.parquet", "ARC-Easy/test-00001-of-00002.parquet"] {
        let blob = set.join("blobs").join(file.replace('/', "_"));
        std::fs::copy(fixture.join(file), &blob).expect("copied");
        std::os::unix::fs::symlink(&blob, snapshot.join(file)).expect("linked");
    }
}

fn eval(home: &Path, task: &Path, out: &Path) -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.args(["--quiet", "eval", "stories260k", "--tasks"]).arg(task).arg("--out").arg(out);
    command.env("HF_HOME", home).env_remove("HF_HUB_CACHE").env_remove("HONE_DATA");
    command
}

fn rows(card: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(card).expect("a scorecard");
    text.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn written(directory: &Path, yaml: &str) -> PathBuf {
    let path = directory.join("task.yaml");
    std::fs::write(&path, yaml).expect("written");
    path
}

#[test]
fn the_harness_own_file_is_evaluated_from_the_hubs_cache() {
    let directory = tempfile::tempdir().expect("a directory");
    let (home, out) = (directory.path().join("home"), directory.path().join("cards"));
    cache(&home);
    let task = written(directory.path(), ARC_EASY);
    eval(&home, &task, &out).assert().success();
    let found = rows(&out.join("arc_easy.jsonl"));
    let targets: Vec<&str> = found.iter().map(|row| row["target"].as_str().expect("a text")).collect();
    assert_eq!(targets, ["the Sun", "carbon dioxide", "a hen", "water", "Mars"], "both shards, in order");
    assert_eq!(found[3]["choices"].as_array().map(Vec::len), Some(4));
    assert_eq!(found[4]["prompt"], "Question: Which of these is a planet?\nAnswer:");
    // A directory laid out so is read by its path, and a file or a pattern inside a data set by its name.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ai2_arc");
    for yaml in [
        ARC_EASY.replace("allenai/ai2_arc", &path.display().to_string()),
        ARC_EASY.replace("dataset_kwargs:\n", "dataset_kwargs:\n  data_files: {test: ARC-Easy/test-*}\n"),
    ] {
        let out = directory.path().join("again");
        eval(&home, &written(directory.path(), &yaml), &out).assert().success();
        assert_eq!(rows(&out.join("arc_easy.jsonl")), found);
        std::fs::remove_dir_all(out).expect("removed");
    }
}

/// Files that a task calls by their place on the hub, as the harness' `arithmetic` does; and a data set that is a script.
#[test]
fn a_file_on_the_hub_is_read_from_the_cache_and_a_script_is_never_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let (home, out) = (directory.path().join("home"), directory.path().join("cards"));
    cache(&home);
    let file = "210d026faf9955653af8916fad021475a3f00453";
    let on_the_hub = |place: &str| {
        ARC_EASY
            .replace("dataset_path: allenai/ai2_arc\ndataset_name: ARC-Easy", "dataset_path: parquet")
            .replace("dataset_kwargs:\n", &format!("dataset_kwargs:\n  data_files: {{test: hf://datasets/{place}}}\n"))
    };
    for (place, questions) in [
        ("allenai/ai2_arc/ARC-Easy/test-*".to_owned(), 5),
        (format!("allenai/ai2_arc@{file}/ARC-Easy/test-00001-of-00002.parquet"), 2),
    ] {
        eval(&home, &written(directory.path(), &on_the_hub(&place)), &out).assert().success();
        assert_eq!(rows(&out.join("arc_easy.jsonl")).len(), questions, "{place}");
        std::fs::remove_dir_all(&out).expect("removed");
    }
    let refused = |yaml: &str| {
        let failed = eval(&home, &written(directory.path(), yaml), &out).assert().code(2);
        String::from_utf8_lossy(&failed.get_output().stderr).into_owned()
    };
    let absent = refused(&on_the_hub("allenai/ai2_arcs/a.parquet"));
    assert!(absent.contains("hf download --repo-type dataset allenai/ai2_arcs"), "{absent}");
    let missing = refused(&on_the_hub("allenai/ai2_arc/b.parquet"));
    assert!(missing.contains("b.parquet` not found"), "{missing}");
    let set = home.join("hub/datasets--someone--made/snapshots/c0ffee");
    std::fs::create_dir_all(&set).expect("made");
    std::fs::create_dir_all(home.join("hub/datasets--someone--made/refs")).expect("made");
    std::fs::write(home.join("hub/datasets--someone--made/refs/main"), "c0ffee").expect("written");
    std::fs::write(set.join("made.py"), "raise SystemExit").expect("written");
    let script = refused(&ARC_EASY.replace("allenai/ai2_arc\ndataset_name: ARC-Easy", "someone/made"));
    assert!(script.contains("its rows are made by Python (`made.py`), which is never run"), "{script}");
}

/// The items of RewardBench 2 in a file of its layout, scored by the fixture's reward head.
#[test]
fn a_published_benchmark_is_read_by_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let set = directory.path().join("hub/datasets--allenai--reward-bench-2");
    let snapshot = set.join("snapshots/c0ffee/data");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reward_adapter");
    let out = directory.path().join("cards");
    let eval = || {
        let mut command = Command::cargo_bin("hone").expect("the binary is built");
        command
            .args(["--quiet", "eval", MODEL, "--rewards", "head", "--chat-template", "false", "--edit"])
            .arg(&shipped);
        command.args(["--tasks", "rewardbench2_math", "--out"]).arg(&out).env("HF_HOME", directory.path());
        command
    };
    let failed = eval().assert().code(2);
    let message = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    assert!(message.contains("hf download --repo-type dataset allenai/reward-bench-2"), "{message}");
    std::fs::create_dir_all(&snapshot).expect("made");
    std::fs::create_dir_all(set.join("refs")).expect("made");
    std::fs::write(set.join("refs/main"), "c0ffee").expect("written");
    let item = |id: usize, subset: &str| {
        serde_json::json!({"id": id.to_string(), "prompt": format!("What is {id} + 1?"), "subset": subset,
            "chosen": [format!("{}", id + 1)], "rejected": ["7 or 8", "a few", "no idea"]})
    };
    let items = [item(0, "Math"), item(1, "Focus"), item(2, "Math")];
    let text: String = items.iter().map(|item| format!("{item}\n")).collect();
    std::fs::write(snapshot.join("test-00000-of-00001.jsonl"), text).expect("written");
    eval().assert().success();
    let found = rows(&out.join("rewardbench2_math.jsonl"));
    assert_eq!(found.iter().map(|row| &row["target"]).collect::<Vec<_>>(), ["1", "3"]);
    assert!(found.iter().all(|row| row["rewards"].as_array().is_some_and(|rewards| rewards.len() == 4)));
}

#[test]
fn what_is_not_in_the_cache_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let (home, out) = (directory.path().join("home"), directory.path().join("cards"));
    cache(&home);
    let refused = |yaml: &str| {
        let task = written(directory.path(), yaml);
        let failed = eval(&home, &task, &out).assert().code(2);
        String::from_utf8_lossy(&failed.get_output().stderr).into_owned()
    };
    let absent = refused(&ARC_EASY.replace("ai2_arc\nd", "ai2_arcs\nd"));
    assert!(absent.contains("hf download --repo-type dataset allenai/ai2_arcs"), "{absent}");
    let configuration = refused(&ARC_EASY.replace("ARC-Easy", "ARC-Hard"));
    assert!(
        configuration.contains("no configuration `ARC-Hard`; there are `ARC-Challenge`, `ARC-Easy`"),
        "{configuration}"
    );
    let split = refused(&ARC_EASY.replace("test_split: test", "test_split: tests"));
    assert!(split.contains("no split `tests`; there are `train`, `validation`, `test`"), "{split}");
    let files = refused(&ARC_EASY.replace("test_split: test", "test_split: train"));
    assert!(files.contains("no file of the split `train` is there"), "{files}");
    let revision = refused(&ARC_EASY.replace("dataset_kwargs:\n", "dataset_kwargs:\n  revision: v2\n"));
    assert!(revision.contains("no data set in the hub's cache"), "{revision}");
}
