//! The report of a run: the comparison with the loss curve, the checks and the provenance that the run left in its directory.

use std::path::Path;

use hone_eval::ledger::Ledger;
use hone_eval::scorecard::Scorecard;
use hone_report::{InvariantResult, Report, RunSummary};
use hone_train::recipe::Recipe;
use hone_train::trainer::Outcome;
use serde_json::Value;

use super::compare::headers;
use super::tune_progress::{duration, thousands};
use crate::fail::Failure;

/// Reads what the run wrote about itself and puts the page's data together.
pub fn assemble(
    recipe: &Recipe,
    out: &Path,
    outcome: &Outcome,
    ledger: Ledger,
    before: &[Scorecard],
    after: &[Scorecard],
    command: &str,
) -> Result<Report, Failure> {
    let metrics = metrics(out)?;
    let title = out.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
    Ok(Report {
        title,
        scorecards: headers(before, after),
        sources: Vec::new(),
        run: Some(RunSummary {
            facts: facts(recipe, outcome),
            training_loss: curve(&metrics, "train", "loss"),
            validation_loss: curve(&metrics, "validation", "validation_loss"),
        }),
        invariants: invariants(out)?,
        provenance: provenance(out)?,
        command: command.to_owned(),
        ledger,
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::from(error).doing(format!("reading {}", path.display())))
}

fn metrics(out: &Path) -> Result<Vec<Value>, Failure> {
    read(&out.join(hone_train::metrics::FILE))?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The numbers of one kind of line, by step.
fn curve(metrics: &[Value], kind: &str, field: &str) -> Vec<(f64, f64)> {
    let of_kind = metrics.iter().filter(|line| line["kind"] == kind);
    of_kind.filter_map(|line| Some((line["step"].as_f64()?, line[field].as_f64()?))).collect()
}

fn facts(recipe: &Recipe, outcome: &Outcome) -> Vec<(String, String)> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut facts = vec![
        fact("Method", recipe.method.word().to_owned()),
        fact("Steps", format!("{} (adapter of step {})", outcome.steps, outcome.adapter_step)),
        fact("Tokens read", thousands(outcome.tokens)),
        fact("Training time", duration(outcome.seconds)),
        fact("Peak memory", format!("{:.2} GiB", outcome.peak_memory as f64 / f64::from(1 << 30))),
        fact("Compute type", format!("{:?}", recipe.train.dtype).to_lowercase()),
    ];
    if let Some(old) = recipe.train.compatibility.as_ref().filter(|c| c.wants_old()).map(|c| &c.old) {
        let named: Vec<&str> = [&old.model, &old.edit].into_iter().flatten().map(String::as_str).collect();
        facts.push(fact("Compatible with", named.join(" with ")));
    }
    for key in ["r", "lora_alpha", "target_modules"] {
        if let Some(value) = recipe.method.0.get(key) {
            facts.push(fact(&key.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        }
    }
    facts
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn invariants(out: &Path) -> Result<Vec<InvariantResult>, Failure> {
    let record: Value = serde_json::from_str(&read(&out.join(hone_train::invariants::FILE))?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let check = |check: &Value| InvariantResult {
        // What was expected says it in words; `invariants.json` has the check's name beside it.
        name: capitalised(&text(&check["expected"])),
        status: match check["status"].as_str() {
            Some("skipped") => "not checked".into(),
            Some(status) => status.to_owned(),
            None => String::new(),
        },
        detail: text(&check["found"]),
    };
    Ok(record["checks"].as_array().map(|checks| checks.iter().map(check).collect()).unwrap_or_default())
}

/// Hashes and places, flattened to lines.
fn provenance(out: &Path) -> Result<Vec<(String, String)>, Failure> {
    let record: Value = serde_json::from_str(&read(&out.join(hone_train::provenance::FILE))?)?;
    let mut lines = Vec::new();
    flatten("", &record, &mut lines);
    Ok(lines)
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let name = |key: &str| {
        if prefix.is_empty() { key.replace('_', " ") } else { format!("{prefix} {}", key.replace('_', " ")) }
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&name(key), value, lines)),
        Value::Array(items) if items.iter().any(|item| item.is_object()) => {
            items.iter().for_each(|item| flatten(prefix, item, lines));
        }
        Value::Array(items) => {
            let words: Vec<String> =
                items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned)).collect();
            lines.push((prefix.to_owned(), words.join(" ")));
        }
        Value::Null => {}
        Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}
