//! A number of a measure, explained: from the ledger, and from the rows that the measure wrote of every example.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::shown::Texts;
use super::{Example, Explanation, Options, filled, number};
use crate::error::EvalError;
use crate::ledger::{Ledger, PairedExample, TaskComparison};
use crate::measures::{self, MeasureResult, Number, TaskMeasure, Unit};
use crate::scorecard::ScorecardHeader;
use crate::statistics::quantile;
use crate::task::variants::SEPARATOR;

/// Largest file of rows read, in bytes.
const LARGEST: u64 = 1 << 30;

/// A number of a measure of a task.
#[derive(Clone, Copy)]
pub struct Found<'a> {
    /// The measure.
    pub measure: &'a MeasureResult,
    /// The task's part of it.
    pub task: &'a TaskMeasure,
    /// The number.
    pub number: &'a Number,
}

/// The numbers called `asked` (`negative_flip_rate`, or with the measure before it, `compatibility/negative_flip_rate`).
pub fn find<'a>(ledger: &'a Ledger, asked: &str) -> Vec<Found<'a>> {
    let (measure_asked, asked) = match asked.split_once('/') {
        Some((measure, number)) => (Some(measure), number),
        None => (None, asked),
    };
    let measures = ledger.measures.iter().filter(|measure| measure_asked.is_none_or(|name| measure.name == name));
    let tasks = measures.flat_map(|measure| measure.tasks.iter().map(move |task| (measure, task)));
    let numbers = tasks.filter_map(|(measure, task)| {
        let number = task.numbers.iter().find(|number| number.name == asked)?;
        Some(Found { measure, task, number })
    });
    numbers.collect()
}

/// Where a comparison keeps what a measure says of every example of a task.
pub fn rows_path(directory: &Path, measure: &str, task: &str) -> PathBuf {
    directory.join(measure).join(format!("{task}.jsonl"))
}

/// What a measure says of every example; nothing where it wrote nothing.
///
/// # Errors
/// A file that cannot be read, or that holds something else.
pub fn read_rows(path: &Path) -> Result<Vec<Map<String, Value>>, EvalError> {
    let io = |source| EvalError::Io { path: path.to_owned(), source };
    let bad = |line: usize, problem: String| EvalError::Scorecard { path: path.to_owned(), line, problem };
    let size = match std::fs::metadata(path) {
        Ok(data) => data.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    if size > LARGEST {
        return Err(bad(1, format!("{} MiB; is this the rows of a measure?", size >> 20)));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| bad(i + 1, format!("not a row of a measure: {error}; compare again")))
    };
    text.lines().enumerate().map(row).collect()
}

/// Explains a number of `ledger`, whose measure wrote `rows` of every example (or none).
pub fn of(
    found: Found<'_>,
    rows: &[Map<String, Value>],
    ledger: &Ledger,
    sensitive: bool,
    options: &Options,
) -> Explanation {
    let Found { measure, task, number: value } = found;
    let header = ScorecardHeader { sensitive, ..ScorecardHeader::default() };
    let texts = Texts::of(&header, options.show_sensitive);
    let made = from_rows(value, rows);
    let mut steps = vec![format!("{} ({}; {})", measure.question, measure.name, measure.source)];
    let origin = measure.origin.as_ref();
    // What another verb measured is not made of the ledger's answers.
    let behind = if origin.is_some() { Vec::new() } else { behind(found, ledger) };
    let filled = if made.is_none() { filled::of(found, &behind, options) } else { None };
    match (&made, &filled) {
        (Some(made), _) => steps.push(made.step.clone()),
        (None, Some(filled)) => steps.push(filled.step.clone()),
        (None, None) => steps.push(format!("{} = {}", value.name, value.shown())),
    }
    if made.is_none() {
        steps.extend(
            measures::find(&measure.name).into_iter().flat_map(|known| known.formulas).map(|f| (*f).to_owned()),
        );
        steps.extend(behind.iter().take(TASKS).map(|task| scored(task)));
        let more = behind.len().saturating_sub(TASKS);
        steps.extend((more > 0).then(|| format!("and {more} tasks more")));
    }
    steps.extend(origin.iter().flat_map(|origin| origin.formulas.iter().cloned()));
    let interval = value.low.zip(value.high);
    if let Some((low, high)) = interval {
        let of_rows = made.as_ref().and_then(|made| made.share);
        let of_rows = of_rows.filter(|share| filled::is_wilsons(*share, (low, high), options.bootstrap.level));
        let how = match of_rows {
            Some((count, n)) => format!("Wilson's, of {count} of {n}"),
            None => filled::interval(found, filled.as_ref().and_then(|filled| filled.share), options),
        };
        steps.push(format!("95 % interval: {} to {}: {how}", number(low), number(high)));
    }
    steps.extend(task.notes.iter().cloned());
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let mut in_words = "as the questions stand in the task".to_owned();
    if let Some(made) = &made {
        let weight = |i: usize| made.weights.get(i).copied().unwrap_or(0.0);
        order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
        in_words = format!("those with the largest `{}` first", made.field);
    }
    let example = |i: usize| shown(&rows[i], made.as_ref().map(|made| made.field.as_str()), texts);
    let mut examples: Vec<Example> = order.into_iter().take(options.limit).map(example).collect();
    if rows.is_empty() {
        in_words = "those that changed first".into();
        examples = changed(ledger, &behind, texts, options.limit);
    }
    Explanation {
        task: task.name.clone(),
        metric: format!("{} ({}, over {})", value.name, measure.name, task.metric),
        model: origin.map_or_else(|| format!("{} → {}", ledger.base, ledger.tuned), |origin| origin.models.clone()),
        definition: format!("{}. {}", value.label, measure.legend),
        value: value.value,
        steps,
        interval,
        variants: Vec::new(),
        n: task.n,
        order: in_words,
        examples,
    }
}

/// Tasks that are listed of a number over many.
const TASKS: usize = 20;

/// The tasks whose scores the number is made of: those that the measure names for it, else the task or its ways of being asked.
fn behind<'a>(found: Found<'_>, ledger: &'a Ledger) -> Vec<&'a TaskComparison> {
    let Found { task, number: value, .. } = found;
    let named = task.over(&[&value.label]);
    let of_family = |name: &str| name == task.name || name.split_once(SEPARATOR).is_some_and(|(of, _)| of == task.name);
    let is_behind = |other: &&TaskComparison| match named.is_empty() {
        true => of_family(&other.name),
        false => named.contains(&other.name),
    };
    ledger.tasks.iter().filter(is_behind).collect()
}

/// A task's scores before and after, in words.
fn scored(task: &TaskComparison) -> String {
    let shown = |value: f64| if task.is_share { Unit::Share.shown(value) } else { number(value) };
    format!("{} ({}, {} questions): {} → {}", task.name, task.metric, task.n, shown(task.base), shown(task.tuned))
}

/// The ledger's examples of `tasks`, those that changed first.
fn changed(ledger: &Ledger, tasks: &[&TaskComparison], texts: Texts, limit: usize) -> Vec<Example> {
    let is_own = |example: &&PairedExample| tasks.iter().any(|task| task.name == example.task);
    let mut own: Vec<&PairedExample> = ledger.examples.iter().filter(is_own).collect();
    own.sort_by(|a, b| {
        let size = |example: &PairedExample| (example.tuned_score - example.base_score).abs();
        size(b).total_cmp(&size(a))
    });
    let one = |paired: &PairedExample| {
        let mut example = Example { id: paired.id.clone(), ..Example::default() };
        example.fact("task", paired.task.clone());
        example.fact("score", format!("{} → {}", number(paired.base_score), number(paired.tuned_score)));
        for (label, text) in [
            ("prompt", &paired.prompt),
            ("right answer", &paired.target),
            ("answer before", &paired.base_answer),
            ("answer after", &paired.tuned_answer),
        ] {
            example.fact(label, texts.head(text));
        }
        example
    };
    own.into_iter().take(limit).map(one).collect()
}

/// How rows make a number.
struct Made {
    /// The field they have it in.
    field: String,
    /// In words.
    step: String,
    /// How much each row counts.
    weights: Vec<f64>,
    /// Of a share: how many of how many.
    share: Option<(usize, usize)>,
}

/// The field of the rows whose share or mean is the number. Measures are not known by name here: a field counts only if it
/// makes the number, to rounding.
fn from_rows(number_made: &Number, rows: &[Map<String, Value>]) -> Option<Made> {
    let name = number_made.name.as_str();
    let stem = ["_rate", "_share", "_mean"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let fields = [name, stem, stem.strip_prefix("mean_").unwrap_or(stem)];
    let same = |value: f64| (value - number_made.value).abs() <= 1e-9 * value.abs().max(1.0);
    let shown = || number_made.unit.shown(number_made.value);
    if let Some(field) = name.strip_suffix("_median") {
        let mut values: Vec<f64> = rows.iter().filter_map(|row| row.get(field)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        return (!values.is_empty() && same(quantile(&values, 0.5))).then(|| Made {
            field: field.into(),
            step: format!("{name} = middle one of {} values of `{field}` = {}", values.len(), shown()),
            weights: rows.iter().map(|row| row.get(field).and_then(Value::as_f64).map_or(0.0, f64::abs)).collect(),
            share: None,
        });
    }
    for field in fields {
        let flags: Vec<bool> = rows.iter().filter_map(|row| row.get(field)?.as_bool()).collect();
        let count = flags.iter().filter(|flag| **flag).count();
        let weights = |of: &dyn Fn(&Value) -> Option<f64>| -> Vec<f64> {
            rows.iter().map(|row| row.get(field).and_then(of).map_or(0.0, f64::abs)).collect()
        };
        let n = flags.len();
        let is_count = number_made.unit == Unit::Count && same(count as f64);
        if n > 0 && (same(count as f64 / n as f64) || is_count) {
            let value = shown();
            return Some(Made {
                field: field.into(),
                step: format!("{name} = {count} of {n} examples with `{field}` = {value}"),
                weights: weights(&|value| value.as_bool().map(|flag| f64::from(u8::from(flag)))),
                share: Some((count, n)),
            });
        }
        let values: Vec<f64> = rows.iter().filter_map(|row| row.get(field)?.as_f64()).collect();
        let sum: f64 = values.iter().sum();
        if !values.is_empty() && same(sum / values.len() as f64) {
            let value = shown();
            return Some(Made {
                field: field.into(),
                step: format!("{name} = sum of `{field}` {} / {} examples = {value}", number(sum), values.len()),
                weights: weights(&Value::as_f64),
                share: None,
            });
        }
    }
    None
}

/// A row as an example: what made the number first. Texts of sensitive tasks are withheld; words of a measure's own (`change`)
/// are none.
fn shown(row: &Map<String, Value>, first: Option<&str>, texts: Texts) -> Example {
    let id = row.get("id").map_or_else(String::new, |id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
    let mut example = Example { id, ..Example::default() };
    let own = |key: &str| first == Some(key);
    let mut fields: Vec<(&String, &Value)> = row.iter().filter(|(key, _)| *key != "id").collect();
    fields.sort_by_key(|(key, _)| !own(key));
    for (key, value) in fields {
        let text = match value {
            Value::String(text) if key == "change" => text.clone(),
            Value::String(text) => texts.head(text),
            Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), number),
            Value::Bool(flag) => if *flag { "yes" } else { "no" }.into(),
            Value::Null => continue,
            Value::Array(several) if !several.is_empty() && several.iter().all(Value::is_number) => {
                several.iter().filter_map(Value::as_f64).map(number).collect::<Vec<_>>().join(", ")
            }
            other => texts.head(&other.to_string()),
        };
        example.fact(&key.replace('_', " "), text);
    }
    example
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::measures::{MeasureOptions, compatibility};

    fn rows(flips: &[bool]) -> Vec<Map<String, Value>> {
        let row = |(i, flip): (usize, &bool)| {
            let row = json!({"id": i.to_string(), "negative_flip": flip, "size": f64::from(u8::from(*flip)), "before": "secret"});
            row.as_object().cloned().unwrap()
        };
        flips.iter().enumerate().map(row).collect()
    }

    /// Two tasks, one of them with a question that changed.
    fn ledger() -> Ledger {
        let task = |name: &str| {
            json!({"name": name, "metric": "acc", "higher_is_better": true, "is_share": true, "n": 4, "base": 0.5, "tuned": 0.25,
                "difference": -0.25, "ci_low": null, "ci_high": null, "mcnemar_p": null, "p_holm": null, "gained": 0, "lost": 1,
                "both_right": 1, "both_wrong": 2, "negative_flip_rate": 0.25, "positive_flip_rate": 0.0, "verdict": "unchanged", "is_target": false, "is_variant": false})
        };
        let example = |id: &str, after: f64| {
            json!({"task": "piqa", "id": id, "change": "lost", "prompt": "secret", "target": "t", "base_answer": "x",
                "tuned_answer": "y", "base_score": 1.0, "tuned_score": after})
        };
        serde_json::from_value(json!({"format": 1, "base": "a", "tuned": "b", "verdict": "", "outcome": "unchanged",
            "broken_rules": [], "tasks": [task("piqa"), task("other")], "examples": [example("7", 1.0), example("9", 0.0)]}))
        .unwrap()
    }

    #[test]
    fn a_number_without_rows_is_explained_by_its_tasks_and_what_changed_in_them() {
        let number = Number::new("mean_loss", "mean loss", 0.25, None, Unit::Points);
        let task =
            TaskMeasure { name: "all skills".into(), n: 4, tasks: vec!["piqa".into()], ..TaskMeasure::default() };
        let measure = MeasureResult::new(&crate::measures::forgetting::MEASURE);
        let found = Found { measure: &measure, task: &task, number: &number };
        let explained = of(found, &[], &ledger(), false, &Options::default());
        let text = explained.steps.join("\n");
        assert!(
            text.contains("mean loss = mean over skills") && text.contains("piqa (acc, 4 questions): 50.0 % → 25.0 %"),
            "{text}"
        );
        assert!(!text.contains("other ("), "{text}");
        assert_eq!(
            explained.examples.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(),
            ["9", "7"],
            "what changed first"
        );
        let withheld = format!("{:?}", of(found, &[], &ledger(), true, &Options::default()).examples);
        assert!(!withheld.contains("secret"), "{withheld}");
    }

    fn explained(number: Number, rows: &[Map<String, Value>], sensitive: bool) -> Explanation {
        let task = TaskMeasure { name: "piqa".into(), metric: "acc".into(), n: rows.len(), ..TaskMeasure::default() };
        let measure = MeasureResult::new(&compatibility::MEASURE);
        let found = Found { measure: &measure, task: &task, number: &number };
        of(found, rows, &ledger(), sensitive, &Options::default())
    }

    #[test]
    fn a_rate_is_counted_again_from_its_rows() {
        let rows = rows(&[false, true, false, true]);
        let rate = Number::share("negative_flip_rate", "negative flips", 2, 4, &MeasureOptions::default());
        let found = explained(rate, &rows, false);
        assert_eq!(found.steps[1], "negative_flip_rate = 2 of 4 examples with `negative_flip` = 50.0 %");
        assert!(found.steps[2].contains("Wilson's, of 2 of 4"), "{:?}", found.steps);
        assert_eq!(found.examples[0].id, "1");
        assert_eq!(found.examples[0].facts[0].label, "negative flip");
        let mean = explained(Number::new("mean_size", "size", 0.5, None, Unit::Plain), &rows, false);
        assert_eq!(mean.steps[1], "mean_size = sum of `size` 2 / 4 examples = 0.500");
    }

    #[test]
    fn a_number_that_rows_do_not_make_is_not_said_to_be_made_by_them() {
        let rows = rows(&[true, true, false]);
        let found =
            explained(Number::new("negative_flip_rate", "negative flips", 0.5, None, Unit::Share), &rows, false);
        assert_eq!(found.steps[1], "negative_flip_rate = 50.0 %");
    }

    #[test]
    fn what_another_verb_measured_is_explained_by_its_own_words_and_rows() {
        let rows: Vec<Map<String, Value>> = [Some(0.25), None, Some(1.0), Some(0.5)]
            .iter()
            .enumerate()
            .map(|(i, r)| json!({"id": i, "r": r, "by_model": [-2.0, -1.5]}).as_object().cloned().unwrap())
            .collect();
        let task =
            TaskMeasure { name: "piqa".into(), metric: "accuracy".into(), n: rows.len(), ..TaskMeasure::default() };
        let origin = crate::measures::Origin {
            models: "eight models".into(),
            formulas: vec!["r = corr(score, compute)".into()],
            intervals: "resamples of questions".into(),
        };
        let measure = MeasureResult {
            name: "ladder".into(),
            origin: Some(origin),
            ..MeasureResult::new(&compatibility::MEASURE)
        };
        let steps = |number: &Number| {
            let found = Found { measure: &measure, task: &task, number };
            of(found, &rows, &ledger(), false, &Options::default())
        };
        let median = steps(&Number::new("r_median", "median", 0.5, Some((0.2, 0.9)), Unit::Plain));
        assert_eq!(median.steps[1], "r_median = middle one of 3 values of `r` = 0.500");
        assert_eq!(median.steps[2], "r = corr(score, compute)");
        assert_eq!(median.steps[3], "95 % interval: 0.2000 to 0.9000: resamples of questions");
        assert_eq!(median.model, "eight models");
        assert_eq!(median.examples[0].id, "2", "the largest first");
        assert_eq!(median.examples[0].facts[1].value, "−2, −1.5000");
        // A number that its rows do not make: neither is it said to be one of the ledger's tasks, though one has its name.
        let other = steps(&Number::new("of_the_mean", "of the mean", 0.9, None, Unit::Plain)).steps.join("\n");
        assert!(other.contains("of_the_mean = 0.900\nr = corr") && !other.contains('→'), "{other}");
        let other = steps(&Number::new("r_median", "median", 0.75, None, Unit::Plain)).steps.join("\n");
        assert!(!other.contains("middle one"), "{other}");
    }

    #[test]
    fn texts_of_sensitive_tasks_are_withheld() {
        let rate = Number::share("negative_flip_rate", "negative flips", 1, 1, &MeasureOptions::default());
        let texts = format!("{:?}", explained(rate.clone(), &rows(&[true]), true).examples);
        assert!(!texts.contains("secret") && texts.contains("withheld"), "{texts}");
        assert!(format!("{:?}", explained(rate, &rows(&[true]), false).examples).contains("secret"));
    }

    #[test]
    fn files_that_are_not_there_are_no_rows_and_others_are_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = rows_path(dir.path(), "compatibility", "piqa");
        assert!(read_rows(&path).unwrap().is_empty());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "{\"id\": \"1\"}\n[1]\n").unwrap();
        let message = read_rows(&path).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}
