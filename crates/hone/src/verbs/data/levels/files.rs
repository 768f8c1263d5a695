//! What `hone data levels` writes: rows to train and evaluate on, a recipe's `data`, task files, and `split.json`.
//!
//! ```text
//! DIR/train/NAME.jsonl      prompt, completion: a trained task
//! DIR/evaluate/NAME.jsonl   prompt, target: an evaluated task; NAME.yaml beside it is its task file
//! DIR/levels.yaml           the group of all task files
//! DIR/recipe-data.yaml      `data:` with a mix of the training files
//! DIR/split.json            where every task went, and what was dropped
//! ```
//!
//! All is written into a directory beside DIR, which takes DIR's place when it is complete.

use std::path::{Path, PathBuf};

use hone_data::levels::{CollectionTask, TaskSplit};
use hone_eval::files::write_atomically;
use serde_json::{Value, json};

use super::Split;
use crate::fail::Failure;

/// Fewest and most tokens that an answer may have.
const ANSWER: (usize, usize) = (16, 256);

/// Refuses a place that holds something, before anything is read.
pub fn check_place(out: &Path) -> Result<(), Failure> {
    let holds = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Failure::from(error).doing(format!("looking into {}", out.display()))),
    };
    match holds {
        true => {
            let cause = format!("{} is not empty, and a split may not mix with another", out.display());
            Err(Failure::user(cause, "give a new directory with `--out`, or remove that one"))
        }
        false => Ok(()),
    }
}

/// Writes everything, or nothing.
pub fn write(out: &Path, split: &Split, tasks: &[(&CollectionTask, &TaskSplit)]) -> Result<(), Failure> {
    let at = |error: std::io::Error| Failure::from(error).doing(format!("writing {}", out.display()));
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(at)?;
    // The temporary directory is the user's alone; the one inside it follows the ordinary rules.
    let hidden = tempfile::Builder::new().prefix(".hone-").tempdir_in(parent).map_err(at)?;
    let inner = hidden.path().join("levels");
    for (task, own) in tasks {
        if !own.trained.is_empty() {
            write_rows(
                &inner.join("train").join(format!("{}.jsonl", own.name)),
                &own.trained,
                |row| json!({"prompt": task.rows[row].prompt, "completion": task.rows[row].completion}),
            )?;
        }
        if !own.evaluated.is_empty() {
            let place = inner.join("evaluate");
            write_rows(
                &place.join(format!("{}.jsonl", own.name)),
                &own.evaluated,
                |row| json!({"prompt": task.rows[row].prompt, "target": task.rows[row].completion.trim()}),
            )?;
            let text = task_file(task, own);
            write_atomically(&place.join(format!("{}.yaml", own.name)), |file| write!(file, "{text}"))?;
        }
    }
    write_yaml(&inner.join("recipe-data.yaml"), RECIPE, &recipe_data(tasks))?;
    write_yaml(&inner.join("levels.yaml"), GROUP, &group(tasks))?;
    write_atomically(&inner.join("split.json"), |file| {
        serde_json::to_writer_pretty(&mut *file, split)?;
        writeln!(file)
    })?;
    if out.exists() {
        std::fs::remove_dir(out).map_err(at)?;
    }
    std::fs::rename(&inner, out).map_err(at)
}

fn write_rows(path: &Path, rows: &[usize], of: impl Fn(usize) -> Value) -> Result<(), Failure> {
    Ok(write_atomically(path, |file| rows.iter().try_for_each(|&row| writeln!(file, "{}", of(row))))?)
}

fn write_yaml(path: &Path, head: &str, value: &Value) -> Result<(), Failure> {
    let text = serde_yaml_ng::to_string(value)
        .map_err(|error| Failure::ours(format!("{}: cannot be written as YAML: {error}", path.display())))?;
    Ok(write_atomically(path, |file| write!(file, "{head}{text}"))?)
}

const RECIPE: &str = "\
# Made by `hone data levels`: the tasks to train on. Paths start at this file's directory. Use it as a recipe,
#   hone tune recipe-data.yaml --set model=MODEL --out RUN
# or put `data` into a recipe beside it; in a recipe elsewhere, put this directory in front of the paths.
";

fn recipe_data(tasks: &[(&CollectionTask, &TaskSplit)]) -> Value {
    let trained = tasks.iter().filter(|(_, own)| !own.trained.is_empty());
    let path = |own: &TaskSplit| format!("train/{}.jsonl", own.name);
    let source = |(_, own): &(&CollectionTask, &TaskSplit)| {
        let (path, format, chat_template) = (path(own), "prompt_completion", "never");
        json!({"path": path, "format": format, "chat_template": chat_template})
    };
    json!({"data": {"mix": trained.map(source).collect::<Vec<_>>()}})
}

const GROUP: &str =
    "# Made by `hone data levels`: what says how far training reaches, `hone compare … --measure levels`.\n";

fn group(tasks: &[(&CollectionTask, &TaskSplit)]) -> Value {
    let evaluated = tasks.iter().filter(|(_, own)| !own.evaluated.is_empty());
    let names: Vec<String> = evaluated.map(|(_, own)| format!("evaluate/{}", own.name)).collect();
    json!({"group": "levels", "task": names})
}

/// The text of a task file. Names go in as JSON, which is YAML.
fn task_file(task: &CollectionTask, own: &TaskSplit) -> String {
    // A token is at least a character of nearly every text, so no right answer is cut short.
    let longest = own.evaluated.iter().map(|&row| task.rows[row].completion.trim().chars().count()).max();
    let tokens = longest.unwrap_or(0).clamp(ANSWER.0, ANSWER.1);
    let (name, level, category) = (json!(own.name), own.level.name(), json!(own.category));
    let data = json!(format!("{}.jsonl", own.name));
    format!(
        r#"# Made by `hone data levels`.
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
fewshot_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: target
generation_kwargs:
  until: ["\n"]
  max_gen_toks: {tokens}
metric_list:
  - metric: exact_match
    regexes_to_ignore: ["^\\s+"]
    ignore_case: true
    ignore_punctuation: true
metadata: {{version: 1.0, level: {level}, category: {category}}}
"#
    )
}

/// The files that were written for a task, relative to the directory.
pub fn of_task(own: &TaskSplit) -> (Option<PathBuf>, Option<PathBuf>) {
    let file = |folder: &str, rows: &[usize]| {
        (!rows.is_empty()).then(|| Path::new(folder).join(format!("{}.jsonl", own.name)))
    };
    (file("train", &own.trained), file("evaluate", &own.evaluated))
}
