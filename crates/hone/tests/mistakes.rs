//! What a person does wrong, and what the program says: place, what was found, next step; exit code 2; nothing half-written.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/stories260k");

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

/// The message of a command that fails with exit code 2 and prints no result.
fn refused(command: &mut Command) -> String {
    let output = command.assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// A directory with twenty rows and a recipe for them.
fn recipe() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows: String = (0..20).map(|i| format!("{{\"text\": \"Tom has {i} red balls.\"}}\n")).collect();
    write(dir.path(), "train.jsonl", &rows);
    let text = "model: stories260k\ndata: {path: train.jsonl}\nmethod: {type: lora, r: 2}\n\
        train: {steps: 2, batch_size: 2, dtype: f32}\neval: {limit: 4}\n";
    let recipe = write(dir.path(), "recipe.yaml", text);
    (dir, recipe)
}

/// A copy of the tiny model, to be spoiled.
fn model_in(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    std::fs::create_dir(&model).expect("made");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(Path::new(MODEL).join(file), model.join(file)).expect("copied");
    }
    model
}

#[test]
fn a_reader_that_leaves_and_a_full_disk_are_no_panics() {
    let arguments = ["score", "stories260k", "--file"];
    let dir = tempfile::tempdir().expect("a directory");
    let text = write(dir.path(), "long.txt", &"Once upon a time. ".repeat(4000));
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("hone"))
        .args(arguments)
        .arg(&text)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut first = [0; 4];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("something is printed");
    let output = child.wait_with_output().expect("ended");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("hone"));
        let output = command.args(["pull", "--list"]).stdout(full).output().expect("ended");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains("writing to standard output") && message.contains("next: free some space"),
            "{message}"
        );
    }
}

#[test]
fn files_that_are_not_there_or_cannot_be_used_come_with_a_next_step() {
    let (dir, recipe) = recipe();
    let message = refused(hone().args(["score", "stories260k", "--text", "x", "--edit", "no-such-adapter"]));
    assert!(
        message.contains("no-such-adapter/adapter_config.json") && message.contains("next: check the path"),
        "{message}"
    );
    let message = refused(hone().arg("tune").arg(&recipe).arg("--out").arg(&recipe));
    assert!(message.contains("next: a file stands where a directory is needed"), "{message}");
    let latin = dir.path().join("latin.txt");
    std::fs::write(&latin, b"caf\xe9").expect("written");
    let message = refused(hone().args(["score", "stories260k", "--file"]).arg(&latin));
    assert!(message.contains("latin.txt") && message.contains("UTF-8"), "{message}");
    let message = refused(hone().args(["--data-root", "no-such-root", "eval", "stories260k", "--tasks", "demo_piqa"]));
    assert!(message.contains("--data-root no-such-root: no such directory"), "{message}");
    refused(hone().args(["--threads", "0", "pull", "--list"]));
}

#[test]
fn what_set_says_wrong_is_named_with_set_and_in_plain_words() {
    let (dir, recipe) = recipe();
    let set = |setting: &str| {
        let out = dir.path().join("run");
        let message = refused(hone().arg("tune").arg(&recipe).arg("--out").arg(&out).args(["--set", setting]));
        assert!(!out.exists(), "nothing is begun");
        message
    };
    let message = set("train.steps=six");
    assert!(
        message.contains("--set train.steps=six: `train.steps`: found \"six\", expected a whole number"),
        "{message}"
    );
    let message = set("train.max_grad_norm=null");
    assert!(message.contains("found null, expected a number"), "{message}");
    let message = set("eval.limit=0");
    assert!(message.contains("`eval.limit`: found 0, expected 1 or more"), "{message}");
}

/// A rule that guards nothing, or a target that is not measured, must not surface after the training, or never.
#[test]
fn rules_and_targets_are_checked_before_the_training() {
    let (dir, recipe) = recipe();
    for (setting, what) in [("eval.fail_if.boolq.drop_over=3", "fail_if"), ("eval.target=[boolq]", "target")] {
        let out = dir.path().join("run");
        let mut command = hone();
        command.arg("tune").arg(&recipe).arg("--out").arg(&out);
        command.args(["--set", "eval.before_after=[demo_piqa]", "--set", setting]);
        let message = refused(&mut command);
        assert!(message.contains(&format!("{what}: task `boolq` is not compared; compared: demo_piqa")), "{message}");
        assert!(!out.exists(), "nothing is begun");
    }
}

#[test]
fn a_model_whose_numbers_overflowed_is_no_score_and_no_start() {
    let (dir, recipe) = recipe();
    let model = model_in(dir.path());
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("read");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).expect("written");
    let message = refused(hone().arg("score").arg(&model).args(["--text", "Once upon a time", "--json"]));
    assert!(message.contains("is not a number"), "{message}");
    let tasks = ["--tasks", "demo_piqa", "--limit", "2"];
    let message = refused(hone().arg("eval").arg(&model).args(tasks));
    assert!(message.contains("is not a number"), "{message}");
    let set = format!("model={}", model.display());
    let out = dir.path().join("run");
    let message = refused(hone().arg("tune").arg(&recipe).arg("--out").arg(&out).args(["--set", &set]));
    assert!(message.contains("no loss even before it is trained"), "{message}");
    assert!(!message.contains("report it"), "no fault of ours: {message}");
}

const TASK: &str = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n\
    output_type: multiple_choice\ntest_split: test\ndoc_to_text: \"{{q}}\"\ndoc_to_target: right\ndoc_to_choice: a\n\
    metric_list: [{metric: acc}]\n";

#[test]
fn tasks_that_cannot_be_meant_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", "{\"q\": \"One and\", \"a\": [\"two\", \"ten\"], \"right\": 0}\n");
    let eval = |text: &str, more: &[&str]| {
        let task = write(dir.path(), "task.yaml", text);
        let mut command = hone();
        command.args(["eval", "stories260k", "--tasks"]).arg(&task).args(more);
        command
    };
    eval(TASK, &[]).assert().success();
    let message = refused(&mut eval(&TASK.replace("mine", "../../mine"), &[]));
    assert!(message.contains("expected a name without slashes"), "{message}");
    let message = refused(&mut eval(&TASK.replace("right", "rihgt"), &[]));
    assert!(message.contains("doc_to_target: no question names one of its choices"), "{message}");
    let message = refused(&mut eval(TASK, &["--limit", "0"]));
    assert!(message.contains("--limit"), "{message}");
    let other = write(dir.path(), "piqa.yaml", &TASK.replace("mine", "demo_piqa"));
    let message = refused(hone().args(["eval", "stories260k", "--tasks", "demo_piqa"]).arg("--tasks").arg(&other));
    assert!(message.contains("two different tasks are called `demo_piqa`"), "{message}");
    hone().args(["eval", "--list"]).assert().success();
}

/// A task file lies beside the recipe, and is compared by the name it gives itself.
#[test]
fn rewards_need_something_to_come_from() {
    let asked = ["eval", "stories260k", "--tasks", "rewards_ties"];
    let message = refused(hone().args(asked).args(["--rewards", "implicit"]));
    assert!(message.contains("nothing is tuned") && message.contains("--reference MODEL"), "{message}");
    let message = refused(hone().args(asked).args(["--rewards", "head"]));
    assert!(message.contains("score.weight"), "{message}");
    let message = refused(hone().args(asked).args(["--rewards", "ratings", "--reference", "stories260k"]));
    assert!(message.contains("--rewards implicit"), "{message}");
    let message = refused(hone().args(["eval", "stories260k", "--tasks", "demo_piqa", "--rewards", "ratings"]));
    assert!(message.contains("best_of"), "{message}");
}

#[test]
fn rules_may_call_a_task_by_its_file() {
    let (dir, recipe) = recipe();
    write(dir.path(), "task.yaml", TASK);
    write(dir.path(), "rows.jsonl", "{\"q\": \"One and\", \"a\": [\"two\", \"ten\"], \"right\": 0}\n");
    let run = |rule: &str, out: &str| {
        let mut command = hone();
        command.arg("tune").arg(&recipe).arg("--out").arg(dir.path().join(out));
        command.args([
            "--set",
            "eval.before_after=[task.yaml]",
            "--set",
            &format!("eval.fail_if={{{rule}: {{drop_over: 99}}}}"),
        ]);
        command
    };
    run("task.yaml", "by-file").assert().success();
    run("mine", "by-name").assert().success();
    refused(&mut run("task", "by-neither"));
}

/// A report is there to be shown; and what a comparison leaves out is said.
#[test]
#[cfg(unix)]
fn comparisons_can_be_read_by_others_and_say_what_they_left_out() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let cards = |name: &str, limit: &str| {
        let out = dir.path().join(name);
        hone()
            .args(["eval", "stories260k", "--tasks", "demo_piqa", "--limit", limit, "--out"])
            .arg(&out)
            .assert()
            .success();
        out
    };
    let (base, tuned, out) = (cards("base", "6"), cards("tuned", "4"), dir.path().join("comparison"));
    let compare = |more: &[&str]| {
        let mut command = hone();
        command.arg("compare").arg(&base).arg(&tuned).arg("--out").arg(&out).args(more);
        command
    };
    let shown = compare(&[]).assert().success().get_output().stdout.clone();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("note: demo_piqa: 2 examples are on one side only"), "{shown}");
    for file in [base.join("demo_piqa.jsonl"), out.join("ledger.json"), out.join("report.html")] {
        let mode = std::fs::metadata(&file).expect("is there").permissions().mode();
        assert_eq!(mode & 0o444, 0o444, "{}: {mode:o}", file.display());
    }
    let message = refused(&mut compare(&["--target", "boolq"]));
    assert!(message.contains("target: task `boolq` is not compared"), "{message}");
    refused(&mut compare(&["--fail-if", "demo_piqa=nan"]));
}

/// Who copies an `adapter_config.json` into a recipe has its `peft_type` there.
#[test]
fn a_method_without_its_word_is_told_the_word() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "train.jsonl", "{\"text\": \"Tom has a red ball.\"}\n");
    for (method, expected) in [
        ("{r: 2, peft_type: LORA}", "`type` is missing; PEFT's `peft_type` LORA is `type: lora` here"),
        ("{peft_type: MULTITASK_PROMPT_TUNING}", "is `type: multitask_prompt_tuning` here"),
        ("{peft_type: SOFT}", "`type` is missing, and no method here is PEFT's `peft_type` SOFT"),
        ("{r: 2}", "`type` is missing; write the method's word, as in `type: lora`"),
        ("{type: 3}", "`type` is 3, expected the method's word"),
    ] {
        let text = format!("model: stories260k\ndata: {{path: train.jsonl}}\nmethod: {method}\n");
        let recipe = write(dir.path(), "recipe.yaml", &text);
        let message = refused(hone().arg("tune").arg(&recipe).arg("--out").arg(dir.path().join("run")));
        assert!(message.contains("recipe.yaml, line 3") && message.contains(expected), "{method}: {message}");
    }
}

/// What was noticed about an edit: when it is trained, and, of an adapter without `hone.json` as PEFT writes it, when it is read.
#[test]
fn remarks_on_an_edit_are_made_once() {
    let (dir, recipe) = recipe();
    let run = dir.path().join("run");
    let mut tune = Command::cargo_bin("hone").expect("the binary is built");
    tune.arg("tune").arg(&recipe).arg("--out").arg(&run);
    tune.args(["--set", "method={type: oft, oft_block_size: 7, target_modules: [q_proj]}"]);
    let output = tune.assert().success().get_output().clone();
    let remarks = String::from_utf8_lossy(&output.stderr).into_owned();
    let adjusted = "`oft`: `oft_block_size` 7 does not divide the 64 inputs of `model.layers.0.self_attn.q_proj`";
    assert_eq!(remarks.matches(adjusted).count(), 1, "a size that is not used as given is said: {remarks}");
    let adapter = run.join("adapter");
    std::fs::remove_file(adapter.join("hone.json")).expect("removed");
    let mut score = Command::cargo_bin("hone").expect("the binary is built");
    score.args(["score", "stories260k", "--text", "Once upon", "--edit"]).arg(&adapter);
    let output = score.assert().success().get_output().clone();
    let remarks = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!("note: {}: there is no `hone.json` beside the adapter", adapter.display());
    assert!(remarks.contains(&expected), "{remarks}");
    assert_eq!(remarks.matches(&*adapter.to_string_lossy()).count(), 1, "{remarks}");
}

#[test]
fn a_chat_by_pipe_is_one_document_and_knows_its_commands() {
    let dir = tempfile::tempdir().expect("a directory");
    let model = model_in(dir.path());
    write(&model, "chat_template.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}");
    let mut chat = hone();
    chat.arg("chat").arg(&model).args(["--max-new-tokens", "3", "--json"]);
    let output = chat.write_stdin("Once upon\n/rest\na time\n").assert().success().get_output().clone();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let messages = document["sides"][0]["messages"].as_array().expect("messages");
    let said: Vec<&str> = messages.iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(said, ["user", "assistant", "user", "assistant"], "{document}");
    let remark = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(remark.contains("no command `/rest`"), "{remark}");
    let message = refused(hone().arg("chat").arg(&model).arg("--versus").write_stdin("x\n"));
    assert!(message.contains("name the tuned side with `--edit DIR`"), "{message}");
}

const GOOD: &str = "{\"q\": \"One and\", \"a\": [\"two\", \"ten\"], \"right\": 0}\n";

/// Three tasks, the second and the third with a row that cannot be asked; separated by commas.
fn tasks_with_bad_rows(dir: &Path) -> String {
    let of = |name: &str, rows: &str| TASK.replace("mine", name).replace("rows.jsonl", rows);
    write(dir, "rows.jsonl", GOOD);
    write(dir, "lacks.jsonl", &format!("{GOOD}{{\"q\": \"One and\", \"right\": 0}}\n"));
    write(dir, "void.jsonl", &GOOD.replace("ten", ""));
    let files = [
        write(dir, "lacking.yaml", &of("lacking", "lacks.jsonl")),
        write(dir, "empty.yaml", &format!("{}target_delimiter: ''\n", of("empty", "void.jsonl"))),
        write(dir, "mine.yaml", TASK),
    ];
    files.map(|file| file.display().to_string()).join(",")
}

/// The tasks behind a bad row are scored all the same, and what was not is said at the end.
#[test]
fn a_bad_row_ends_its_own_task_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (tasks, out) = (tasks_with_bad_rows(dir.path()), dir.path().join("cards"));
    let eval = |more: &[&str]| {
        let mut command = hone();
        command.args(["eval", "stories260k", "--tasks", &tasks, "--out"]).arg(&out).args(more);
        command.assert().code(2).get_output().clone()
    };
    let output = eval(&[]);
    let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("mine (v") && !shown.contains("lacking"), "{shown}");
    let end = said.split("error: ").nth(1).expect("an error at the end");
    assert!(end.starts_with("2 of 3 tasks could not be scored"), "{said}");
    for what in ["lacking: ", "lacks.jsonl, row 2: field `a`: is null or missing", "empty: ", "no tokens of its own"] {
        assert!(end.contains(what), "{what}: {said}");
    }
    let is_there = |task: &str| out.join(format!("{task}.jsonl")).exists();
    assert_eq!(["lacking", "empty", "mine"].map(is_there), [false, false, true]);
    let output = eval(&["--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["tasks"][0]["task"], "mine");
    assert_eq!(document["failed"].as_array().map(Vec::len), Some(2), "{document}");
    assert_eq!(document["failed"][0]["name"], "lacking");
    assert!(document["failed"][0]["error"].as_str().is_some_and(|said| said.contains("row 2")), "{document}");
    // Mended, it is scored, and the document has no more to say of failures.
    for file in ["lacks.jsonl", "void.jsonl"] {
        write(dir.path(), file, GOOD);
    }
    let mut mended = hone();
    mended.args(["eval", "stories260k", "--json", "--tasks", &tasks, "--out"]).arg(&out);
    let output = mended.assert().success().get_output().clone();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((document["tasks"].as_array().map(Vec::len), document.get("failed")), (Some(3), None), "{document}");
}

/// As in the harness: a task that two tags have is scored once, one that a group shares with another name is refused.
#[test]
fn a_task_that_is_named_twice_is_scored_once() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", GOOD);
    write(dir.path(), "mine.yaml", &format!("tag: [all, some]\n{TASK}"));
    write(
        dir.path(),
        "other.yaml",
        &format!("tag: all\n{}fewshot_config: {{fewshot_indices: [0]}}\n", TASK.replace("mine", "other")),
    );
    write(dir.path(), "first.yaml", "group: first\ntask: [mine]\naggregate_metric_list: [{metric: acc}]\n");
    write(dir.path(), "second.yaml", "group: second\ntask: [mine]\naggregate_metric_list: [{metric: acc}]\n");
    let eval = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| dir.path().join(name).display().to_string()).collect();
        let mut command = hone();
        command.args(["eval", "stories260k", "--json", "--tasks", &names.join(",")]);
        command
    };
    for (names, tasks, groups) in [
        (&["all", "some"][..], &["mine", "other"][..], None),
        (&["mine.yaml", "all", "mine.yaml"], &["mine", "other"], None),
        (&["first.yaml", "first.yaml"], &["mine"], Some(1)),
    ] {
        let output = eval(names).assert().success().get_output().clone();
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let found: Vec<&str> =
            document["tasks"].as_array().expect("tasks").iter().filter_map(|task| task["task"].as_str()).collect();
        assert_eq!(found, tasks, "{names:?}");
        assert_eq!(document["groups"].as_array().map(Vec::len), groups, "{document}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let warned = said.matches("warning: task `other`: `fewshot_indices` changes no shots").count();
        assert_eq!(warned, usize::from(tasks.contains(&"other")), "{said}");
    }
    for (names, places) in [
        (&["first.yaml", "second.yaml"], "in the group `first` and in the group `second`"),
        (&["mine.yaml", "first.yaml"], "on its own and in the group `first`"),
    ] {
        let message = refused(&mut eval(names));
        assert!(message.contains(&format!("task `mine` is asked for twice, {places}")), "{message}");
    }
}

/// The other members of a group are scored where some need Python; what is left out, and that there is no mean, is said.
#[test]
fn members_that_need_python_are_left_out_and_the_others_scored() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", GOOD);
    write(dir.path(), "mine.yaml", &format!("tag: all\n{TASK}"));
    let snake = TASK.replace("mine", "snake");
    write(dir.path(), "snake.yaml", &format!("tag: all\n{snake}process_docs: !function utils.process\n"));
    let text = "group: both\ntask: [snake, mine]\naggregate_metric_list: [{metric: acc}]\n";
    let group = write(dir.path(), "both.yaml", text).display().to_string();
    let eval = |tasks: &str, more: &[&str]| {
        let mut command = hone();
        command.args(["eval", "stories260k", "--tasks", tasks]).args(more);
        command
    };
    let output = eval(&group, &[]).assert().code(2).get_output().clone();
    let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("mine (v") && !shown.contains("both"), "{shown}");
    let reason = "snake.yaml: process_docs: `!function utils.process` is Python";
    let (begin, end) = said.split_once("error: ").expect("an error at the end");
    assert!(begin.contains("note: snake is left out: ") && begin.contains(reason), "{said}");
    assert!(begin.contains("note: no mean of both is given: 1 of its 2 tasks have no score: snake"), "{said}");
    assert!(end.starts_with("1 of 2 tasks could not be scored") && end.contains(reason), "{said}");
    assert!(end.contains("next: name the tasks that are to be scored"), "{said}");
    let json = |tasks: &str| -> Value {
        let output = eval(tasks, &["--json"]).assert().code(2).get_output().clone();
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    let document = json(&group);
    assert_eq!(document["tasks"][0]["task"], "mine");
    assert_eq!((&document["failed"][0]["name"], document.get("groups")), (&"snake".into(), None), "{document}");
    assert_eq!(document["not_averaged"][0]["group"], "both", "{document}");
    // A tag is no group: there is no mean to miss.
    let document = json(&dir.path().join("all").display().to_string());
    assert_eq!((&document["tasks"][0]["task"], &document["failed"][0]["name"]), (&"mine".into(), &"snake".into()));
    assert_eq!(document.get("not_averaged"), None, "{document}");
    // Alone it is an error before anything is scored.
    let message = refused(&mut eval(&dir.path().join("snake").display().to_string(), &[]));
    assert!(message.contains(reason), "{message}");
    // A bare name is looked for in the working directory.
    let mut here = eval("all", &["--json"]);
    here.current_dir(dir.path()).assert().code(2);
}

/// What can be known of any of the tasks is said before the first is scored, and an evaluation without a row makes no directory.
#[test]
fn what_cannot_be_asked_is_said_before_anything_is_scored() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", GOOD);
    let good = write(dir.path(), "mine.yaml", TASK);
    let writes = TASK
        .replace("multiple_choice", "generate_until")
        .replace("doc_to_choice: a\n", "")
        .replace("acc", "exact_match");
    let writes = write(dir.path(), "writes.yaml", &writes.replace("mine", "writes"));
    let wants = write(dir.path(), "wants.yaml", &format!("{}chat_template: true\n", TASK.replace("mine", "wants")));
    let code = "task: code\ndataset_path: rows.jsonl\noutput_type: generate_until\ndoc_to_text: q\n\
        doc_to_target: \"<<answer>>\"\nmetric_list: [{metric: pass@1}]\n";
    let code = write(dir.path(), "code.yaml", code);
    let out = dir.path().join("new/zz");
    let refusal = |first: &Path, second: &Path, more: &[&str]| {
        let tasks = format!("{},{}", first.display(), second.display());
        let message = refused(hone().args(["eval", "stories260k", "--tasks", &tasks, "--out"]).arg(&out).args(more));
        assert!(!dir.path().join("new").exists(), "nothing is begun: {message}");
        message
    };
    let message = refusal(&good, &wants, &[]);
    assert!(message.contains("wants.yaml: chat_template: ") && message.contains("has no chat template"), "{message}");
    let message = refusal(&writes, &good, &["--against", "openai:http://127.0.0.1:9/v1"]);
    assert!(message.contains("mine.yaml: output_type: ") && message.contains("written answers only"), "{message}");
    let message = refusal(&good, &code, &[]);
    assert!(message.contains("code: ") && message.contains("--run-code"), "{message}");
    // One that is only known when its row is asked for leaves nothing either; a directory that was there stays.
    write(dir.path(), "lacks.jsonl", &GOOD.replace("\"a\": [\"two\", \"ten\"], ", "\"a\": [\"\", \"\"], "));
    let empty = format!("{}target_delimiter: ''\n", TASK.replace("rows.jsonl", "lacks.jsonl"));
    let empty = write(dir.path(), "empty.yaml", &empty);
    let alone = |out: &Path| refused(hone().args(["eval", "stories260k", "--tasks"]).arg(&empty).arg("--out").arg(out));
    assert!(alone(&out).contains("no tokens of its own"));
    assert!(!dir.path().join("new").exists());
    let there = dir.path().join("there");
    std::fs::create_dir(&there).expect("made");
    alone(&there);
    assert_eq!(std::fs::read_dir(&there).expect("stays").count(), 0);
}

#[test]
fn a_right_choice_that_is_not_among_the_choices_is_counted_and_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let wrong = GOOD.replace("\"right\": 0", "\"right\": 7");
    let task = write(dir.path(), "task.yaml", TASK);
    let eval = |rows: &str, more: &[&str]| {
        write(dir.path(), "rows.jsonl", rows);
        let mut command = hone();
        command.args(["eval", "stories260k", "--tasks"]).arg(&task).args(more);
        command
    };
    let shown =
        |command: &mut Command| String::from_utf8_lossy(&command.assert().success().get_output().stdout).into_owned();
    let text = shown(&mut eval(&format!("{GOOD}{wrong}"), &[]));
    assert!(
        text.contains("1 question names a right choice that is not among its choices and counts as wrong"),
        "{text}"
    );
    let text = shown(&mut eval(&format!("{GOOD}{wrong}{wrong}"), &[]));
    assert!(
        text.contains("2 questions name a right choice that is not among their choices and count as wrong"),
        "{text}"
    );
    let text = shown(&mut eval(GOOD, &[]));
    assert!(!text.contains("right choice"), "{text}");
    let text = shown(&mut eval(&format!("{GOOD}{wrong}"), &["--json"]));
    let document: Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!(document["tasks"][0]["gold_missing"], 1, "{document}");
    let message = refused(&mut eval(&wrong, &[]));
    assert!(message.contains("doc_to_target: no question names one of its choices"), "{message}");
}

/// A server that refuses hard questions, and locks out whoever asks a locked one.
fn server() -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("openai:http://{}/v1", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            let asked = String::from_utf8_lossy(&body);
            let (status, text) = match (asked.contains("hard"), asked.contains("locked")) {
                (true, _) => (400, "too hard for me"),
                (_, true) => (401, "not with this key"),
                _ => (200, r#"{"choices": [{"text": "yes"}]}"#),
            };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            let _ = stream.write_all(format!("{head}{text}").as_bytes());
        }
    });
    url
}

#[test]
fn answers_that_a_server_does_not_give_are_counted_and_a_locked_one_ends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = server();
    let task = |name: &str, questions: &[&str]| {
        let rows: String = questions.iter().map(|q| format!("{{\"q\": \"{q}\", \"a\": \"yes\"}}\n")).collect();
        write(dir.path(), &format!("{name}.jsonl"), &rows);
        let text = format!(
            "task: {name}\ndataset_path: {name}.jsonl\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n\
             metric_list: [{{metric: exact_match}}]\n"
        );
        write(dir.path(), &format!("{name}.yaml"), &text).display().to_string()
    };
    let tasks = [task("some", &["easy", "hard", "plain"]), task("shut", &["locked"]), task("last", &["easy"])];
    let eval = |tasks: &str, more: &[&str]| {
        let mut command = hone();
        command.args(["eval", "its-name", "--against", &url, "--tasks", tasks]).args(more);
        command
    };
    let output = eval(&tasks[0], &[]).assert().success().get_output().clone();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("exact_match          0.6667"), "{shown}");
    let expected = "1 answer could not be had and counts as wrong; the first: status 400: too hard for me";
    assert!(shown.contains(expected), "{shown}");
    // The server's fault is no task's: those behind it are not asked.
    let output = eval(&tasks.join(","), &["--json"]).assert().code(2).get_output().clone();
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!((&document["tasks"][0]["task"], &document["tasks"][0]["unanswered"]), (&"some".into(), &1.into()));
    assert_eq!(document["failed"][0]["name"], "shut", "{document}");
    assert!(
        document["failed"][0]["error"].as_str().is_some_and(|said| said.contains("not with this key")),
        "{document}"
    );
    assert_eq!(document["failed"][1]["error"], "not scored, because shut failed", "{document}");
}
