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

/// A tree of files: path and text, beside `rows.jsonl` at every place.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path.with_file_name("rows.jsonl"), "{\"q\": \"x\", \"a\": \"y\"}\n").unwrap();
        std::fs::write(path, text.replace("MEMBER", MEMBER)).unwrap();
    }
    folder
}

fn refused(folder: &Path, name: &str) -> String {
    group(folder, name).err().unwrap().to_string()
}

#[test]
fn members_are_names_overrides_and_groups_in_place() {
    let text = "group: all\ntask:\n- one\n- inner\n- {group: again, task: [two]}\n";
    let folder = folder(&[("inner.yaml", "group: inner\ntask: [two, three]\n"), ("all.yaml", text)]);
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
fn a_name_is_a_tasks_or_a_groups_in_whatever_file_below() {
    let folder = tree(&[
        ("all.yaml", "group: all\ntask: [first, 'second one', few]\n"),
        ("deep/er/some_file.yaml", "\"task\": \"first\"\nMEMBER"),
        ("deep/b.yml", "task: second one # with a comment\nMEMBER"),
        ("deep/c.yaml", "group: few\ntask: [third]\n"),
        ("deep/d.yaml", "task: third\nMEMBER"),
        // Not read while looking for names, since nothing names it.
        ("deep/broken.yaml", "task: [\n"),
        // A nearer file goes before one that lies deeper.
        ("deep/er/more/d.yaml", "task: third\nrepeats: 2\nMEMBER"),
    ]);
    let all = group(folder.path(), "all.yaml").unwrap();
    assert_eq!(names(&all), ["first", "second one", "third"]);
    assert_eq!(all.tasks[2].config.repeats, 1);
    assert_eq!(all.groups[1].tasks, ["third"]);
}

#[test]
fn a_tag_is_its_tasks_in_the_order_of_their_names() {
    let folder = tree(&[
        ("g.yaml", "group: g\ntask:\n- t\n- {task: old, num_fewshot: 0}\n"),
        ("x/1.yaml", "tag: t\ntask: b\nMEMBER"),
        ("x/2.yaml", "tag:\n  - s\n  - t\ntask: a\nMEMBER"),
        // The tag of an included file.
        ("x/3.yaml", "include: sub/common_yaml\ntask: c\n"),
        ("x/sub/common_yaml", "include: more_yaml\ntag: [t]\n"),
        ("x/sub/more_yaml", "MEMBER"),
        // Groups of a task are tags by an old name.
        ("x/4.yaml", "group: [old, older]\ntask: e\nMEMBER"),
        ("x/5.yaml", "group: old\ntask: d\nMEMBER"),
    ]);
    let loaded = group(folder.path(), "g.yaml").unwrap();
    assert_eq!(names(&loaded), ["a", "b", "c", "d", "e"]);
    assert_eq!(loaded.groups.len(), 1);
    let shots: Vec<Option<usize>> = loaded.tasks.iter().map(|task| task.config.num_fewshot).collect();
    assert_eq!(shots, [None, None, None, Some(0), Some(0)]);
    assert_eq!(loaded.groups[0].tasks, ["a", "b", "c", "d", "e"]);
}

#[test]
fn names_are_looked_for_up_to_three_directories_above_and_before_what_ships() {
    let harness = [
        ("top/benchmarks/openllm.yaml", "group: openllm\ntask: [{task: arc_challenge, repeats: 2}]\n"),
        ("top/arc/arc_challenge.yaml", "task: arc_challenge\nMEMBER"),
        ("top/a/b/c/near.yaml", "group: near\ntask: [arc_challenge]\n"),
        ("top/a/b/c/d/far.yaml", "group: far\ntask: [only_above]\n"),
        ("top/only_above.yaml", "task: only_above\nMEMBER"),
    ];
    let folder = tree(&harness);
    let top = folder.path().join("top");
    let loaded = group(&top, "benchmarks/openllm.yaml").unwrap();
    assert!(loaded.tasks[0].file.ends_with("arc/arc_challenge.yaml"), "{}", loaded.tasks[0].file);
    assert_eq!(loaded.tasks[0].config.repeats, 2);
    assert!(group(&top, "a/b/c/near.yaml").unwrap().tasks[0].file.ends_with("arc/arc_challenge.yaml"));
    let error = refused(&top, "a/b/c/d/far.yaml");
    assert!(error.contains("task `only_above`: no task, group or tag"), "{error}");
    // A repository is a border.
    std::fs::create_dir_all(top.join("benchmarks/.git")).unwrap();
    std::fs::write(top.join("benchmarks/openllm.yaml"), "group: openllm\ntask: [only_above]\n").unwrap();
    assert!(refused(&top, "benchmarks/openllm.yaml").contains("only_above"));
}

#[test]
fn tasks_and_what_they_include_may_stand_in_place() {
    let folder = tree(&[
        (
            "held_in.yaml",
            "group: held_in\nrepeats: 2\ntask:\n- group: part\n  task:\n  - {task: p-0, include: sub/base_yaml, doc_to_text: '{{q}}?'}\n  \
             - {task: p-1, include: sub/base_yaml, repeats: 3}\n- {task: p-2, dataset_path: rows.jsonl, doc_to_text: q, doc_to_target: a}\n",
        ),
        ("sub/base_yaml", "repeats: 9\nnum_fewshot: 0\nMEMBER"),
    ]);
    let loaded = group(folder.path(), "held_in.yaml").unwrap();
    assert_eq!(names(&loaded), ["p-0", "p-1", "p-2"]);
    let config = |index: usize| &loaded.tasks[index].config;
    assert_eq!(config(0).doc_to_text, Some("{{q}}?".into()));
    // The group's key, under those of a file that the entry includes, under the entry's own.
    assert_eq!([0, 1, 2].map(|index| config(index).repeats), [9, 3, 2]);
    assert_eq!((config(0).num_fewshot, config(2).num_fewshot), (Some(0), None));
}

#[test]
fn keys_over_a_group_are_those_of_every_member() {
    let folder = folder(&[
        ("inner.yaml", "group: inner\ntask: [two, {task: three, repeats: 4}]\nrepeats: 3\nnum_fewshot: 1\n"),
        ("outer.yaml", "group: outer\ntask: [one, inner]\nrepeats: 2\nmetadata: {version: 7}\n"),
        ("reference.yaml", "group: reference\ntask: [{task: inner, num_fewshot: 5}, {group: inner, num_fewshot: 5}]\n"),
    ]);
    let outer = group(folder.path(), "outer.yaml").unwrap();
    let settings = |loaded: &Loaded| -> Vec<(usize, Option<usize>)> {
        loaded.tasks.iter().map(|task| (task.config.repeats, task.config.num_fewshot)).collect()
    };
    // The outer group goes before the inner one, an entry before both.
    assert_eq!(settings(&outer), [(2, None), (2, Some(1)), (4, Some(1))]);
    assert_eq!(outer.tasks[0].config.version(), "0");
    assert_eq!(settings(&group(folder.path(), "reference.yaml").unwrap()), [(3, Some(5)), (4, Some(5))]);
}

#[test]
fn a_task_that_is_there_twice_is_told_apart_by_its_alias() {
    let text = "group: g\ntask:\n- three\n- {task: three, num_fewshot: 0, task_alias: plain three}\n- three\n";
    let folder = folder(&[
        ("g.yaml", text),
        ("bad.yaml", "group: g\ntask: [three, {task: three, num_fewshot: 0}]\n"),
        ("worse.yaml", "group: g\ntask: [one, three, {task: three, num_fewshot: 0, task_alias: one}]\n"),
    ]);
    let loaded = group(folder.path(), "g.yaml").unwrap();
    assert_eq!(names(&loaded), ["three", "plain three"]);
    assert_eq!(loaded.groups[0].tasks, ["three", "plain three"]);
    assert_eq!(loaded.tasks[1].config.num_fewshot, Some(0));
    assert!(refused(folder.path(), "bad.yaml").contains("two different tasks are called `three`"));
    assert!(refused(folder.path(), "worse.yaml").contains("two different tasks are called `one`"));
}

#[test]
fn one_task_beside_a_group_is_a_group_of_one() {
    let folder = tree(&[
        ("own.yaml", "group: alone\ntask: own\naggregate_metric_list: [{metric: f1}]\nMEMBER"),
        ("named.yaml", "group: named\ntask: own\nrepeats: 2\n"),
        ("both.yaml", "group: both\ntask: [own, named]\n"),
    ]);
    let own = group(folder.path(), "own.yaml").unwrap();
    assert_eq!((own.groups[0].name.as_str(), own.groups[0].tasks.as_slice()), ("alone", ["own".to_owned()].as_slice()));
    assert_eq!(own.groups[0].aggregates[0].metric, "f1");
    let named = group(folder.path(), "named.yaml").unwrap();
    assert_eq!(
        (names(&named), named.tasks[0].config.repeats, named.groups[0].name.as_str()),
        (vec!["own"], 2, "named")
    );
    // In a list `own` is the task, and `named` a group, of which the task would have other keys.
    let error = refused(folder.path(), "both.yaml");
    assert!(error.contains("two different tasks are called `own`"), "{error}");
}

#[test]
fn of_keys_that_stand_twice_the_last_one_counts() {
    let text = "group: no\ngroup: g\ntask: [one]\ntask: [two, {task: three, repeats: 2, repeats: 3}]\n";
    let loaded = group(folder(&[("g.yaml", text)]).path(), "g.yaml").unwrap();
    assert_eq!((names(&loaded), loaded.groups[0].name.as_str()), (vec!["two", "three"], "g"));
    assert_eq!(loaded.tasks[1].config.repeats, 3);
}

#[test]
fn an_included_file_includes_from_where_it_lies_and_under_own_keys() {
    let folder = tree(&[
        ("a/task.yaml", "include: ../b/one_yaml\ntask: t\nprocess_docs: {q: '{{q}}!'}\n"),
        ("b/one_yaml", "include: two_yaml\nrepeats: 2\n"),
        // Python that own keys replace is not read.
        ("b/two_yaml", "repeats: 3\nprocess_docs: !function utils.process\nMEMBER"),
    ]);
    assert_eq!(group(folder.path(), "a/task.yaml").unwrap().tasks[0].config.repeats, 2);
}

#[test]
fn options_that_do_nothing_in_the_harness_do_nothing_here() {
    let choice = "dataset_path: rows.jsonl\noutput_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: 0\n\
                  doc_to_choice: [y, z]\ntask: t\n";
    let load = |more: &str| {
        let folder = tree(&[("t.yaml", &format!("{choice}{more}"))]);
        group(folder.path(), "t.yaml").map(|mut loaded| loaded.tasks.remove(0)).map_err(|error| error.to_string())
    };
    let plain = load("metric_list: [{metric: acc}]\n").unwrap().sha256();
    for idle in [
        "metric_list: [{metric: acc, weight_by_size: true, ignore_case: true, ignore_punctuation: true}]\n",
        "metric_list: [{metric: acc}]\ndataset_kwargs: {streaming: true, trust_remote_code: true, verification_mode: x}\n",
        "metric_list: [{metric: acc}]\ngeneration_kwargs: {num_beams: 1}\n",
    ] {
        assert_eq!(load(idle).map(|task| task.sha256()), Ok(plain.clone()), "{idle}");
    }
    assert!(load("metric_list: [{metric: acc, wieght: 1}]\n").err().unwrap().contains("wieght"));
    let beams = load("generation_kwargs: {num_beams: 4}\n").err().unwrap();
    assert!(beams.contains("generation_kwargs.num_beams: is 4"), "{beams}");
    // `take_first` of one pair of numbers is that pair.
    let filter =
        |step: &str| load(&format!("metric_list: [{{metric: acc}}]\nfilter_list: [{{name: n, filter: [{step}]}}]\n"));
    let columns: Vec<String> = filter("{function: take_first}").unwrap().columns().map(|(name, ..)| name).collect();
    assert_eq!(columns, ["acc,n"]);
    let error = filter("{function: take_first}, {function: regex, regex_pattern: x}").err().unwrap();
    assert!(error.contains("filter_list: `regex` is for written answers"), "{error}");
    // Of written answers these options mean something, or are refused by name.
    let folder = tree(&[(
        "t.yaml",
        "task: t\nmetric_list: [{metric: exact_match, weight_by_size: false, ignore_case: true}]\nMEMBER",
    )]);
    let kept = &group(folder.path(), "t.yaml").unwrap().tasks[0].config.metric_list.clone().unwrap()[0];
    assert_eq!(kept.keys().map(String::as_str).collect::<Vec<_>>(), ["metric", "ignore_case"]);
}

const PYTHON: &str = "process_docs: !function utils.f\nMEMBER";

/// What is left out, by name, with the reasons in one text.
fn left_out(loaded: &Loaded) -> (Vec<&str>, String) {
    let reasons: Vec<&str> = loaded.left_out.iter().map(|left| left.reason.as_str()).collect();
    (loaded.left_out.iter().map(|left| left.name.as_str()).collect(), reasons.join("\n"))
}

#[test]
fn members_of_a_kind_that_is_not_read_are_left_out_by_name() {
    let files = [
        (
            "g.yaml",
            "group: g\ntask: [one, snake, inner, {group: snakes, task: [snake, shell]}, t]\n\
             aggregate_metric_list: [{metric: exact_match}]\n",
        ),
        ("one.yaml", "task: one\nMEMBER"),
        ("snake.yaml", &format!("task: snake\n{PYTHON}")),
        ("shell.yaml", "task: shell\nclass: !function task.Shell\nany_key: 1\n"),
        ("inner.yaml", "group: inner\ntask: [two, seen]\naggregate_metric_list: [{metric: exact_match}]\n"),
        ("two.yaml", "task: two\nMEMBER"),
        ("seen.yaml", "task: seen\ndoc_to_image: picture\nMEMBER"),
        ("t1.yaml", "tag: t\ntask: t1\nprocess_results: !function utils.f\nMEMBER"),
        ("t2.yaml", "tag: t\ntask: t2\nMEMBER"),
        ("whole.yaml", "group: whole\ntask: [one, two]\naggregate_metric_list: [{metric: exact_match}]\n"),
    ];
    let folder = tree(&files);
    let loaded = group(folder.path(), "g.yaml").unwrap();
    assert_eq!(names(&loaded), ["one", "two", "t2"]);
    let (left, reasons) = left_out(&loaded);
    assert_eq!(left, ["snake", "seen", "shell", "t1"]);
    for what in [
        "snake.yaml: process_docs: `!function utils.f` is Python",
        "seen.yaml: doc_to_image: tasks with images are not read",
        "shell.yaml: class: `!function task.Shell` is Python",
        "t1.yaml: process_results: `!function utils.f` is Python",
    ] {
        assert!(reasons.contains(what), "{what}: {reasons}");
    }
    // A group in it of which none is read is no group.
    assert_eq!(loaded.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["g", "inner"]);
    let why = |group: usize, failed: &[&str]| loaded.groups[group].no_mean(failed);
    assert_eq!(why(0, &[]).unwrap(), "4 of its 7 tasks have no score: snake, seen, shell, t1");
    assert_eq!(why(1, &["two"]).unwrap(), "2 of its 2 tasks have no score: seen, two");
    let whole = group(folder.path(), "whole.yaml").unwrap();
    assert_eq!((whole.left_out.len(), whole.groups[0].no_mean(&["other"])), (0, None));
    assert_eq!(whole.groups[0].no_mean(&["one"]).unwrap(), "1 of its 2 tasks have no score: one");
}

#[test]
fn python_is_refused_where_it_is_asked_for_alone_and_where_nothing_else_is() {
    let folder = tree(&[
        ("snake.yaml", &format!("tag: snakes\ntask: snake\n{PYTHON}")),
        ("only.yaml", "group: only\ntask: [snake, {group: again, task: [snake]}]\n"),
        ("typo.yaml", "group: typo\ntask: [snake, wrong]\n"),
        ("wrong.yaml", "task: wrong\nrepaets: 2\nMEMBER"),
        ("over.yaml", "group: over\nprocess_docs: null\ntask: [snake]\n"),
        ("entry.yaml", "group: entry\ntask: [{task: snake, process_docs: {q: '{{q}}!'}}]\n"),
        (
            "beneath.yaml",
            "group: beneath\ndoc_to_text: !function utils.text\ntask: [{task: tame, doc_to_text: q}, tame]\n",
        ),
        ("tame.yaml", "task: tame\nMEMBER"),
        (
            "mean.yaml",
            "group: mean\ntask: [tame]\naggregate_metric_list: [{metric: acc, aggregation: !function a.b}]\n",
        ),
    ]);
    let alone = refused(folder.path(), "snake.yaml");
    assert!(alone.contains("snake.yaml: process_docs: `!function utils.f` is Python"), "{alone}");
    let only = refused(folder.path(), "only.yaml");
    assert!(only.contains("only.yaml: task: no task of it is of a kind that is read: snake: "), "{only}");
    let tag = load(folder.path().join("snakes").to_str().unwrap(), &DataRoot::default()).err().unwrap().to_string();
    assert!(tag.contains("snakes: tag: no task of it is of a kind that is read"), "{tag}");
    // A mistake is none.
    let typo = refused(folder.path(), "typo.yaml");
    assert!(typo.contains("wrong.yaml: repaets: unknown key"), "{typo}");
    // Python that another key lies over is not there.
    for file in ["over.yaml", "entry.yaml"] {
        let loaded = group(folder.path(), file).unwrap();
        assert_eq!((names(&loaded), loaded.left_out.len()), (vec!["snake"], 0), "{file}");
    }
    let beneath = group(folder.path(), "beneath.yaml").unwrap();
    assert_eq!((names(&beneath), left_out(&beneath).0), (vec!["tame"], vec!["tame"]));
    // A mean by Python is none, of a group whose tasks are read.
    let mean = group(folder.path(), "mean.yaml").unwrap();
    let why = mean.groups[0].no_mean(&[]).unwrap();
    assert_eq!(why, "`aggregate_metric_list[0].aggregation` is Python, which is never run");
    assert!(mean.groups[0].scores(&[&header("tame", 10, 0.5, 0.1)]).is_empty());
}

#[test]
fn a_name_alone_is_what_ships_or_lies_in_a_directory_and_below() {
    let folder = tree(&[
        ("top/a.yaml", "tag: t\ntask: b\nMEMBER"),
        ("top/deep/er/c.yaml", "tag: [t, s]\ntask: a\nMEMBER"),
        ("top/deep/g.yaml", "group: g\ntask: [a]\n"),
        ("top/deep/own.yaml", "tag: t\ngroup: old\ntask: own\nMEMBER"),
        ("above.yaml", "tag: u\ntask: above\nMEMBER"),
    ]);
    let find = |name: &str| load(folder.path().join(name).to_str().unwrap(), &DataRoot::default());
    let found = |name: &str| {
        let loaded = find(name).unwrap();
        let tasks: Vec<String> = loaded.tasks.iter().map(|task| task.name().to_owned()).collect();
        (tasks, loaded.groups.len())
    };
    let tasks = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    // A tag is its tasks in the order of their names, and no group.
    assert_eq!(found("top/t"), (tasks(&["a", "b", "own"]), 0));
    assert_eq!(found("top/deep/t"), (tasks(&["a", "own"]), 0));
    assert_eq!(found("top/s"), (tasks(&["a"]), 0));
    assert_eq!(found("top/old"), (tasks(&["own"]), 0));
    assert_eq!(found("top/a"), (tasks(&["a"]), 0));
    assert_eq!(found("top/g"), (tasks(&["a"]), 1));
    // Never above, and not what is not there.
    let message = find("top/u").err().unwrap().to_string();
    assert!(message.contains("top: task `u`: no task, group or tag of that name in this directory"), "{message}");
    let message = find("nowhere/t").err().unwrap().to_string();
    assert!(message.contains("no task `") && message.contains("arc_easy"), "{message}");
    // What ships with the program.
    let demo: Vec<String> =
        load("demo", &DataRoot::default()).unwrap().tasks.iter().map(|task| task.name().to_owned()).collect();
    assert_eq!(demo, ["demo_arc_easy", "demo_instructions", "demo_lambada", "demo_piqa", "demo_worked_answers"]);
    let message = load("demos", &DataRoot::default()).err().unwrap().to_string();
    assert!(message.contains("did you mean `demo`?"), "{message}");
    // In a group's list it is one, too.
    let folder = tree(&[("g.yaml", "group: g\ntask: [demo]\n")]);
    assert_eq!(names(&group(folder.path(), "g.yaml").unwrap()), demo);
}

#[test]
fn mistakes_are_named() {
    let error = |text: &str| {
        let folder = folder(&[("g.yaml", text), ("loop.yaml", "group: loop\ntask: [loop]\n")]);
        refused(folder.path(), "g.yaml")
    };
    assert!(error("task: [one]\n").contains("group"));
    assert!(error("group: g\ntask: []\n").contains("empty"));
    let unknown = error("group: g\ntask: [thre]\n");
    assert!(unknown.contains("task `thre`: no task") && unknown.contains("did you mean `three`?"), "{unknown}");
    assert!(error("group: g\ntask: [{task: four, num_fewshot: 1}]\n").contains("needs `dataset_path`"));
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
    // lm_eval.api.metrics.unweighted_mean_stderr([0.02, 0.01])
    assert!((plain[0].stderr.unwrap() - 0.011_180_339_887_498_95).abs() < 1e-12, "{:?}", plain[0].stderr);
    assert!((weighted[0].value - 0.65).abs() < 1e-12 && (plain[0].value - 0.6).abs() < 1e-12);
    assert_eq!((weighted[0].n, weighted[0].tasks), (400, 2));
    // lm_eval.api.metrics.pooled_sample_stderr([0.02, 0.01], [100, 300])
    assert!((weighted[0].stderr.unwrap() - 0.009_012_136).abs() < 1e-8, "{:?}", weighted[0].stderr);
}

/// `Group.aggregate` of lm-evaluation-harness 0.4.13 finds the filters where none is named, and takes those named as they come.
#[test]
fn a_mean_is_taken_under_every_filter_that_the_tasks_have() {
    let card = |task: &str, columns: &[(&str, f64)]| {
        let mut header = header(task, 10, 0.0, 0.1);
        let metric = header.metrics[0].clone();
        let column =
            |(name, value): &(&str, f64)| MetricValue { name: (*name).into(), value: *value, ..metric.clone() };
        header.metrics = columns.iter().map(column).collect();
        header
    };
    let one = card("one", &[("acc,strict", 0.2), ("acc,flexible", 0.4), ("acc_norm", 1.0)]);
    let two = card("two", &[("acc,strict", 0.4), ("acc", 0.9)]);
    let three = card("three", &[("acc,none", 0.7)]);
    let scores = |filters: &str| -> Vec<(String, usize, f64)> {
        let text = format!("group: g\ntask: [one, two, three]\naggregate_metric_list: [{{metric: acc{filters}}}]\n");
        let folder = folder(&[("g.yaml", &text)]);
        let found = group(folder.path(), "g.yaml").unwrap().groups[0].scores(&[&one, &two, &three]);
        found.into_iter().map(|score| (score.metric, score.tasks, (score.value * 1e9).round() / 1e9)).collect()
    };
    let all = [("acc,flexible".to_owned(), 1, 0.4), ("acc".into(), 2, 0.8), ("acc,strict".into(), 2, 0.3)];
    assert_eq!(scores(""), all);
    assert_eq!(scores(", filter_list: [strict, none]"), [all[2].clone(), all[1].clone()]);
    assert_eq!(scores(", filter_list: flexible"), [all[0].clone()]);
}
