//! From a study to the commands it runs: every step template repeated for every combination of the variables in its name.
//!
//! A step's directory is `steps/NAME`, and every command is run in the directory of the study's run, so that commands hold no
//! place of this machine but the data root. Placeholders besides constants and variables: `{dir}` the step's directory,
//! `{steps}` that of all steps, `{files}` that of the study's files, `{data}` the data root, `{study}` where the study's file
//! lies.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::StudyError;
use crate::placeholders::{Values, as_text, fill, fill_text, names, names_in};
use crate::read::Source;
use crate::study::{StepTemplate, Study};

/// The directory of the steps, below that of the run.
pub const STEPS: &str = "steps";
/// The directory of the study's files, below that of the run.
pub const FILES: &str = "files";
/// Most steps a study may have: more is a mistake in its variables.
const MOST_STEPS: usize = 10_000;

/// Values of variables, by variable: which of the repetitions of a step this is. A value is named by its text, or its `name`.
pub type Bindings = BTreeMap<String, String>;

/// A command to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its name, and its directory below `steps`.
    pub name: String,
    /// The name of its template: steps of one template take about as long as each other.
    pub template: String,
    /// Its variables' values.
    pub bindings: Bindings,
    /// The command's words, without the program.
    pub words: Vec<String>,
    /// Files to write into its directory: name and contents.
    pub files: Vec<(String, String)>,
    /// Words to add when it is continued; `None` if it cannot be.
    pub resume: Option<Vec<String>>,
}

/// Everything a study runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The study's name.
    pub name: String,
    /// The study's text, as it was read.
    pub text: String,
    /// The study.
    pub study: Study,
    /// Files to write into `files`: name and contents.
    pub files: Vec<(String, String)>,
    /// The steps, in the order they are run.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Repeats the templates and fills in the placeholders; `data` stands for the data root.
    pub fn new(source: &Source, study: &Study, data: &str) -> Result<Plan, StudyError> {
        let mut constants = study.constants.clone();
        let own = source.directory().unwrap_or_else(|| ".".into());
        for (name, value) in [("data", data), ("files", FILES), ("steps", STEPS), ("study", own.as_str())] {
            constants.insert(name.into(), value.into());
        }
        let file = |(name, value): (&String, &Value)| {
            let text = contents(name, value, &constants);
            text.map(|text| (name.clone(), text)).map_err(|problem| source.error(&["files", name], problem))
        };
        let files = study.files.iter().map(file).collect::<Result<_, _>>()?;
        let mut steps: Vec<Step> = Vec::new();
        for (number, template) in study.steps.iter().enumerate() {
            let number = number.to_string();
            for bound in combinations(study, &variables_of(&template.name, study)) {
                let step = step(template, &bound, &constants)
                    .map_err(|(key, problem)| source.error(&["steps", &number, key], problem))?;
                if steps.iter().any(|other| other.name == step.name) {
                    let problem =
                        format!("two steps are called `{}`; names are directories, so each needs its own", step.name);
                    return Err(source.error(&["steps", &number, "name"], problem));
                }
                steps.push(step);
                if steps.len() > MOST_STEPS {
                    let problem = format!("more than {MOST_STEPS} steps; repeat for fewer values");
                    return Err(source.error(&["steps", &number, "name"], problem));
                }
            }
        }
        Ok(Plan { name: source.name.clone(), text: source.text.clone(), study: study.clone(), files, steps })
    }
}

/// The study's variables that a text uses, in the order it uses them.
pub fn variables_of(text: &str, study: &Study) -> Vec<String> {
    let mut variables: Vec<String> = Vec::new();
    for name in names(text).filter(|name| study.variables.contains_key(*name)) {
        if !variables.iter().any(|known| known == name) {
            variables.push(name.to_owned());
        }
    }
    variables
}

/// The variables of a measure that is read from a file: those in its path, then those in its `value`.
pub fn variables_of_measure(path: &str, value: Option<&str>, study: &Study) -> Vec<String> {
    let mut variables = variables_of(path, study);
    for variable in variables_of(value.unwrap_or_default(), study) {
        if !variables.contains(&variable) {
            variables.push(variable);
        }
    }
    variables
}

/// What a value of a variable is called.
pub fn label(value: &Value) -> Result<String, String> {
    as_text(value)
}

/// Every combination of the variables' values; those of the last variable change fastest. One empty combination without any.
pub fn combinations(study: &Study, variables: &[String]) -> Vec<Values> {
    let mut all = vec![Values::new()];
    for variable in variables {
        let values = study.variables.get(variable).map(Vec::as_slice).unwrap_or_default();
        let with = |bound: Values| {
            values.iter().map(move |value| {
                let mut bound = bound.clone();
                bound.insert(variable.clone(), value.clone());
                bound
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    all
}

/// Names instead of values.
pub fn bindings(bound: &Values) -> Result<Bindings, String> {
    bound.iter().map(|(name, value)| Ok((name.clone(), label(value)?))).collect()
}

/// The key at fault, and what is wrong.
type Fault = (&'static str, String);

fn step(template: &StepTemplate, bound: &Values, constants: &Values) -> Result<Step, Fault> {
    let mut values = constants.clone();
    values.extend(bound.clone());
    let at = |key: &'static str| move |problem: String| (key, problem);
    let name = fill_text(&template.name, &values).map_err(at("name"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        let problem = format!("`{name}`: a step's name is a directory: letters, digits, `-`, `_` and `.` only");
        return Err(("name", problem));
    }
    values.insert("dir".into(), format!("{STEPS}/{name}").into());
    let words = words(&template.hone, &values).map_err(at("hone"))?;
    let resume = template.resume.as_deref().map(|resume| crate::plan::words(resume, &values));
    let resume = resume.transpose().map_err(at("resume"))?;
    let file =
        |(name, value): (&String, &Value)| Ok((name.clone(), contents(name, value, &values).map_err(at("files"))?));
    let files: Vec<(String, String)> = template.files.iter().map(file).collect::<Result<_, Fault>>()?;
    if let Some((file, _)) = files.iter().find(|(file, _)| file.contains(['/', '\\']) || file.starts_with('.')) {
        return Err(("files", format!("`{file}`: a plain file name is expected; it is put into the step's directory")));
    }
    let template_name = template.name.clone();
    let bindings = bindings(bound).map_err(at("name"))?;
    Ok(Step { name, template: template_name, bindings, words, files, resume })
}

/// Splits a command as a shell does, then fills in each word, so that a value with spaces stays one word.
fn words(command: &str, values: &Values) -> Result<Vec<String>, String> {
    let split = shlex::split(command).ok_or_else(|| format!("`{command}`: a quote is not closed"))?;
    if split.is_empty() {
        return Err("expected a command, such as `eval MODEL --tasks … --out {dir}`".into());
    }
    split.iter().map(|word| fill_text(word, values)).collect()
}

/// What is written into a file: text as it is, anything else as JSON where the name says so, and as YAML otherwise.
fn contents(file: &str, value: &Value, values: &Values) -> Result<String, String> {
    match value {
        Value::String(text) => fill_text(text, values),
        other if file.ends_with(".json") => {
            serde_json::to_string_pretty(&fill(other, values)?).map_err(|error| error.to_string())
        }
        other => serde_yaml_ng::to_string(&fill(other, values)?).map_err(|error| error.to_string()),
    }
}

/// A variable that a step uses without having it in its name, so that it is not repeated for it.
pub fn unnamed_variable<'a>(template: &'a StepTemplate, study: &Study) -> Option<&'a str> {
    let mut used: Vec<&str> = names(&template.hone).collect();
    used.extend(template.resume.as_deref().into_iter().flat_map(names));
    used.extend(template.files.values().flat_map(names_in));
    let in_name = variables_of(&template.name, study);
    used.into_iter().find(|name| study.variables.contains_key(*name) && !in_name.iter().any(|known| known == name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_written_as_their_names_say() {
        let values: Values = [("seed".to_owned(), json!(3))].into_iter().collect();
        let written = |file: &str, value: Value| contents(file, &value, &values);
        assert_eq!(written("a.json", json!({"n": "{seed}"})).as_deref(), Ok("{\n  \"n\": 3\n}"));
        assert_eq!(written("a.yaml", json!({"n": "{seed}"})).as_deref(), Ok("n: 3\n"));
        assert_eq!(written("a.jsonl", json!("{\"n\": {seed}}\n")).as_deref(), Ok("{\"n\": 3}\n"));
    }

    #[test]
    fn a_value_with_spaces_stays_one_word() {
        let values: Values = [("prompt".to_owned(), json!("Once upon a time"))].into_iter().collect();
        let split = words("generate m --prompt {prompt} --set 'a b'", &values);
        assert_eq!(
            split.as_deref(),
            Ok(&["generate", "m", "--prompt", "Once upon a time", "--set", "a b"].map(str::to_owned)[..])
        );
        assert!(words("generate 'm", &values).is_err_and(|problem| problem.contains("quote")));
    }
}
