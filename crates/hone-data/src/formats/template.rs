//! Rows of any layout through the recipe's own Jinja templates: `prompt_template` and `completion_template`, with the row's
//! columns as variables. A variable the row does not have is an error, never an empty text. `wordings` are more prompt templates:
//! the same row in other words.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};

use super::{Fields, ReadOptions};
use crate::config::SourceConfig;
use crate::error::{DataError, RowError, names};
use crate::example::Body;
use crate::shots;

/// Compiled templates of a source.
pub struct RowTemplate {
    environment: Environment<'static>,
    /// Without a template the completion is the field `completion`.
    has_completion: bool,
    /// The prompts by their names: the template and its other wordings.
    prompts: Vec<String>,
}

const PROMPT: &str = "prompt_template";
const COMPLETION: &str = "completion_template";
const WORDINGS: &str = "wordings";

impl RowTemplate {
    /// The templates of `source`, if it has any; `key` is its place in the recipe.
    pub fn new(source: &SourceConfig, key: &str) -> Result<Option<RowTemplate>, DataError> {
        let Some(prompt) = &source.prompt_template else {
            if !source.wordings.is_empty() {
                return Err(DataError::config(
                    format!("{key}{WORDINGS}"),
                    "`wordings` without a `prompt_template`",
                    "both: the template, and others that say the same in other words",
                    "make the first of them the `prompt_template`",
                ));
            }
            if source.shots > 0 {
                return Err(DataError::config(
                    format!("{key}{}", shots::COLUMN),
                    "`shots` without a `prompt_template`",
                    "templates that show them",
                    "write them there: `{% for shot in shots %}{{ shot.question }} …{% endfor %}`",
                ));
            }
            if source.completion_template.is_some() {
                return Err(DataError::config(
                    format!("{key}{COMPLETION}"),
                    "a `completion_template` without a `prompt_template`",
                    "both, or a `prompt_template` and a column `completion`",
                    "add `prompt_template: '{{ … }}'`",
                ));
            }
            return Ok(None);
        };
        if !matches!(source.format.as_str(), "auto" | "prompt_completion") {
            return Err(DataError::config(
                format!("{key}format"),
                format!("`{}` beside a `prompt_template`", source.format),
                "one of them: templates take the place of a format",
                "remove `format`, or remove the templates",
            ));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // As in lm-evaluation-harness: a prompt written as a YAML block ends with its line end.
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        let others = source.wordings.iter().enumerate().map(|(at, text)| (format!("{WORDINGS}[{at}]"), text));
        let prompts: Vec<(String, &String)> = std::iter::once((PROMPT.to_string(), prompt)).chain(others).collect();
        let completion = source.completion_template.iter().map(|text| (COMPLETION.to_string(), text));
        for (name, text) in prompts.iter().cloned().chain(completion) {
            environment.add_template_owned(name.clone(), text.clone()).map_err(|error| {
                let found = format!("a template that cannot be read ({error})");
                DataError::config(format!("{key}{name}"), found, "a Jinja template", "correct it: `{{ column }}`")
            })?;
        }
        let prompts = prompts.into_iter().map(|(name, _)| name).collect();
        Ok(Some(RowTemplate { environment, has_completion: source.completion_template.is_some(), prompts }))
    }

    /// A row as a prompt and its completion, in every wording.
    pub fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Vec<Body>, Box<RowError>> {
        let completion = match self.has_completion {
            true => self.render(COMPLETION, row)?,
            false => row.text("completion")?.to_string(),
        };
        let body = |name: &String| Ok(options.prompt_completion(self.render(name, row)?, completion.clone()));
        self.prompts.iter().map(body).collect()
    }

    fn render(&self, name: &str, row: &Fields) -> Result<String, Box<RowError>> {
        let failed = |error: minijinja::Error| {
            let missing = self.missing(name, row);
            let found = match missing.is_empty() {
                true => format!("a row the template fails on ({error})"),
                false => format!("no {} (the row has {})", names(&missing), names(row.row.keys())),
            };
            let next = "correct the template's names, or give missing ones a value: `{{ column | default('') }}`";
            row.error(Some(name), found, "a row with every column the template uses", next)
        };
        let template = self.environment.get_template(name).map_err(failed)?;
        template.render(minijinja::value::Serde(row.row)).map_err(failed)
    }

    /// Variables of a template that the row lacks.
    fn missing(&self, name: &str, row: &Fields) -> Vec<String> {
        let Ok(template) = self.environment.get_template(name) else { return Vec::new() };
        let used = template.undeclared_variables(false);
        let globals: Vec<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let lacks = |v: &String| !row.row.contains_key(v) && !globals.contains(&v.as_str());
        let mut missing: Vec<String> = used.into_iter().filter(lacks).collect();
        missing.sort();
        missing
    }
}
