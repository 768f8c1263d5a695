//! Groups of tasks: which tasks they are, and what is averaged over them.

use std::path::Path;

use hone_eval::scorecard::{MetricValue, ScorecardHeader};
use hone_eval::task::group::{Loaded, load};
use hone_eval::{DataRoot, EvalError};

const MEMBER: &str = "dataset_path: rows.jsonl\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n";

/// A folder with the files of `groups` beside tasks `one`, `two` and `three`.
fn folder(groups: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("rows.jsonl", "{\"q\": \"x\", \"a\": \"y\"}\n");
    for name in ["one", "two", "three"] {
        write(&format!("{name}.yaml"), &format!("task: {name}\n{MEMBER}"));
    }
    groups.iter().for_each(|(name, text)| write(name, text));
    folder
}

fn group(folder: &Path, name: &str) -> Result<Loaded, EvalError> {
    load(folder.join(name).to_str().unwrap(), &DataRoot::default())
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.tasks.iter().map(|task| task.name()).collect()
}

#[test]
fn members_are_names_overrides_and_groups_in_place() {
    let folder = folder(&[
        ("inner.yaml", "group: inner\ntask: [two, three]\n"),
        (
            "all.yaml",
            "group: all\ntask:\n- one\n- inner\n- {group: again, task: [two]}\n- {task: three, num_fewshot: 0, task_alias: x}\n",
        ),
    ]);
    // `three` as it is and `three` with other settings share a name.
    let error = group(folder.path(), "all.yaml").err().unwrap().to_string();
    assert!(error.contains("`three`"), "{error}");
    let text = "group: all\ntask:\n- one\n- inner\n- {group: again, task: [two]}\n";
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    let all = group(folder.path(), "all.yaml").unwrap();
    assert_eq!(names(&all), ["one", "two", "three"]);
    let members: Vec<(&str, usize)> = all.groups.iter().map(|g| (g.name.as_str(), g.tasks.len())).collect();
    assert_eq!(members, [("all", 3), ("inner", 2), ("again", 1)]);
    // A task alone is itself.
    assert_eq!(names(&group(folder.path(), "one.yaml").unwrap()), ["one"]);
}

#[test]
fn overrides_go_over_the_tasks_own_keys() {
    let text = "group: some\ntask: [{task: one, repeats: 3}]\n";
    let loaded = group(folder(&[("some.yaml", text)]).path(), "some.yaml").unwrap();
    assert_eq!(loaded.tasks[0].config.repeats, 3);
}

#[test]
fn mistakes_are_named() {
    let error = |text: &str| {
        let folder = folder(&[("g.yaml", text), ("loop.yaml", "group: loop\ntask: [loop]\n")]);
        group(folder.path(), "g.yaml").err().unwrap().to_string()
    };
    assert!(error("task: [one]\n").contains("group"));
    assert!(error("group: g\ntask: []\n").contains("empty"));
    assert!(error("group: g\ntask: [four]\n").contains("four.yaml"));
    assert!(error("group: g\ntask: [loop]\n").contains("more than 8 deep"));
    assert!(error("group: g\ntask: [one]\nwieght: 1\n").contains("wieght"));
    assert!(error("group: g\ntask: [one]\naggregate_metric_list: [{metric: acc, aggregation: max}]\n").contains("max"));
    assert!(error("group: g\ntask: [{num_fewshot: 1}]\n").contains("task[0]"));
}

fn header(task: &str, n: usize, value: f64, stderr: f64) -> ScorecardHeader {
    let metric = MetricValue {
        name: "acc".into(),
        value,
        stderr: Some(stderr),
        higher_is_better: true,
        aggregation: Default::default(),
        is_share: true,
    };
    ScorecardHeader {
        task: task.into(),
        version: "0".into(),
        task_sha256: String::new(),
        model: String::new(),
        model_sha256: String::new(),
        edit: None,
        edit_sha256: None,
        dtype: "f32".into(),
        kind: "multiple_choice".into(),
        num_fewshot: 0,
        fewshot_seed: 0,
        chat_template: false,
        main_metric: "acc".into(),
        truncated: 0,
        n,
        metrics: vec![metric],
        seconds: 0.0,
        ..ScorecardHeader::default()
    }
}

#[test]
fn means_are_weighted_by_size_unless_told_otherwise() {
    let text = |weight: bool| {
        let aggregates = format!("aggregate_metric_list: {{metric: acc, weight_by_size: {weight}}}");
        format!("group: g\ntask: [one, two]\n{aggregates}\n")
    };
    let headers = [header("one", 100, 0.5, 0.02), header("two", 300, 0.7, 0.01), header("three", 50, 0.0, 0.0)];
    let headers: Vec<&ScorecardHeader> = headers.iter().collect();
    let scores = |weight| {
        let folder = folder(&[("g.yaml", &text(weight))]);
        group(folder.path(), "g.yaml").unwrap().groups[0].scores(&headers)
    };
    let (weighted, plain) = (scores(true), scores(false));
    assert!((weighted[0].value - 0.65).abs() < 1e-12 && (plain[0].value - 0.6).abs() < 1e-12);
    assert_eq!((weighted[0].n, weighted[0].tasks), (400, 2));
    // lm_eval.api.metrics.pooled_sample_stderr([0.02, 0.01], [100, 300])
    assert!((weighted[0].stderr.unwrap() - 0.009_012_136).abs() < 1e-8, "{:?}", weighted[0].stderr);
}
