//! From files that steps wrote to numbers.
//!
//! A measure is read for every combination of the variables in its path. Scorecards keep their examples, and so do rows of a
//! JSON-lines file, so that intervals can be had of whatever is computed from them; a number of a JSON file is a number.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_eval::files::read_scorecard;
use hone_eval::metrics::{Aggregation, ExampleScore};
use serde_json::Value;

use crate::error::StudyError;
use crate::formula;
use crate::placeholders::fill_text;
use crate::plan::{STEPS, bindings, combinations, label, variables_of_measure};
use crate::quantity::{Examples, Grid, Quantity, compute};
use crate::read::{Kind, kind};
use crate::study::{Measure, Study};

/// Longest file that is read whole, in bytes.
const MAX_LENGTH: u64 = 256 << 20;

/// The measures of a study's run. Each is read once, when it is first asked for.
pub struct Measures<'a> {
    study: &'a Study,
    directory: &'a Path,
    known: RefCell<BTreeMap<String, Arc<Grid>>>,
}

impl<'a> Measures<'a> {
    /// Those of the run in `directory`.
    pub fn new(study: &'a Study, directory: &'a Path) -> Measures<'a> {
        Measures { study, directory, known: RefCell::default() }
    }

    /// Computes a formula; `what` is the claim, table or plot it belongs to.
    pub fn compute(&self, what: &str, text: &str) -> Result<Grid, StudyError> {
        let problem = |problem: String| StudyError::Formula { what: what.into(), formula: text.into(), problem };
        let formula = formula::parse(text).map_err(problem)?;
        for measure in formula.measures() {
            self.grid(measure)?;
        }
        let known = |name: &str| self.grid(name).map_err(|error| error.to_string());
        let grid = compute(&formula, &known, &|variable| self.order(variable)).map_err(problem)?;
        if grid.is_empty() {
            return Err(problem("nothing was measured for these values".into()));
        }
        Ok(grid)
    }

    /// What the values of a variable are called, in order.
    pub fn order(&self, variable: &str) -> Vec<String> {
        let values = self.study.variables.get(variable).into_iter().flatten();
        values.filter_map(|value| label(value).ok()).collect()
    }

    /// A measure for every combination of its variables' values.
    fn grid(&self, name: &str) -> Result<Arc<Grid>, StudyError> {
        if let Some(grid) = self.known.borrow().get(name) {
            return Ok(Arc::clone(grid));
        }
        let wrong =
            |problem: String| StudyError::Measure { measure: name.into(), file: self.directory.into(), problem };
        let measure = self.study.measures.get(name).ok_or_else(|| wrong("there is no such measure".into()))?;
        let grid = match kind(measure).map_err(wrong)? {
            Kind::Formula(text) => self.compute(&format!("measure `{name}`"), text)?,
            Kind::File(_, path) => self.read(name, measure, path)?,
        };
        let grid = Arc::new(grid);
        self.known.borrow_mut().insert(name.into(), Arc::clone(&grid));
        Ok(grid)
    }

    fn read(&self, name: &str, measure: &Measure, path: &str) -> Result<Grid, StudyError> {
        let mut grid = Grid::new();
        for bound in combinations(self.study, &variables_of_measure(path, measure.value.as_deref(), self.study)) {
            let wrong = |file: &Path, problem| StudyError::Measure { measure: name.into(), file: file.into(), problem };
            let mut values = self.study.constants.clone();
            values.extend(bound.clone());
            let below = fill_text(path, &values).map_err(|problem| wrong(self.directory, problem))?;
            let file = self.directory.join(STEPS).join(below);
            let pointer = fill_text(measure.value.as_deref().unwrap_or_default(), &values);
            let pointer = pointer.map_err(|problem| wrong(&file, problem))?;
            let quantity = read_file(measure, &pointer, &file).map_err(|problem| wrong(&file, problem))?;
            let key = bindings(&bound).map_err(|problem| wrong(&file, problem))?;
            grid.insert(key, Arc::new(quantity));
        }
        Ok(grid)
    }
}

fn read_file(measure: &Measure, pointer: &str, file: &Path) -> Result<Quantity, String> {
    if measure.scorecard.is_some() {
        return scorecard(file, measure.metric.as_deref());
    }
    let length = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > MAX_LENGTH {
        return Err(format!("{length} bytes, at most {MAX_LENGTH} are read"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    if measure.rows.is_some() {
        return rows(&text, measure, pointer, file);
    }
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("not JSON: {error}"))?;
    number(find(&value, pointer)?).map(Quantity::Number)
}

fn number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        other => other.as_f64().ok_or_else(|| format!("found {other}, expected a number")),
    }
}

/// A text as it is, anything else as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The value at a JSON pointer (RFC 6901), where `name=boolq` leads to the item of a list whose `name` is `boolq`.
pub fn find<'v>(value: &'v Value, pointer: &str) -> Result<&'v Value, String> {
    let mut value = value;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        let next = match (value, key.split_once('=')) {
            (Value::Array(items), Some((field, text))) => {
                let is = |item: &&Value| item.get(field).is_some_and(|v| text_of(v) == text);
                items.iter().find(is)
            }
            (Value::Array(items), None) => key.parse::<usize>().ok().and_then(|i| items.get(i)),
            (Value::Object(map), _) => map.get(&key),
            _ => None,
        };
        value = next.ok_or_else(|| {
            let there = match value {
                Value::Object(map) => format!("there are {}", map.keys().cloned().collect::<Vec<_>>().join(", ")),
                Value::Array(items) => format!("it is a list of {}", items.len()),
                other => format!("it is {other}"),
            };
            format!("`{pointer}`: nothing at `{key}`; {there}")
        })?;
    }
    Ok(value)
}

fn scorecard(file: &Path, metric: Option<&str>) -> Result<Quantity, String> {
    let card = read_scorecard(file).map_err(|error| error.to_string())?;
    let name = metric.unwrap_or(&card.header.main_metric);
    let found = card.header.metrics.iter().find(|m| m.name == name).ok_or_else(|| {
        let there: Vec<&str> = card.header.metrics.iter().map(|m| m.name.as_str()).collect();
        format!("no metric `{name}`; there are {}", there.join(", "))
    })?;
    let mut rows: Vec<(String, ExampleScore)> = Vec::with_capacity(card.rows.len());
    for row in card.rows {
        let score = row.scores.get(name).copied().ok_or_else(|| format!("example {} has no `{name}`", row.id))?;
        rows.push((row.id, ExampleScore { score, parts: row.parts.get(name).cloned().unwrap_or_default() }));
    }
    examples(format!("{} {}", card.header.task, card.header.task_sha256), rows, found.aggregation)
}

fn rows(text: &str, measure: &Measure, pointer: &str, file: &Path) -> Result<Quantity, String> {
    let mut rows = Vec::new();
    for (number_of, line) in text.lines().enumerate().skip(measure.skip).filter(|(_, line)| !line.trim().is_empty()) {
        let at = |problem: String| format!("line {}: {problem}", number_of + 1);
        let row: Value = serde_json::from_str(line).map_err(|error| at(format!("not JSON: {error}")))?;
        let id = match &measure.id {
            None => number_of.to_string(),
            Some(pointer) => text_of(find(&row, pointer).map_err(at)?),
        };
        let score = find(&row, pointer).and_then(number).map_err(at)?;
        rows.push((id, ExampleScore { score, parts: Vec::new() }));
    }
    let name = file.file_name().map_or_else(PathBuf::new, PathBuf::from);
    examples(name.display().to_string(), rows, Aggregation::Mean)
}

/// Examples in the order of their ids, so that the same ones in another order are the same.
fn examples(of: String, mut rows: Vec<(String, ExampleScore)>, aggregation: Aggregation) -> Result<Quantity, String> {
    if rows.is_empty() {
        return Err("no examples in it".into());
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let (ids, scores): (Vec<String>, Vec<ExampleScore>) = rows.into_iter().unzip();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two examples have the id `{}`", twice[0]));
    }
    Ok(Quantity::Examples(Arc::new(Examples { identity: Arc::new((of, ids)), scores, aggregation })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_pick_items_of_lists_by_a_field() {
        let value = json!({"tasks": [{"name": "a", "n": 1}, {"name": "b", "n": 2, "k/x": 7}], "ok": true});
        assert_eq!(find(&value, "/tasks/name=b/n"), Ok(&json!(2)));
        assert_eq!(find(&value, "/tasks/n=1/name"), Ok(&json!("a")));
        assert_eq!(find(&value, "/tasks/1/k~1x"), Ok(&json!(7)));
        assert_eq!(find(&value, "").and_then(number).map_err(|e| e.contains("expected a number")), Err(true));
        assert_eq!(find(&value, "/ok").and_then(number), Ok(1.0));
        assert!(find(&value, "/tasks/name=c/n").unwrap_err().contains("it is a list of 2"));
        assert!(find(&value, "/task").unwrap_err().contains("there are tasks, ok"));
    }

    #[test]
    fn rows_are_paired_by_id_and_not_by_place() {
        let measure = Measure { rows: Some("x".into()), id: Some("/id".into()), skip: 1, ..Measure::default() };
        let read = |text: &str| rows(text, &measure, "/score", Path::new("a/rows.jsonl"));
        let one = read("header\n{\"id\": 2, \"score\": 1}\n{\"id\": 1, \"score\": 0}\n").unwrap();
        let other = read("header\n{\"id\": 1, \"score\": 0}\n\n{\"id\": 2, \"score\": true}\n").unwrap();
        let (Quantity::Examples(one), Quantity::Examples(other)) = (one, other) else { panic!("examples") };
        assert_eq!(one.identity, other.identity);
        assert_eq!(one.scores, other.scores);
        assert!(
            read("header\n{\"id\": 1, \"score\": 0}\n{\"id\": 1, \"score\": 0}").unwrap_err().contains("two examples")
        );
        assert!(
            read("header\n{\"id\": 1}").unwrap_err().contains("line 2: `/score`: nothing at `score`; there are id")
        );
        assert!(read("header\n").unwrap_err().contains("no examples"));
    }
}
