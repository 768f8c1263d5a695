//! The rows that are scored, and what groups of them are named by.

use std::collections::BTreeSet;
use std::path::Path;

use hone_data::readers::Row;
use hone_locate::LocateError;
use hone_locate::conversation::{self, Conversation};
use hone_locate::question::{self, Columns, Question};
use hone_model::template::Message;
use serde_json::{Map, Value};

use crate::fail::Failure;

/// Columns that are listed where one is not there.
const LISTED: usize = 30;

/// A row to score.
pub struct Example {
    /// What was said.
    pub conversation: Conversation,
    /// The row as a question, where its columns were named.
    pub question: Option<Question>,
}

/// Groups of rows.
pub struct Groups {
    /// What they are named by.
    pub by: String,
    /// The name of each row's.
    pub names: Vec<Option<String>>,
}

/// The first `limit` rows of a file: conversations in any known format, or what the named columns hold.
pub fn read(data: &Path, named: Option<&Columns>, limit: usize) -> Result<Vec<Example>, Failure> {
    let examples: Vec<Example> = match named {
        Some(columns) => question::of_rows(data, columns, limit)?.into_iter().map(of_question).collect(),
        None => {
            let conversations = conversation::of_file(data, limit)?;
            conversations.into_iter().map(|conversation| Example { conversation, question: None }).collect()
        }
    };
    if examples.is_empty() {
        let (place, problem) = (data.display().to_string(), "the file has no rows".into());
        return Err(LocateError::Nothing { place, problem }.into());
    }
    Ok(examples)
}

fn of_question((row, question): (Row, Question)) -> Example {
    let says = |role: &str, text: &str| Message { role: role.into(), content: text.into(), extra: Map::new() };
    let messages = vec![says("user", &question.user), says("assistant", &question.answer)];
    let conversation = Conversation { id: question.id.clone(), row, messages };
    Example { conversation, question: Some(question) }
}

impl Example {
    /// Whether it has a context; unknown where no columns were named.
    pub fn has_context(&self) -> Option<bool> {
        self.question.as_ref().map(|question| !question.context.is_empty())
    }
}

impl Groups {
    /// Those that a column names.
    ///
    /// # Errors
    /// No row has a value there.
    pub fn of_column(examples: &[Example], column: &str, data: &Path) -> Result<Groups, Failure> {
        let of = |example: &Example| match example.conversation.row.get(column)? {
            Value::Null => None,
            Value::String(text) => Some(text.trim().to_owned()),
            other => Some(other.to_string()),
        };
        let names: Vec<Option<String>> = examples.iter().map(of).collect();
        if names.iter().all(Option::is_none) {
            let known: BTreeSet<&str> =
                examples.iter().flat_map(|example| example.conversation.row.keys().map(String::as_str)).collect();
            let known: Vec<&str> = known.into_iter().take(LISTED).collect();
            let cause = format!("--group {column}: no row of {} has a value there", data.display());
            return Err(Failure::user(cause, format!("there are {}", known.join(", "))));
        }
        Ok(Groups { by: column.to_owned(), names })
    }

    /// Rows with a context and rows without; nothing where all are of one kind.
    pub fn of_contexts(examples: &[Example]) -> Option<Groups> {
        let kinds: Vec<Option<bool>> = examples.iter().map(Example::has_context).collect();
        let name =
            |kind: &Option<bool>| kind.map(|has| if has { "with a context" } else { "without a context" }.to_owned());
        let both = kinds.contains(&Some(true)) && kinds.contains(&Some(false));
        both.then(|| Groups { by: "context".into(), names: kinds.iter().map(name).collect() })
    }
}
