//! Which of several edits an example is answered with: a column of its row names it. Examples of different edits share their
//! batches; what an example scores does not depend on which others are in its batch.
//!
//! The names and their groups are a stack's: an edit that acts on group 2 alone is that of the rows which name it. What the
//! edits are, this module does not know.

use serde_json::Value;

use crate::error::{EvalError, did_you_mean};
use crate::task::data::Doc;
use crate::task::fields::row_error;

/// The group of rows that no edit of their own is for.
pub const SHARED: u32 = 0;

/// Which column names an example's edit, and what the names stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The column.
    pub column: String,
    /// Values of the column, each with the group of its rows in a batch.
    pub groups: Vec<(String, u32)>,
}

impl Route {
    /// The group of an example's rows.
    ///
    /// # Errors
    /// It has no such column, something else than text, a number or a truth value in it, or a name that stands for nothing.
    pub fn group(&self, doc: &Doc) -> Result<u32, EvalError> {
        let wrong = |what: String| row_error(doc, "--route", what);
        let Some(value) = doc.columns.get(&self.column) else {
            let columns = doc.columns.keys().map(String::as_str);
            let hint = did_you_mean(&self.column, columns.clone());
            let there = columns.collect::<Vec<_>>().join(", ");
            return Err(wrong(format!("the row has no column `{}`{hint} (it has {there})", self.column)));
        };
        let name = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            other => {
                return Err(wrong(format!("found {other} in `{}`, expected the name of an edit", self.column)));
            }
        };
        self.groups.iter().find(|(known, _)| *known == name).map(|(_, group)| *group).ok_or_else(|| {
            let known = self.groups.iter().map(|(known, _)| known.as_str());
            let hint = did_you_mean(&name, known.clone());
            let there = known.collect::<Vec<_>>().join(", ");
            let next =
                format!("say what it stands for: `--edit-for '{name}=DIR'`, or `'{name}='` for no edit of its own");
            wrong(format!("`{}` is `{name}`, which no edit is for{hint} (there are {there}); {next}", self.column))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hone_data::example::SourceRef;
    use serde_json::json;

    use super::*;

    fn doc(columns: Value) -> Doc {
        let Value::Object(columns) = columns else { panic!("columns") };
        Doc { columns, place: SourceRef { file: Path::new("rows.jsonl").into(), row: 7, line: Some(8) } }
    }

    #[test]
    fn a_row_names_its_edit() {
        let groups = vec![("law".to_string(), 1), ("3".to_string(), 2), ("none".to_string(), SHARED)];
        let route = Route { column: "domain".into(), groups };
        let group = |value: Value| route.group(&doc(json!({ "text": "t", "domain": value })));
        assert_eq!(group(json!("law")).unwrap(), 1);
        assert_eq!(group(json!(3)).unwrap(), 2);
        assert_eq!(group(json!("none")).unwrap(), SHARED);
        let unknown = group(json!("laws")).unwrap_err().to_string();
        assert!(unknown.contains("rows.jsonl") && unknown.contains('7'), "{unknown}");
        assert!(unknown.contains("did you mean `law`?") && unknown.contains("law, 3, none"), "{unknown}");
        assert!(group(json!([1])).unwrap_err().to_string().contains("found [1]"));
        let missing = route.group(&doc(json!({ "domains": "law" }))).unwrap_err().to_string();
        assert!(missing.contains("no column `domain`; did you mean `domains`?"), "{missing}");
    }
}
