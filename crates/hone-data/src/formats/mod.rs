//! Formats: what a row's columns mean. One file a format; a new one is its file and one line in [`FORMATS`].
//!
//! A format says whether a row looks like it ([`Format::recognise`]) and turns a row into a [`Body`]. Rows come through
//! [`Fields`], which knows the recipe's column names and makes errors that name file, row and field.

mod alpaca;
mod fields;
mod messages;
mod preference;
mod prompt_completion;
mod question_answer;
mod sharegpt;
mod template;
mod text;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::codec::Abilities;
use crate::config::{ChatUse, SourceConfig};
use crate::error::{DataError, RowError, names};
use crate::example::{Body, Message};
use crate::readers::RawRow;

pub use fields::Fields;
pub use template::RowTemplate;

/// How rows with a prompt and an answer are rendered, and what the model's template can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether they become conversations.
    pub chat: ChatUse,
    /// What the model can render.
    pub abilities: Abilities,
}

impl ReadOptions {
    /// Whether instructions and questions become conversations.
    pub fn instructions_as_chat(&self) -> bool {
        self.chat == ChatUse::Always || (self.chat == ChatUse::Auto && self.abilities.chat_template)
    }

    /// A prompt and a completion as a body: a conversation only if the recipe asks for it.
    pub fn prompt_completion(&self, prompt: String, completion: String) -> Body {
        if self.chat != ChatUse::Always {
            return Body::PromptCompletion { prompt, completion };
        }
        Body::conversation(vec![Message::new("user", prompt), Message::new("assistant", completion)])
    }
}

/// A row format.
pub trait Format: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;

    /// The columns it needs, for messages.
    fn columns(&self) -> &'static str;

    /// Every field it reads: what `columns` may map.
    fn fields(&self) -> &'static [&'static str];

    /// Whether a row looks like it.
    fn recognise(&self, row: &Fields) -> bool;

    /// The row as an example.
    fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Body, Box<RowError>>;
}

/// Every format. Where a row looks like several, the first is taken.
pub const FORMATS: &[&dyn Format] = &[
    &preference::Preference,
    &messages::Messages,
    &sharegpt::ShareGpt,
    &alpaca::Alpaca,
    &prompt_completion::PromptCompletion,
    &question_answer::QuestionAnswer,
    &text::Text,
];

/// What a file's rows were taken for, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The format's name; `template` for rows rendered by the recipe's own templates.
    pub format: String,
    /// Why, in words: `20 of the first 20 rows have instruction and output`.
    pub why: String,
}

/// How the rows of a source become examples.
pub struct Interpreter<'a> {
    source: &'a SourceConfig,
    options: ReadOptions,
    template: Option<RowTemplate>,
    format: Option<&'static dyn Format>,
}

/// Rows looked at to detect a format.
pub const DETECTION_ROWS: usize = 20;

impl<'a> Interpreter<'a> {
    /// Checks the source's settings. `key` is the source's place in the recipe, for messages (`mix[1].`, or nothing).
    pub fn new(source: &'a SourceConfig, abilities: Abilities, key: &str) -> Result<Interpreter<'a>, DataError> {
        let template = RowTemplate::new(source, key)?;
        let format = match source.format.as_str() {
            "auto" => None,
            name => Some(*FORMATS.iter().find(|f| f.name() == name).ok_or_else(|| {
                let known: Vec<_> = FORMATS.iter().map(|f| f.name()).collect();
                let expected = format!("`auto`, {}", known.join(", "));
                let next = "name one of these, or write a `prompt_template` and a `completion_template`";
                DataError::config(format!("{key}format"), format!("`{name}`"), expected, next)
            })?),
        };
        let mappable = |field: &str| FORMATS.iter().any(|f| f.fields().contains(&field));
        if let Some(unknown) = source.columns.keys().find(|field| !mappable(field)) {
            let mut known: Vec<&str> = FORMATS.iter().flat_map(|f| f.fields()).copied().collect();
            known.sort_unstable();
            known.dedup();
            return Err(DataError::config(
                format!("{key}columns"),
                format!("the field `{unknown}`"),
                format!("fields of the formats: {}", known.join(", ")),
                "write the format's field first and your column second: `{prompt: question}`",
            ));
        }
        if source.chat_template == ChatUse::Always && !abilities.chat_template {
            return Err(DataError::config(
                format!("{key}chat_template"),
                "`always`, but the model has no chat template",
                "`auto` or `never`",
                "use an instruction-tuned model, or remove the setting",
            ));
        }
        let options = ReadOptions { chat: source.chat_template, abilities };
        Ok(Interpreter { source, options, template, format })
    }

    /// Decides on the format of a file by its first rows.
    pub fn detect(&self, file: &Path, first: &[RawRow]) -> Result<Reading<'_>, DataError> {
        if self.template.is_some() {
            let detection = Detection { format: "template".into(), why: "the recipe has a `prompt_template`".into() };
            return Ok(Reading { interpreter: self, format: None, detection });
        }
        if let Some(format) = self.format {
            let detection = Detection { format: format.name().into(), why: "the recipe names it".into() };
            return Ok(Reading { interpreter: self, format: Some(format), detection });
        }
        let count = |f: &&dyn Format| first.iter().filter(|r| f.recognise(&self.fields(r))).count();
        // The most rows; the first of several with as many.
        let best = FORMATS.iter().map(|f| (*f, count(f))).rev().max_by_key(|(_, n)| *n);
        match best {
            Some((format, rows)) if rows > 0 => {
                let why = format!("{rows} of the first {} rows have {}", first.len(), format.columns());
                let detection = Detection { format: format.name().into(), why };
                Ok(Reading { interpreter: self, format: Some(format), detection })
            }
            _ => Err(DataError::NotDetected {
                path: file.to_path_buf(),
                columns: first.first().map_or_else(|| "(no rows)".into(), |r| names(r.columns.keys())),
                known: FORMATS.iter().map(|f| format!("{} ({})", f.name(), f.columns())).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn fields<'r>(&'r self, row: &'r RawRow) -> Fields<'r> {
        Fields { row: &row.columns, names: &self.source.columns, place: &row.source }
    }
}

/// A file whose format is decided.
pub struct Reading<'a> {
    interpreter: &'a Interpreter<'a>,
    format: Option<&'static dyn Format>,
    /// The decision.
    pub detection: Detection,
}

impl Reading<'_> {
    /// A row as what its example says, or its examples, where the recipe asks for the row in several wordings.
    pub fn read(&self, row: &RawRow) -> Result<Vec<Body>, Box<RowError>> {
        let fields = self.interpreter.fields(row);
        let options = &self.interpreter.options;
        match (&self.interpreter.template, self.format) {
            (Some(template), _) => template.read(&fields, options),
            (None, Some(format)) => Ok(vec![format.read(&fields, options)?]),
            (None, None) => Err(fields.error(None, "no format", "a decided format", "name it with `format`")),
        }
    }
}
