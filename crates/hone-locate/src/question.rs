//! Questions with the passage their answer should rest on: what is looked at.
//!
//! Of a task they are its examples without shots, with the passage that the task names (`doc_to_passage`) found in the prompt,
//! and the first right answer. Of a data file they are rows with three columns, asked as `xquad_en` asks:
//! `Context: …`, `Question: …`, `Answer:`.
//!
//! Knows nothing of tokens or templates.

use std::ops::Range;
use std::path::Path;

use hone_data::DataError;
use hone_data::readers::{RawRow, ReaderOptions, Row, open, resolve};
use hone_eval::Task;
use hone_eval::task::{PromptOptions, Prompts, Question as Asked};
use serde_json::Value;

use crate::error::LocateError;

/// A question, its passage and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The example's number in its task, or the row's in its file (from 1).
    pub id: String,
    /// What the user says: passage and question.
    pub user: String,
    /// Where the passage stands in it, in bytes; empty where there is none.
    pub context: Range<usize>,
    /// What the user says who does not give the passage, where that is known.
    pub alone: Option<String>,
    /// The right answer.
    pub answer: String,
    /// What stands between the two where no chat template does.
    pub delimiter: String,
}

/// Names of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The passage; an empty one, or none, is a question without a passage.
    pub context: String,
    /// The question.
    pub question: String,
    /// The answer: a text, a number, or a list of which the first counts.
    pub answer: String,
}

/// What a user says who gives a passage and asks about it, and where the passage stands in it.
pub fn asked(context: &str, question: &str) -> (String, Range<usize>) {
    const BEFORE: &str = "Context: ";
    match context.is_empty() {
        true => (format!("Question: {question}\nAnswer:"), 0..0),
        false => {
            let text = format!("{BEFORE}{context}\n\nQuestion: {question}\nAnswer:");
            (text, BEFORE.len()..BEFORE.len() + context.len())
        }
    }
}

/// The first `limit` questions of a task.
///
/// # Errors
/// Tasks without `doc_to_passage`, tasks of documents, a passage that the prompt does not hold as it is.
pub fn of_task(task: &Task, limit: usize) -> Result<Vec<Question>, LocateError> {
    let problem = |problem: &str| LocateError::Task { task: task.file.clone(), problem: problem.into() };
    if task.config.doc_to_passage.is_none() {
        return Err(problem("names no passage to look at; say in `doc_to_passage` what the answer should rest on"));
    }
    let options = PromptOptions { num_fewshot: Some(0), ..PromptOptions::default() };
    let mut prompts = Prompts::new(task, None, &options)?;
    let mut questions = Vec::new();
    for index in 0..task.docs.len().min(limit) {
        let item = prompts.item(index)?;
        let row =
            |problem: String| LocateError::Row { place: format!("{}, example {}", task.name(), item.id), problem };
        let delimiter = &task.config.target_delimiter;
        let (user, continuation) = match &item.question {
            Asked::Generate { context, references } => {
                let first = references.first().map_or("", String::as_str);
                (context, format!("{delimiter}{first}"))
            }
            Asked::Choices { contexts, continuations, gold, .. } => {
                let right = *gold.indices.first().ok_or_else(|| row("no right answer among the choices".into()))?;
                let pick = |texts: &[String]| if texts.len() == 1 { 0 } else { right };
                (&contexts[pick(contexts)], continuations[pick(continuations)].clone())
            }
            Asked::Target { context, continuation } => (context, continuation.clone()),
            Asked::Document { .. } => {
                return Err(problem("reads documents and asks nothing; name a task with questions"));
            }
        };
        let passage = item.passage.as_deref().unwrap_or_default().trim();
        let start = user.find(passage).filter(|_| !passage.is_empty()).ok_or_else(|| {
            row("the prompt does not hold the passage as `doc_to_passage` has it; let both write it alike".into())
        })?;
        let answer = continuation.trim_start();
        if answer.is_empty() {
            return Err(row("the right answer is empty; leave such rows out (`where`)".into()));
        }
        questions.push(Question {
            id: item.id.clone(),
            user: user.clone(),
            context: start..start + passage.len(),
            alone: None,
            delimiter: continuation[..continuation.len() - answer.len()].to_owned(),
            answer: answer.to_owned(),
        });
    }
    Ok(questions)
}

/// The first `limit` rows of a data file, each with what was read of it.
pub fn of_rows(path: &Path, columns: &Columns, limit: usize) -> Result<Vec<(Row, Question)>, LocateError> {
    let mut questions = Vec::new();
    for row in rows(path, limit)? {
        let (number, place, row) = row?;
        let problem = |problem: String| LocateError::Row { place: place.clone(), problem };
        let context = text(&row, &columns.context, true).map_err(problem)?;
        let question = text(&row, &columns.question, false).map_err(problem)?;
        let answer = text(&row, &columns.answer, false).map_err(problem)?;
        let (user, context) = asked(&context, &question);
        let (id, alone, delimiter) = (number.to_string(), Some(asked("", &question).0), " ".into());
        questions.push((row, Question { id, user, context, alone, answer, delimiter }));
    }
    Ok(questions)
}

/// A row's number, its place for messages, and what it holds.
pub(crate) type Numbered = (usize, String, Row);

/// The first rows of a data file.
pub(crate) fn rows(
    path: &Path,
    limit: usize,
) -> Result<impl Iterator<Item = Result<Numbered, LocateError>>, LocateError> {
    let mut all = Vec::new();
    for file in resolve(&[path.to_string_lossy().into_owned()], Path::new(""), None)? {
        all.push(open(&file, &ReaderOptions::default())?);
    }
    let numbered = |row: Result<RawRow, DataError>| -> Result<Numbered, LocateError> {
        let row = row?;
        Ok((row.source.row, row.source.to_string(), row.columns))
    };
    Ok(all.into_iter().flatten().take(limit).map(numbered))
}

/// A column's text, trimmed.
fn text(row: &Row, column: &str, may_be_empty: bool) -> Result<String, String> {
    let known = || row.keys().cloned().collect::<Vec<_>>().join(", ");
    let found = match row.get(column) {
        None if may_be_empty => return Ok(String::new()),
        None => return Err(format!("no column `{column}`; there are {}", known())),
        Some(Value::Array(several)) => several.first().unwrap_or(&Value::Null),
        Some(one) => one,
    };
    let text = match found {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null => String::new(),
        other => return Err(format!("column `{column}`: found {other}, expected text")),
    };
    if text.is_empty() && !may_be_empty {
        return Err(format!("column `{column}` is empty, expected text; leave such rows out"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_passage_is_found_where_it_was_put() {
        let (user, context) = asked("It rained.", "What fell?");
        assert_eq!(&user[context], "It rained.");
        assert_eq!(user, "Context: It rained.\n\nQuestion: What fell?\nAnswer:");
        assert_eq!(asked("", "What fell?"), ("Question: What fell?\nAnswer:".to_owned(), 0..0));
    }

    #[test]
    fn columns_are_texts_numbers_or_lists() {
        let row = json!({"a": [" x ", "y"], "n": 7, "e": "", "o": {}, "l": []});
        let row = row.as_object().unwrap();
        assert_eq!(text(row, "a", false), Ok("x".into()));
        assert_eq!(text(row, "n", false), Ok("7".into()));
        assert_eq!((text(row, "e", true), text(row, "missing", true)), (Ok(String::new()), Ok(String::new())));
        assert!(text(row, "l", false).unwrap_err().contains("is empty"));
        assert!(text(row, "missing", false).unwrap_err().contains("there are a, n, e, o, l"));
        assert!(text(row, "o", true).unwrap_err().contains("expected text"));
    }
}
