//! `hone edit list`: every method, counted on a model.

use hone_edit::method::{Mergeable, MethodInfo, Plan, QuantisedBase, Role};
use hone_edit::registry::{self, METHODS};
use hone_edit::words::WORDS;
use hone_edit::{Base, EditError};
use hone_engine::DType;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::load::load_model;
use super::grouped;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};

/// Bytes a trained number takes: its `f32` master, its gradient, and AdamW's two moments.
const BYTES_A_PARAMETER: usize = 16;

/// Arguments of `hone edit list`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone edit list --model smollm2-135m
  hone edit list --model smollm2-135m --set r=4 --set target_modules=[q_proj,v_proj]
  hone edit list --json | jq '.[].name'")]
pub struct List {
    /// The model to count on; without one, only what holds for every model is listed.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// A field of the methods that have it; the others keep their defaults.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
}

/// A word of the field for a method with fields.
#[derive(Serialize)]
struct OtherWord {
    name: &'static str,
    fields: Value,
    paper: &'static str,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    peft_type: &'static str,
    family: &'static str,
    summary: &'static str,
    /// Words that are this method with some of its fields.
    words: Vec<OtherWord>,
    formula: &'static str,
    paper: &'static str,
    /// `null`, or why it cannot be merged.
    not_mergeable: Option<&'static str>,
    mergeable: bool,
    /// A base that is kept quantised: `kept`, `expanded` (a matrix at a time), `no`.
    quantised_base: &'static str,
    /// Fields of `--set` that it does not have.
    ignored: Vec<String>,
    /// Trained numbers on the model.
    parameters: Option<usize>,
    /// Share of the model's numbers.
    share: Option<f64>,
    /// Weights, gradients and AdamW's state of what is trained, in bytes.
    training_bytes: Option<usize>,
    /// A field that has no default: without it there is nothing to count.
    needs: Option<&'static str>,
    /// Why the method cannot be had at these settings, on this model.
    error: Option<String>,
}

impl List {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let settings = self.set.iter().map(|text| setting(text)).collect::<Result<Vec<_>, _>>()?;
        let base = match &self.model {
            Some(reference) => Some(Base::of(&*load_model(reference, DType::BF16, common)?)),
            None => None,
        };
        let rows = METHODS.iter().map(|info| row(info, &settings, base.as_ref())).collect::<Result<Vec<_>, _>>()?;
        for (field, _) in &settings {
            if rows.iter().all(|row| row.ignored.contains(field)) {
                let cause = format!("--set {field}: no method has such a field");
                return Err(Failure::user(cause, "see the fields of a method with `hone tune --schema`"));
            }
        }
        if common.json {
            outln!("{}", serde_json::to_string(&rows)?)?;
            return Ok(0);
        }
        print(&rows, base.as_ref())?;
        if base.is_none() && !common.quiet {
            remark!("note: name a model to have parameters counted: `hone edit list --model MODEL`");
        }
        Ok(0)
    }
}

/// `r=4` as a field and a YAML value.
fn setting(text: &str) -> Result<(String, Value), Failure> {
    let hint = "write `--set FIELD=VALUE`, the value as in a recipe: `--set r=4`";
    let (field, value) =
        text.split_once('=').ok_or_else(|| Failure::user(format!("--set {text}: there is no `=`"), hint))?;
    let value = serde_yaml_ng::from_str(value)
        .map_err(|error| Failure::user(format!("--set {text}: the value is no YAML: {error}"), hint))?;
    Ok((field.to_string(), value))
}

fn row(info: &'static MethodInfo, settings: &[(String, Value)], base: Option<&Base>) -> Result<Row, Failure> {
    let mut fields = Map::from_iter([("type".to_string(), Value::from(info.name))]);
    fields.extend(settings.iter().cloned());
    let mut ignored = Vec::new();
    let method = loop {
        match registry::from_recipe(&fields, &mut Vec::new()) {
            Ok(method) => break Ok(method),
            // The field is another method's.
            Err(EditError::UnknownField { field, .. }) if fields.contains_key(&field) => {
                fields.shift_remove(&field);
                ignored.push(field);
            }
            Err(error) => break Err(error),
        }
    };
    // Some methods can be merged at some settings only.
    let mergeable = method.as_ref().map_or(info.mergeable, |method| method.mergeable());
    let planned = method.and_then(|method| base.map(|base| method.plan(base)).transpose());
    let (parameters, needs, error) = match planned {
        Ok(plan) => (plan.as_ref().map(trained), None, None),
        Err(EditError::Needs { field, what, .. }) => (None, Some(field), Some(format!("needs `{field}`: {what}"))),
        Err(error) => (None, None, Some(error.to_string())),
    };
    let whole = base.map(|base| base.parameter_count());
    Ok(Row {
        name: info.name,
        peft_type: info.peft_type,
        family: info.family,
        summary: info.summary,
        words: words_of(info.name),
        formula: info.formula,
        paper: info.paper,
        mergeable: mergeable == Mergeable::Yes,
        not_mergeable: match mergeable {
            Mergeable::Yes => None,
            Mergeable::No(reason) => Some(reason),
        },
        quantised_base: match info.quantised_base {
            QuantisedBase::Kept => "kept",
            QuantisedBase::Expanded => "expanded",
            QuantisedBase::No(_) => "no",
        },
        ignored,
        share: parameters.zip(whole).map(|(part, whole)| part as f64 / whole as f64),
        training_bytes: parameters.map(|count| count * BYTES_A_PARAMETER),
        parameters,
        needs,
        error,
    })
}

fn words_of(method: &str) -> Vec<OtherWord> {
    let own = WORDS.iter().filter(|word| word.method == method);
    own.map(|word| OtherWord { name: word.name, fields: (word.fields)(), paper: word.paper }).collect()
}

/// Trained numbers of a plan.
fn trained(plan: &Plan) -> usize {
    let trained = plan.params.iter().filter(|p| p.traits.role == Role::Trained);
    trained.map(|p| p.shape.iter().product::<usize>()).sum()
}

fn print(rows: &[Row], base: Option<&Base>) -> Result<(), Failure> {
    if let Some(base) = base {
        outln!("{}: {} parameters", base.reference, grouped(base.parameter_count()))?;
    }
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (name, family) = (width(|r| r.name.len()).max(6), width(|r| r.family.len()).max(6));
    outln!(
        "{:name$}  {:family$}  {:>12} {:>9} {:>10}  merge  quantised base  paper",
        "method",
        "family",
        "parameters",
        "share",
        "state"
    )?;
    for row in rows {
        let count = row.parameters.map_or("-".to_string(), grouped);
        let share = row.share.map_or("-".to_string(), |s| format!("{:.3} %", 100.0 * s));
        let state = row.training_bytes.map_or("-".to_string(), |b| format!("{:.1} MiB", b as f64 / (1 << 20) as f64));
        let merge = if row.mergeable { "yes" } else { "no" };
        outln!(
            "{:name$}  {:family$}  {count:>12} {share:>9} {state:>10}  {merge:5}  {:14}  {}",
            row.name,
            row.family,
            row.quantised_base,
            row.paper
        )?;
        match &row.error {
            Some(error) if row.needs.is_some() => outln!("{:name$}  {error}", "")?,
            Some(error) => outln!("{:name$}  not on this model: {error}", "")?,
            None => {}
        }
    }
    outln!("\nwords for a method with fields:")?;
    for row in rows {
        for word in &row.words {
            let fields: Vec<String> = word
                .fields
                .as_object()
                .into_iter()
                .flatten()
                .map(|(field, value)| format!("{field}={value}"))
                .collect();
            let with = if fields.is_empty() { String::new() } else { format!(" with {}", fields.join(", ")) };
            outln!("{:name$}  {}{with} ({})", word.name, row.name, word.paper)?;
        }
    }
    Ok(())
}
