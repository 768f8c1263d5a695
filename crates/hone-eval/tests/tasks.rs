//! Tasks from file to prompt.

use std::path::Path;

use hone_eval::EvalError;
use hone_eval::task::group;
use hone_eval::task::{DataRoot, Item, PromptOptions, Prompts, Question, Task, bundled};
use hone_model::template::ChatTemplate;
use serde_json::Map;

/// A task file with a data file beside it.
fn task(yaml: &str, data: &str) -> Result<Task, EvalError> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("data.jsonl"), data).unwrap();
    let file = directory.path().join("task.yaml");
    std::fs::write(&file, yaml).unwrap();
    Task::load(file.to_str().unwrap(), &DataRoot::default())
}

fn item(task: &Task, index: usize, options: &PromptOptions) -> Item {
    let mut prompts = Prompts::new(task, None, options).unwrap();
    (0..=index).map(|i| prompts.item(i).unwrap()).last().unwrap()
}

/// A whole answer is what the template makes of the conversation with it, behind what it makes of the question: what is read is
/// then, to the letter, the conversation that a reward model was trained on.
#[test]
fn whole_answers_end_as_the_template_ends_a_turn() {
    let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>\n{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    let template = |source: &str| ChatTemplate::new(Path::new("t"), source.into(), None, Map::new()).unwrap();
    let task = task(&format!("{CHOICE}description: Choose.\n"), ROWS).unwrap();
    let asked = |source: &str, whole_turns: bool| {
        let options = PromptOptions { seed: 1234, multiturn: true, whole_turns, ..Default::default() };
        Prompts::new(&task, Some(&template(source)), &options).unwrap().item(1)
    };
    let Question::Choices { contexts, continuations, choices, .. } = asked(turns, true).unwrap().question else {
        panic!()
    };
    assert_eq!(contexts, ["<system>Choose.</system>\n<user>Question: two?\nAnswer:</user>\n<assistant>"]);
    assert_eq!(continuations, ["c</assistant>\n", "d</assistant>\n", "e</assistant>\n"]);
    assert_eq!(choices, ["c", "d", "e"], "without what ends them");
    let Question::Choices { continuations, .. } = asked(turns, false).unwrap().question else { panic!() };
    assert_eq!(continuations, ["c", "d", "e"]);
    // One that writes the question otherwise once it is answered has no place where the answer begins.
    let counting = format!("{{{{ messages | length }}}}{turns}");
    let message = asked(&counting, true).unwrap_err().to_string();
    assert!(message.contains("chat template") && message.contains("another way"), "{message}");
}

const CHOICE: &str = r#"
task: t
dataset_path: data.jsonl
output_type: multiple_choice
doc_to_text: "Question: {{q}}\nAnswer:"
doc_to_target: gold
doc_to_choice: choices
"#;

const ROWS: &str = r#"{"q": "one?", "choices": ["a", "b"], "gold": 1}
{"q": "two?", "choices": ["c", "d", "e"], "gold": 0}
{"q": "three?", "choices": ["f", "g"], "gold": 1}
"#;

/// Filters that look for the text of a choice are given the question's own: the column, or else what `doc_to_choice` makes.
#[test]
fn a_filter_finds_the_choices_of_its_question() {
    let yaml = |choices: &str, filter: &str| {
        format!(
            "task: t\ndataset_path: data.jsonl\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: gold\n{choices}\
             filter_list: [{{name: f, filter: [{{function: {filter}}}]}}]\n"
        )
    };
    let found = |choices: &str, filter: &str, row: &str| {
        Prompts::new(&task(&yaml(choices, filter), row).unwrap(), None, &PromptOptions::default()).unwrap().item(0)
    };
    let column = r#"{"q": "one?", "choices": ["yes", "no"], "gold": "(A)"}"#;
    assert_eq!(found("", "multi_choice_regex", column).unwrap().choices, ["yes", "no"]);
    assert!(found("", "lowercase", column).unwrap().choices.is_empty());
    let own = r#"{"q": "one?", "gold": 1}"#;
    assert_eq!(found("doc_to_choice: [c, d]\n", "multi_choice_regex", own).unwrap().choices, ["c", "d"]);
    let message = found("", "multi_choice_regex", own).unwrap_err().to_string();
    assert!(message.contains("choices: no such column") && message.contains("multi_choice_regex"), "{message}");
}

#[test]
fn shots_stand_before_the_question_and_never_hold_it() {
    let task = task(&format!("{CHOICE}description: \"Choose.\\n\"\n"), ROWS).unwrap();
    let zero = item(&task, 0, &PromptOptions { seed: 1234, ..Default::default() });
    assert_eq!(zero.prompt, "Choose.\nQuestion: one?\nAnswer:");
    assert_eq!(zero.target, "b");
    let Question::Choices { continuations, gold, .. } = &zero.question else { panic!("{zero:?}") };
    assert_eq!(
        (continuations.as_slice(), gold.indices.as_slice()),
        ([" a".to_owned(), " b".to_owned()].as_slice(), [1].as_slice())
    );
    let options = PromptOptions { num_fewshot: Some(2), seed: 1234, ..Default::default() };
    for index in 0..3 {
        let prompt = item(&task, index, &options).prompt;
        assert_eq!(prompt.matches("Question:").count(), 3);
        let own = ["one?", "two?", "three?"][index];
        assert_eq!(prompt.matches(own).count(), 1, "{prompt}");
        assert!(prompt.ends_with(&format!("\n\nQuestion: {own}\nAnswer:")), "{prompt}");
        assert_eq!(prompt.contains("two?\nAnswer: c\n\n"), index != 1);
    }
    let three = PromptOptions { num_fewshot: Some(3), ..options };
    assert!(Prompts::new(&task, None, &three).unwrap().item(0).unwrap_err().to_string().contains("2 are there"));
}

/// `fewshot_indices` is inert in the harness, whose samplers never see it; `rows` is hone's own.
#[test]
fn rows_are_what_shots_are_drawn_from_and_indices_change_nothing() {
    let prompt = |config: &str| {
        let yaml = format!("{CHOICE}num_fewshot: 1\nfewshot_config: {{sampler: first_n{config}}}\n");
        item(&task(&yaml, ROWS).unwrap(), 0, &PromptOptions::default()).prompt
    };
    assert_eq!(prompt(", fewshot_indices: [2]"), prompt(""));
    assert_ne!(prompt(", rows: [2]"), prompt(""));
    let yaml = format!("{CHOICE}num_fewshot: 1\nfewshot_config: {{rows: [99]}}\n");
    let error = Prompts::new(&task(&yaml, ROWS).unwrap(), None, &PromptOptions::default()).err().unwrap().to_string();
    assert!(error.contains("fewshot_config.rows: 99 is beyond the"), "{error}");
}

#[test]
fn zero_shots_in_the_file_stay_zero() {
    let task = task(&format!("{CHOICE}num_fewshot: 0\n"), ROWS).unwrap();
    let options = PromptOptions { num_fewshot: Some(2), ..Default::default() };
    assert_eq!(Prompts::new(&task, None, &options).unwrap().shots(), 0);
}

#[test]
fn a_question_that_is_an_index_makes_the_choices_contexts() {
    let yaml = r#"
task: blank
dataset_path: data.jsonl
output_type: multiple_choice
doc_to_text: "{{ gold }}"
doc_to_target: "{{ s[s.index('_') + 1:].strip() }}"
doc_to_choice: "{{ [s[:s.index('_')] + a, s[:s.index('_')] + b] }}"
"#;
    let rows = r#"{"s": "Ann met Bo so _ left.", "a": "Ann", "b": "Bo", "gold": 1}
{"s": "It's _ !", "a": "x", "b": "y", "gold": 0}
"#;
    let task = task(yaml, rows).unwrap();
    let item = item(&task, 0, &PromptOptions { num_fewshot: Some(1), seed: 1234, ..Default::default() });
    let Question::Choices { contexts, continuations, gold, .. } = &item.question else { panic!("{item:?}") };
    assert_eq!(contexts[1], "It's x !\n\nAnn met Bo so Bo");
    assert_eq!(continuations, &[" left."]);
    assert_eq!(gold.indices, [1]);
}

#[test]
fn mistakes_in_rows_and_files_are_named() {
    let error = |yaml: &str, rows: &str| task(yaml, rows).err().map(|e| e.to_string()).unwrap_or_default();
    let missing = error(CHOICE, r#"{"question": "one?", "choices": ["a"], "gold": 0}"#);
    assert!(
        missing.contains("data.jsonl, row 1: doc_to_text: field `q` is missing; the row has: question"),
        "{missing}"
    );
    let broken = error(CHOICE, &format!("{ROWS}{{\"q\": "));
    assert!(broken.contains("row 4"), "{broken}");
    let list = error(CHOICE, r#"{"q": "one?", "choices": "a, b", "gold": 0}"#);
    assert!(list.contains("doc_to_choice: found `a, b`, expected a list"), "{list}");
    assert!(error(CHOICE, "").contains("no examples"), "{}", error(CHOICE, ""));
    let hub = error(&CHOICE.replace("data.jsonl", "allenai/ai2_arc"), ROWS);
    assert!(hub.contains("give local files in `dataset_kwargs.data_files`"), "{hub}");
    let absent = error(&CHOICE.replace("data.jsonl", "nowhere.jsonl"), ROWS);
    assert!(absent.contains("nowhere.jsonl") && absent.contains("HONE_DATA"), "{absent}");
    let metric = error(&format!("{CHOICE}metric_list: [{{metric: acuracy}}]\n"), ROWS);
    assert!(metric.contains("unknown metric `acuracy`"), "{metric}");
    let unknown = Task::load("arc_eazy", &DataRoot::default()).err().unwrap().to_string();
    assert!(unknown.contains("did you mean `arc_easy`?"), "{unknown}");
}

#[test]
fn the_hash_names_definition_and_data() {
    let hash = |yaml: &str, rows: &str| task(yaml, rows).unwrap().sha256();
    assert_eq!(hash(CHOICE, ROWS), hash(CHOICE, ROWS));
    assert_ne!(hash(CHOICE, ROWS), hash(CHOICE, &ROWS.replace("one", "ONE")));
    assert_ne!(hash(CHOICE, ROWS), hash(&CHOICE.replace("Answer:", "A:"), ROWS));
}

#[test]
fn every_task_file_ships_with_the_program() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tasks");
    let mut files: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, bundled::names().collect::<Vec<_>>());
}

#[test]
fn every_task_makes_prompts_from_its_data() {
    let root = DataRoot::discover(None);
    for name in bundled::names() {
        // A judge's examples are the rows of a scorecard.
        if name.starts_with("judge_") {
            continue;
        }
        match group::load(name, &root) {
            Ok(loaded) => loaded.tasks.iter().for_each(makes_prompts),
            Err(EvalError::NoData { file, .. }) => eprintln!("skipped: {name}, its data file {file} is not here"),
            Err(EvalError::NoDataSet { data_set, .. }) => {
                eprintln!("skipped: {name}, {data_set} is not in the hub's cache")
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

fn makes_prompts(task: &Task) {
    let name = task.name();
    let mut prompts = Prompts::new(task, None, &PromptOptions { seed: 1234, ..Default::default() }).unwrap();
    for index in 0..task.docs.len() {
        let item = prompts.item(index).unwrap_or_else(|e| panic!("{name}: {e}"));
        // Whether an answer declines is told by the answer alone.
        assert!(!item.target.is_empty() || name.starts_with("safety_"), "{name} {index}: {item:?}");
        if let Question::Choices { choices, contexts, continuations, .. } = &item.question {
            assert!(choices.len() >= 2 && choices.iter().all(|c| !c.trim().is_empty()), "{name} {index}: {item:?}");
            assert!(contexts.len() == 1 || continuations.len() == 1);
        }
        if index == 1 {
            println!("=== {name}: {} examples\n{}\n--> {:?}", task.docs.len(), item.prompt, item.target);
        }
    }
}
