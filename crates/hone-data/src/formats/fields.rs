//! A row's fields by the names a format knows them by, with errors that name the place.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{RowError, describe, names};
use crate::example::SourceRef;
use crate::readers::Row;

/// A row as a format sees it.
pub struct Fields<'a> {
    /// The columns as the file has them.
    pub row: &'a Row,
    /// The recipe's `columns`: a format's field to the file's column.
    pub names: &'a BTreeMap<String, String>,
    /// Where the row is.
    pub place: &'a SourceRef,
}

const CORRECT: &str = "correct the row, or set `on_bad_row: skip` to leave such rows out";

impl<'a> Fields<'a> {
    /// The column a field is read from.
    pub fn column<'n>(&'n self, field: &'n str) -> &'n str {
        self.names.get(field).map_or(field, String::as_str)
    }

    /// A field's value; `null` counts as none.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.row.get(self.column(field)).filter(|v| !v.is_null())
    }

    /// Whether a field holds text.
    pub fn is_text(&self, field: &str) -> bool {
        self.get(field).is_some_and(Value::is_string)
    }

    /// Whether a field holds a list.
    pub fn is_list(&self, field: &str) -> bool {
        self.get(field).is_some_and(Value::is_array)
    }

    /// A text that has to be there.
    pub fn text(&self, field: &str) -> Result<&'a str, Box<RowError>> {
        let column = self.column(field);
        match self.row.get(column) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.mistyped(column, other, "text")),
            None => Err(self.missing(field, "text")),
        }
    }

    /// A text that may be missing or `null`.
    pub fn optional_text(&self, field: &str) -> Result<Option<&'a str>, Box<RowError>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(self.column(field), other, "text or nothing")),
        }
    }

    /// A list that has to be there.
    pub fn list(&self, field: &str) -> Result<&'a [Value], Box<RowError>> {
        let column = self.column(field);
        match self.row.get(column) {
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.mistyped(column, other, "a list")),
            None => Err(self.missing(field, "a list")),
        }
    }

    /// A field of the wrong type.
    pub fn mistyped(&self, field: &str, found: &Value, expected: &str) -> Box<RowError> {
        let next = match found {
            Value::Number(_) | Value::Bool(_) => {
                "turn the value into text, or render it with a template: `completion_template: '{{ answer }}'`"
            }
            _ => CORRECT,
        };
        self.error(Some(field), describe(found), expected, next)
    }

    /// A field that is not there.
    fn missing(&self, field: &str, expected: &str) -> Box<RowError> {
        let column = self.column(field);
        let found = format!("no such field; the row has {}", names(self.row.keys()));
        let next = format!("correct the row, or say which column it is with `columns: {{{field}: …}}`");
        self.error(Some(column), found, expected, next)
    }

    /// An error about this row.
    pub fn error(
        &self,
        field: Option<&str>,
        found: impl Into<String>,
        expected: impl Into<String>,
        next: impl Into<String>,
    ) -> Box<RowError> {
        Box::new(RowError {
            place: self.place.clone(),
            field: field.map(str::to_string),
            found: found.into(),
            expected: expected.into(),
            next: next.into(),
        })
    }
}
