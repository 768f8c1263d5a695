//! What a task makes of a row: question, answer, choices. A field of the task file is a column's name, a template, a number or
//! a list; what comes out is text, a number or a list, by the harness' rules.

use serde_json::{Map, Value};

use super::config::TaskConfig;
use super::data::Doc;
use super::template::Templates;
use crate::error::EvalError;
use crate::metrics::Kind;
use crate::python::literal;

/// What a field gave for a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A number: an index into the choices.
    Index(i64),
    /// Text.
    Text(String),
    /// Several answers.
    List(Vec<Answer>),
}

impl Answer {
    /// As text.
    pub fn to_text(&self) -> String {
        match self {
            Answer::Index(index) => index.to_string(),
            Answer::Text(text) => text.clone(),
            Answer::List(items) => items.first().map_or_else(String::new, Answer::to_text),
        }
    }

    fn from_json(value: &Value) -> Result<Answer, String> {
        Ok(match value {
            Value::String(text) => Answer::Text(text.clone()),
            Value::Bool(b) => Answer::Index(i64::from(*b)),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Answer::Index(integer),
                None => Answer::Text(literal::str_of(&minijinja::Value::from(minijinja::value::Serde(number)))),
            },
            Value::Array(items) => Answer::List(items.iter().map(Answer::from_json).collect::<Result<_, _>>()?),
            Value::Null => return Err("is null or missing, expected text, a number or a list".into()),
            Value::Object(_) => return Err("is an object, expected text, a number or a list".into()),
        })
    }
}

/// How a field is made.
enum Field {
    Column(String),
    Template(&'static str),
    Constant(Answer),
}

/// Which examples a field is for: those evaluated, or those shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The example that is evaluated.
    Evaluated,
    /// A shot.
    Shot,
}

/// The fields of a task.
pub struct Fields {
    templates: Templates,
    text: [Option<Field>; 2],
    target: [Option<Field>; 2],
    choice: [Option<Field>; 2],
    gen_prefix: [Option<Field>; 2],
    count: Option<Field>,
    passage: Option<Field>,
    group: Option<Field>,
    description: Option<Field>,
    has_choices: bool,
    /// The question is an index and the choices are the contexts (winogrande): one shared continuation.
    pub multiple_input: bool,
    /// There are several right answers.
    pub multiple_target: bool,
}

impl Fields {
    /// Compiles the task's fields; whether questions are indices and answers lists is decided by the first example, as in
    /// the harness.
    pub fn new(config: &TaskConfig, kind: Kind, file: &str, first: &Doc) -> Result<Fields, EvalError> {
        let mut templates = Templates::new();
        let problem =
            |place: &str, problem: String| EvalError::TaskFile { file: file.into(), place: place.into(), problem };
        let columns = &first.columns;
        let mut field = |key: &'static str, value: &Option<Value>| -> Result<Option<Field>, EvalError> {
            Ok(match value {
                None => None,
                Some(Value::String(name)) if columns.contains_key(name) => Some(Field::Column(name.clone())),
                Some(Value::String(source)) => {
                    templates.add(key, source).map_err(|what| problem(key, what))?;
                    Some(Field::Template(key))
                }
                // A mapping of choices is the list of its values.
                Some(Value::Object(map)) => {
                    let list = Value::Array(map.values().cloned().collect());
                    Some(Field::Constant(Answer::from_json(&list).map_err(|what| problem(key, what))?))
                }
                Some(other) => Some(Field::Constant(Answer::from_json(other).map_err(|what| problem(key, what))?)),
            })
        };
        let text_value = |text: &Option<String>| text.clone().map(Value::String);
        let shot = &config.fewshot_config;
        let description = (!config.description.is_empty()).then(|| Value::String(config.description.clone()));
        let mut fields = Fields {
            text: [field("doc_to_text", &config.doc_to_text)?, field("fewshot_config.doc_to_text", &shot.doc_to_text)?],
            target: [
                field("doc_to_target", &config.doc_to_target)?,
                field("fewshot_config.doc_to_target", &shot.doc_to_target)?,
            ],
            choice: [
                field("doc_to_choice", &config.doc_to_choice)?,
                field("fewshot_config.doc_to_choice", &shot.doc_to_choice)?,
            ],
            gen_prefix: [
                field("gen_prefix", &text_value(&config.gen_prefix))?,
                field("fewshot_config.gen_prefix", &text_value(&shot.gen_prefix))?,
            ],
            count: field("doc_to_count", &config.doc_to_count)?,
            passage: field("doc_to_passage", &config.doc_to_passage)?,
            group: field("doc_to_group", &config.doc_to_group)?,
            description: field("description", &description)?,
            has_choices: config.doc_to_choice.is_some(),
            multiple_input: false,
            multiple_target: false,
            templates,
        };
        if kind != Kind::LoglikelihoodRolling {
            let question = fields.text(first, Role::Evaluated)?;
            fields.multiple_input = matches!(question, Answer::Index(_)) && fields.has_choices;
        }
        fields.multiple_target = matches!(fields.target(first, Role::Evaluated)?, Answer::List(_));
        if fields.has_choices {
            fields.choices(first, Role::Evaluated)?;
        }
        Ok(fields)
    }

    fn of(pair: &[Option<Field>; 2], role: Role) -> Option<&Field> {
        match role {
            Role::Evaluated => pair[0].as_ref(),
            Role::Shot => pair[1].as_ref().or(pair[0].as_ref()),
        }
    }

    /// The question.
    pub fn text(&self, doc: &Doc, role: Role) -> Result<Answer, EvalError> {
        let Some(field) = Self::of(&self.text, role) else { return Ok(Answer::Text(String::new())) };
        self.value(field, "doc_to_text", doc, |rendered| match is_digits(&rendered) && self.has_choices {
            true => index(&rendered),
            false => Answer::Text(rendered),
        })
    }

    /// The answer.
    pub fn target(&self, doc: &Doc, role: Role) -> Result<Answer, EvalError> {
        let Some(field) = Self::of(&self.target, role) else { return Ok(Answer::Text(String::new())) };
        self.value(field, "doc_to_target", doc, |rendered| {
            if is_digits(&rendered) && self.has_choices {
                return index(&rendered);
            }
            let is_list = rendered.len() >= 2 && rendered.starts_with('[') && rendered.ends_with(']');
            let list = is_list.then(|| literal::literal_eval(&rendered)).flatten();
            list.and_then(|list| Answer::from_json(&list).ok()).unwrap_or(Answer::Text(rendered))
        })
    }

    /// The choices as text; `None` for a task without any.
    pub fn choices(&self, doc: &Doc, role: Role) -> Result<Option<Vec<String>>, EvalError> {
        let Some(field) = Self::of(&self.choice, role) else { return Ok(None) };
        let parse = |rendered: String| {
            let list = literal::literal_eval(&rendered).filter(Value::is_array);
            list.and_then(|list| Answer::from_json(&list).ok()).unwrap_or(Answer::Text(rendered))
        };
        match self.value(field, "doc_to_choice", doc, parse)? {
            Answer::List(choices) if choices.is_empty() => Err(row_error(doc, "doc_to_choice", "an empty list".into())),
            Answer::List(choices) => Ok(Some(choices.iter().map(Answer::to_text).collect())),
            other => Err(row_error(doc, "doc_to_choice", format!("found `{}`, expected a list", other.to_text()))),
        }
    }

    /// What a filter looks for in the answer: the column `choices`, as the harness has it, or else the task's own choices.
    pub fn filtered_choices(&self, doc: &Doc, own: Option<&[String]>) -> Result<Vec<String>, EvalError> {
        match (doc.columns.get("choices"), own) {
            (Some(Value::Array(choices)), _) if choices.iter().all(Value::is_string) => {
                Ok(choices.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            (_, Some(own)) => Ok(own.to_vec()),
            (found, None) => {
                let found = found.map_or_else(|| "no such column".to_owned(), Value::to_string);
                let what =
                    format!("{found}, expected a list of texts, which the filter `multi_choice_regex` looks for");
                Err(row_error(doc, "choices", what))
            }
        }
    }

    /// What the answer begins with, if anything.
    pub fn gen_prefix(&self, doc: &Doc, role: Role) -> Result<Option<String>, EvalError> {
        let Some(field) = Self::of(&self.gen_prefix, role) else { return Ok(None) };
        self.value(field, "gen_prefix", doc, Answer::Text).map(|prefix| Some(prefix.to_text()))
    }

    /// What stands before everything else.
    pub fn description(&self, doc: &Doc) -> Result<String, EvalError> {
        let Some(field) = &self.description else { return Ok(String::new()) };
        self.value(field, "description", doc, Answer::Text).map(|text| text.to_text())
    }

    /// The passage that the answer should rest on, if the task has any.
    pub fn passage(&self, doc: &Doc) -> Result<Option<String>, EvalError> {
        let Some(field) = &self.passage else { return Ok(None) };
        self.value(field, "doc_to_passage", doc, Answer::Text).map(|text| Some(text.to_text()))
    }

    /// What the example shares with others of its prompt, if the task says so.
    pub fn group(&self, doc: &Doc) -> Result<Option<String>, EvalError> {
        let Some(field) = &self.group else { return Ok(None) };
        self.value(field, "doc_to_group", doc, Answer::Text).map(|text| Some(text.to_text()))
    }

    /// The text whose words and bytes are counted.
    pub fn count_text(&self, doc: &Doc) -> Result<String, EvalError> {
        match &self.count {
            Some(field) => self.value(field, "doc_to_count", doc, Answer::Text).map(|text| text.to_text()),
            None => self.target(doc, Role::Evaluated).map(|text| text.to_text()),
        }
    }

    fn value(
        &self,
        field: &Field,
        key: &str,
        doc: &Doc,
        read: impl FnOnce(String) -> Answer,
    ) -> Result<Answer, EvalError> {
        match field {
            Field::Constant(answer) => Ok(answer.clone()),
            Field::Column(name) => match doc.columns.get(name) {
                Some(value) => {
                    Answer::from_json(value).map_err(|what| row_error(doc, &format!("field `{name}`"), what))
                }
                None => {
                    Err(row_error(doc, key, format!("field `{name}` is missing; the row has: {}", names(&doc.columns))))
                }
            },
            Field::Template(name) => match self.templates.render(name, &doc.columns) {
                Ok(rendered) => Ok(read(rendered)),
                Err(what) => Err(row_error(doc, name, what)),
            },
        }
    }
}

fn names(columns: &Map<String, Value>) -> String {
    columns.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn index(digits: &str) -> Answer {
    digits.parse().map_or_else(|_| Answer::Text(digits.into()), Answer::Index)
}

/// An error at a row of a data file.
pub fn row_error(doc: &Doc, key: &str, what: String) -> EvalError {
    EvalError::Row { file: doc.place.file.display().to_string(), row: doc.place.row, problem: format!("{key}: {what}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_of_columns_print_as_in_python() {
        for (number, text) in [(json!(1e-7), "1e-07"), (json!(1.0), "1.0"), (json!(1e16), "1e+16"), (json!(3), "3")] {
            assert_eq!(Answer::from_json(&number).unwrap().to_text(), text);
        }
    }
}
