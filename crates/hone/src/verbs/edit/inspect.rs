//! `hone edit inspect`: what is in an adapter, and where its change sits.

use std::path::PathBuf;

use hone_edit::files::read_edit;
use hone_edit::inspect::{self, Change, TensorSummary};
use hone_edit::{Base, Edit};
use serde::Serialize;

use super::{base_model, grouped};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};

/// Cells of the longest bar.
const BAR: usize = 40;
/// Weights shown with the largest changes.
const SHOWN: usize = 12;

/// Arguments of `hone edit inspect`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone edit inspect runs/first/adapter
  hone edit inspect runs/first/adapter --model models/smollm2 --json | jq '.changes[0]'")]
pub struct Inspect {
    /// An adapter directory, or a run's.
    dir: PathBuf,
    /// The base model, where it is not at the place that the adapter names.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Show every weight and tensor, not only the largest.
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Output {
    method: &'static str,
    peft_type: &'static str,
    base: String,
    parameters: usize,
    tensors: Vec<TensorSummary>,
    changes: Vec<Change>,
    /// Elements that are not as they were, of those of the weights in `changes`.
    changed_elements: usize,
    elements: usize,
    /// Their quotient.
    changed_share: f64,
    /// `[layer, ‖ΔW‖]`.
    norms_by_layer: Vec<(usize, f64)>,
    /// Why there are no changes of weights, where there are none.
    not_mergeable: Option<String>,
}

impl Inspect {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let model = base_model(&self.dir, self.model.as_deref(), common)?;
        let base = Base::of(&model);
        let edit = read_edit(&self.dir, &base)?;
        if !common.quiet {
            edit.warnings.iter().for_each(|warning| remark!("note: {warning}"));
        }
        let (changes, not_mergeable) = match inspect::changes(&edit, &base) {
            Ok(changes) => (changes, None),
            Err(error @ hone_edit::EditError::CannotMerge { .. }) => (Vec::new(), Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let info = edit.method.info();
        let (changed_elements, elements) = inspect::changed_elements(&changes);
        let output = Output {
            method: info.name,
            peft_type: info.peft_type,
            base: edit.base_reference.clone(),
            parameters: edit.parameter_count(),
            tensors: inspect::tensors(&edit),
            changed_elements,
            elements,
            changed_share: changed_elements as f64 / elements.max(1) as f64,
            norms_by_layer: inspect::norms_by_layer(&changes),
            changes,
            not_mergeable,
        };
        if common.json {
            outln!("{}", serde_json::to_string(&output)?)?;
            return Ok(0);
        }
        self.print(&output, &edit)?;
        Ok(0)
    }

    fn print(&self, output: &Output, edit: &Edit) -> Result<(), Failure> {
        let (count, tensors) = (grouped(output.parameters), output.tensors.len());
        outln!(
            "{}: `{}` of {}: {count} parameters in {tensors} tensors",
            self.dir.display(),
            output.method,
            output.base
        )?;
        let fields = edit.method.fields();
        let field = |(name, value): (&String, &serde_json::Value)| {
            let off = value.is_null() || value == &serde_json::json!({}) || value == &serde_json::json!(false);
            (!off).then(|| format!("{name}: {value}"))
        };
        outln!("  {}", fields.iter().filter_map(field).collect::<Vec<_>>().join(", "))?;
        if let Some(reason) = &output.not_mergeable {
            outln!("\nNo changes of weights to measure: {reason}")?;
            return self.print_tensors(&output.tensors);
        }
        outln!(
            "  changes {} of the {} elements of {} weights ({:.3} %)",
            grouped(output.changed_elements),
            grouped(output.elements),
            output.changes.len(),
            100.0 * output.changed_share
        )?;
        bars(
            "\n‖ΔW‖ by layer",
            output.norms_by_layer.iter().map(|(layer, norm)| (layer.to_string(), *norm)).collect(),
        )?;
        let mut largest: Vec<&Change> = output.changes.iter().collect();
        largest.sort_by(|a, b| b.norm.total_cmp(&a.norm));
        let shown = if self.all { largest.len() } else { SHOWN.min(largest.len()) };
        outln!("\nThe largest changes ({shown} of {} weights)", largest.len())?;
        let width = largest[..shown].iter().map(|c| c.weight.len()).max().unwrap_or(0).max(6);
        outln!("{:width$}  {:>9} {:>9} {:>14} {:>6}", "weight", "‖ΔW‖", "of ‖W‖", "effective rank", "rank")?;
        for change in &largest[..shown] {
            let effective = change.effective_rank.map_or("-".into(), |r| format!("{r:.1}"));
            let rank = change.rank.map_or("-".into(), |r| r.to_string());
            let relative = format!("{:.2} %", 100.0 * change.relative);
            outln!("{:width$}  {:>9.4} {relative:>9} {effective:>14} {rank:>6}", change.weight, change.norm)?;
        }
        if self.all { self.print_tensors(&output.tensors) } else { Ok(()) }
    }

    fn print_tensors(&self, tensors: &[TensorSummary]) -> Result<(), Failure> {
        let width = tensors.iter().map(|t| t.key.len()).max().unwrap_or(0).max(6);
        outln!("\n{:width$}  {:>14} {:>9} {:>9}", "tensor", "shape", "norm", "largest")?;
        for tensor in tensors {
            let shape = format!("{:?}", tensor.shape);
            outln!("{:width$}  {shape:>14} {:>9.4} {:>9.4}", tensor.key, tensor.norm, tensor.largest)?;
        }
        Ok(())
    }
}

/// A bar for each value, the largest [`BAR`] cells long.
fn bars(title: &str, rows: Vec<(String, f64)>) -> Result<(), Failure> {
    let largest = rows.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if rows.is_empty() {
        return Ok(());
    }
    outln!("{title}")?;
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        outln!("{name:>width$}  {:BAR$}  {value:.4}", bar(value, largest))?;
    }
    Ok(())
}

/// Full cells and an eighth-wise last one.
fn bar(value: f64, largest: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if !(value > 0.0 && largest > 0.0) {
        return String::new();
    }
    let eighths = (value / largest * (8 * BAR) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::{BAR, bar};

    #[test]
    fn bars_are_as_long_as_their_values() {
        assert_eq!(bar(1.0, 1.0), "█".repeat(BAR));
        assert_eq!(bar(0.5, 1.0).chars().count(), BAR / 2);
        assert_eq!(bar(1.0, 320.0), "▏");
        assert_eq!((bar(0.0, 1.0), bar(0.0, 0.0), bar(f64::NAN, 1.0)), Default::default());
    }
}
