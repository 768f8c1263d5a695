//! Task files: lm-evaluation-harness' YAML, read key by key.
//!
//! All keys that need no Python are read and mean what they mean there. Keys of our own: `main_metric` (which metric decides
//! a comparison), `doc_to_count` (whose words and bytes divide a document's log-likelihood), `doc_to_passage` (the passage an
//! answer should rest on), `doc_to_group` (what items of one prompt share), `sensitive` (texts that are not shown unasked),
//! `reasoning` (see [`crate::reasoning`]), `variants` (see [`super::variants`]), `process_docs` as a mapping of columns to templates
//! (the harness has a Python function there), and `where` in `data_files`.
//!
//! `include` names files whose keys lie under the file's own; a name is looked for from the file it stands in, and what the own keys
//! replace is not read. What needs Python is refused by its name, where no other key lies over it. Of a key that stands twice the last one counts ([`super::yaml`]). Options of metrics that the harness takes and
//! forgets are left out: `weight_by_size` in a `metric_list`, and in tasks without written answers those that change texts.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::TaskConfig;
use super::yaml::{Node, Wrong, python_in};
use crate::error::{EvalError, did_you_mean};
use crate::metrics::Kind;

/// Files may include files, so deep.
const MAX_INCLUDES: usize = 8;

/// Most bytes of a task file.
const MAX_BYTES: usize = 4 << 20;

/// Keys that are read, and those that say nothing about scores.
const KEYS: [&str; 31] = [
    "task",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "process_docs",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "doc_to_count",
    "doc_to_passage",
    "doc_to_group",
    "sensitive",
    "reasoning",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_config",
    "num_fewshot",
    "output_type",
    "generation_kwargs",
    "metric_list",
    "filter_list",
    "repeats",
    "gen_prefix",
    "chat_template",
    "metadata",
    "main_metric",
];
const IGNORED: [&str; 6] =
    ["tag", "task_alias", "should_decontaminate", "doc_to_decontamination_query", "unsafe_code", "kind"];
const MISPLACED: [(&str, &str); 4] = [
    ("variants", "asks in several ways; each is a task of its own, loaded by the task's name or as `NAME@VARIANT`"),
    ("group", "is a key of a group, whose `task` is a list of tasks"),
    ("aggregate_metric_list", "is a key of a group, whose `task` is a list of tasks"),
    ("task_list", "lists of tasks are not read; write one file a task"),
];
/// Keys that make a task one of a kind that is not read.
const NOT_READ: [(&str, &str); 6] = [
    ("class", "a task made by a Python class is not read; write it as a task file"),
    ("process_results", "scores that need Python are not computed; use the metrics there are"),
    ("custom_dataset", "data made by Python is not read; write it to a file and name it in `data_files`"),
    ("use_prompt", "promptsource is not read; write the prompt as a template in `doc_to_text`"),
    ("doc_to_image", "tasks with images are not read"),
    ("doc_to_audio", "tasks with sound are not read"),
];

/// Options in a `metric_list` that do nothing in the harness: one belongs to `aggregate_metric_list`, but is often written here, too.
const IDLE_OPTION: &str = "weight_by_size";
/// Those that do nothing in tasks without written answers: the harness hands them to functions over texts only.
const IDLE_WITHOUT_TEXTS: [&str; 10] = [
    "ignore_case",
    "ignore_punctuation",
    "ignore_numbers",
    "regexes_to_ignore",
    "average",
    "labels",
    "pos_label",
    "sample_weight",
    "zero_division",
    "normalize",
];

/// Finds the text of an included file: by its name, from the file that includes it.
pub type Include<'a> = &'a dyn Fn(&str) -> Result<String, EvalError>;

impl TaskConfig {
    /// Parses a task file. `file` is for messages; `include` finds included files.
    pub fn parse(file: &str, text: &str, include: Include<'_>) -> Result<TaskConfig, EvalError> {
        TaskConfig::from_keys(file, read_keys(file, text, include)?)
    }

    /// A task of a file's keys, those of included files among them.
    pub fn from_keys(file: &str, merged: Map<String, Value>) -> Result<TaskConfig, EvalError> {
        let problem =
            |place: &str, problem: String| EvalError::TaskFile { file: file.into(), place: place.into(), problem };
        // `null` is the same as leaving a key out, of those that are not read, too: a group can take a key back.
        let said = || merged.iter().filter(|(key, value)| !value.is_null() && !IGNORED.contains(&key.as_str()));
        for (key, value) in said() {
            let why = NOT_READ.iter().find(|(other, _)| other == key).map(|(_, why)| (key.clone(), (*why).to_owned()));
            if let Some((place, problem)) = python_in(value, key).or(why) {
                return Err(EvalError::NotRead { file: file.into(), place, problem });
            }
        }
        for (key, _) in said() {
            if let Some((_, why)) = MISPLACED.iter().find(|(other, _)| other == key) {
                return Err(problem(key, (*why).into()));
            }
            if !is_key(key) {
                let hint = did_you_mean(key, KEYS.into_iter());
                return Err(problem(key, format!("unknown key{hint}; keys: {}", KEYS.join(", "))));
            }
        }
        let mut config = TaskConfig {
            target_delimiter: " ".into(),
            fewshot_delimiter: "\n\n".into(),
            output_type: Kind::GenerateUntil.name().into(),
            repeats: 1,
            ..TaskConfig::default()
        };
        let kind = merged.get("output_type").or(merged.get("kind")).and_then(Value::as_str);
        let writes = kind.is_none_or(|kind| kind == Kind::GenerateUntil.name());
        // Key by key, so that a wrong value is reported with its key.
        let mut whole = serde_json::to_value(&config).map_err(|e| problem("the file", e.to_string()))?;
        for (key, value) in merged {
            let key = if key == "kind" { "output_type".to_owned() } else { key };
            if value.is_null() || IGNORED.contains(&key.as_str()) {
                continue;
            }
            whole[key.as_str()] = normalised(&key, value, writes);
            config = serde_json::from_value(whole.clone()).map_err(|e| problem(&key, e.to_string()))?;
        }
        let files = whole["dataset_kwargs"]["data_files"].as_object();
        config.dataset_kwargs.first_split = files.and_then(|files| files.keys().next().cloned());
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &str) -> Result<(), EvalError> {
        let problem =
            |place: &str, problem: String| EvalError::TaskFile { file: file.into(), place: place.into(), problem };
        if self.task.is_empty() {
            return Err(problem("task", "missing; give the task a name".into()));
        }
        let Some(kind) = Kind::from_name(&self.output_type) else {
            let names = Kind::NAMES.map(|(_, name, _)| name);
            let hint = did_you_mean(&self.output_type, names.into_iter());
            return Err(problem("output_type", format!("`{}`{hint}; known: {}", self.output_type, names.join(", "))));
        };
        if self.doc_to_target.is_none() {
            return Err(problem("doc_to_target", "missing; give a column's name or a template".into()));
        }
        if self.doc_to_text.is_none() && kind != Kind::LoglikelihoodRolling {
            return Err(problem("doc_to_text", "missing; give a column's name or a template".into()));
        }
        if kind == Kind::MultipleChoice && self.doc_to_choice.is_none() {
            return Err(problem("doc_to_choice", "missing; multiple_choice tasks need the choices".into()));
        }
        self.check_reasoning(kind, &problem)?;
        self.check_filters(kind, &problem)?;
        if let Some(beams) = self.generation_kwargs.num_beams.filter(|beams| *beams > 1) {
            let what =
                format!("is {beams}; answers are decoded greedily or drawn, not searched for; leave it out or say 1");
            return Err(problem("generation_kwargs.num_beams", what));
        }
        self.generation_kwargs.picking().check().map_err(|error| problem("generation_kwargs", error.to_string()))?;
        if self.repeats == 0 {
            return Err(problem("repeats", "is 0, expected at least 1".into()));
        }
        match self.fewshot_config.sampler.as_deref() {
            None | Some("default" | "first_n" | "bm25") => Ok(()),
            Some(other) => {
                Err(problem("fewshot_config.sampler", format!("`{other}` is not known; known: default, first_n, bm25")))
            }
        }
    }

    /// Filters of a task without written answers: the harness hands them pairs of a log-likelihood and whether it is the greedy one.
    /// `take_first` leaves them as they are; what the others would do to them is no meaning anybody wants.
    fn check_filters(&self, kind: Kind, problem: &dyn Fn(&str, String) -> EvalError) -> Result<(), EvalError> {
        let Some(lists) = self.filter_list.as_ref().filter(|_| kind != Kind::GenerateUntil) else { return Ok(()) };
        let name = |step: &Map<String, Value>| step.get("function").and_then(Value::as_str).unwrap_or("?").to_owned();
        match lists.iter().flat_map(|list| &list.filter).map(name).find(|name| name != "take_first") {
            None => Ok(()),
            Some(other) => {
                let what = format!(
                    "`{other}` is for written answers, which {} tasks have none of; `take_first` alone may stand here",
                    kind.name()
                );
                Err(problem("filter_list", what))
            }
        }
    }

    /// What a task with reasoning cannot have: answers that are drawn, or scored without the prompt.
    fn check_reasoning(&self, kind: Kind, problem: &dyn Fn(&str, String) -> EvalError) -> Result<(), EvalError> {
        let Some(reasoning) = &self.reasoning else { return Ok(()) };
        if let Some((place, what)) = reasoning.problem() {
            return Err(problem(place, what));
        }
        if !matches!(kind, Kind::MultipleChoice | Kind::GenerateUntil) {
            let what = format!("is for multiple_choice and generate_until tasks; this one is {}", kind.name());
            return Err(problem("reasoning", what));
        }
        if self.repeats > 1 || self.generation_kwargs.draws() {
            return Err(problem(
                "reasoning",
                "answers are decoded once and greedily; leave out `repeats`, `do_sample` and `temperature`".into(),
            ));
        }
        if self.generation_kwargs.picking().repetition_penalty != 1.0 {
            let what = "is not heeded behind a reasoning, whose parts are taken apart; leave it out";
            return Err(problem("generation_kwargs.repetition_penalty", what.into()));
        }
        let metrics = self.metric_list.iter().flatten().filter_map(|entry| entry.get("metric")?.as_str());
        match metrics.into_iter().any(|metric| metric == "acc_mutual_info") {
            true => Err(problem(
                "reasoning",
                "answers have no score without the prompt; leave out `acc_mutual_info`".into(),
            )),
            false => Ok(()),
        }
    }
}

/// Whether a task can have the key, read or not.
pub fn is_key(key: &str) -> bool {
    let others = MISPLACED.iter().chain(&NOT_READ);
    KEYS.contains(&key) || IGNORED.contains(&key) || others.map(|(other, _)| other).any(|other| *other == key)
}

/// Shapes that the harness also takes: `data_files` as one file (the training split there), one `until`; and metrics without the options
/// that do nothing. `writes` is whether the task's answers are texts.
fn normalised(key: &str, mut value: Value, writes: bool) -> Value {
    if key == "dataset_kwargs"
        && let Some(files) = value.get_mut("data_files").filter(|files| files.is_string())
    {
        *files = serde_json::json!({ "train": files.take() });
    }
    if key == "metric_list" {
        let entries = value.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
        let idle = |option: &str| option == IDLE_OPTION || (!writes && IDLE_WITHOUT_TEXTS.contains(&option));
        entries.for_each(|entry| entry.retain(|option, _| !idle(option)));
    }
    value
}

/// The keys of a file, over those of the files it includes.
pub fn read_keys(file: &str, text: &str, include: Include<'_>) -> Result<Map<String, Value>, EvalError> {
    let mut keys = Map::new();
    fill(&mut keys, (file, text), Path::new(""), include, 0)?;
    Ok(keys)
}

/// The keys of a task that is written inside another file, over those of the files it includes.
pub fn with_included(
    file: &str,
    mut own: Map<String, Value>,
    include: Include<'_>,
) -> Result<Map<String, Value>, EvalError> {
    let names = own.remove("include");
    include_all(&mut own, file, names, Path::new(""), include, 0)?;
    Ok(own)
}

/// Adds the keys of a file, and of those it includes, that are not there yet. `directory` is where the file lies, seen from the first.
fn fill(
    keys: &mut Map<String, Value>,
    (file, text): (&str, &str),
    directory: &Path,
    include: Include<'_>,
    depth: usize,
) -> Result<(), EvalError> {
    let problem = |(place, problem): Wrong| EvalError::TaskFile { file: file.into(), place, problem };
    if depth > MAX_INCLUDES {
        let what = format!("more than {MAX_INCLUDES} files deep; do files include each other?");
        return Err(problem(("include".into(), what)));
    }
    if text.len() > MAX_BYTES {
        let what = format!("larger than {} MiB; is this a task file?", MAX_BYTES >> 20);
        return Err(problem(("the file".into(), what)));
    }
    let yaml: Node = serde_yaml_ng::from_str(text).map_err(|e| problem(("YAML".into(), e.to_string())))?;
    let Some(entries) = yaml.entries().map_err(problem)? else {
        return Err(problem(("the file".into(), "not a mapping of keys to values".into())));
    };
    let mut names = None;
    for (key, value) in entries {
        if key == "include" {
            names = Some(value.into_json(&key).map_err(problem)?);
        } else if !keys.contains_key(&key) {
            let value = value.into_json(&key).map_err(problem)?;
            keys.insert(key, value);
        }
    }
    include_all(keys, file, names, directory, include, depth)
}

/// Adds the keys of the files that `names` says; later files lie over earlier ones.
fn include_all(
    keys: &mut Map<String, Value>,
    file: &str,
    names: Option<Value>,
    directory: &Path,
    include: Include<'_>,
    depth: usize,
) -> Result<(), EvalError> {
    let names: Vec<String> = match names {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(one)) => vec![one],
        Some(other) => serde_json::from_value(other).map_err(|e| EvalError::TaskFile {
            file: file.into(),
            place: "include".into(),
            problem: e.to_string(),
        })?,
    };
    for name in names.iter().rev() {
        let path = directory.join(name);
        let label = path.to_string_lossy();
        let text = include(&label)?;
        fill(keys, (&label, &text), path.parent().unwrap_or(Path::new("")), include, depth + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TaskConfig, EvalError> {
        TaskConfig::parse("task.yaml", text, &|name| match name {
            "common" => Ok("output_type: multiple_choice\ntarget_delimiter: ''\nmetadata: {version: 1}".into()),
            _ => Ok("include: loop".into()),
        })
    }

    const SMALL: &str = "task: t\ndataset_path: a.jsonl\ndoc_to_text: q\ndoc_to_target: a\n";

    #[test]
    fn the_harness_own_files_are_read() {
        let config = parse(
            "tag: [ai2_arc]\ntask: arc_easy\ndataset_path: json\ndataset_kwargs: {data_files: {test: a.jsonl}}\n\
             dataset_name: null\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: \"Question: {{question}}\\nAnswer:\"\n\
             doc_to_target: \"{{choices.label.index(answerKey)}}\"\ndoc_to_choice: \"{{choices.text}}\"\n\
             should_decontaminate: true\nmetric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n\
             metadata:\n  version: 1.0\n",
        )
        .unwrap();
        assert_eq!((config.version().as_str(), config.target_delimiter.as_str()), ("1.0", " "));
        assert_eq!(config.dataset_kwargs.data_files["test"].paths(), ["a.jsonl"]);
        let included = parse(&format!("include: common\n{SMALL}doc_to_choice: [a]\ntarget_delimiter: x\n")).unwrap();
        assert_eq!((included.output_type.as_str(), included.target_delimiter.as_str()), ("multiple_choice", "x"));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let message = |more: &str| parse(&format!("{SMALL}{more}")).unwrap_err().to_string();
        assert!(message("fewshot_splt: train").contains("fewshot_splt: unknown key; did you mean `fewshot_split`?"));
        let python = message("process_docs: !function utils.process_docs");
        assert!(python.contains("process_docs: `!function utils.process_docs` is Python"), "{python}");
        assert!(message("num_fewshot: many").contains("task.yaml: num_fewshot:"));
        assert!(message("generation_kwargs: {untill: ['x']}").contains("untill"));
        assert!(message("output_type: multiple_chioce").contains("did you mean `multiple_choice`?"));
        assert!(message("output_type: multiple_choice").contains("doc_to_choice: missing"));
        assert!(message("use_prompt: x").contains("promptsource"));
        assert!(message("include: other").contains("more than 8 files deep"));
        assert!(parse("- 1").unwrap_err().to_string().contains("not a mapping"));
        assert!(parse("a: [").unwrap_err().to_string().contains("YAML"));
    }
}
