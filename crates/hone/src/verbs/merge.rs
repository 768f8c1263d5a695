//! `hone merge`: several edits made one, or merged into the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_edit::algebra::{self, Combined, How, MajoritySign, Operand, Options};
use hone_edit::files::{read_edit, save_edit};
use hone_edit::merge::LogitDifference;
use hone_edit::{Base, Edit, EditError, EditStack};
use hone_engine::DType;
use hone_model::{Hooks, Model, NoHooks};
use serde::Serialize;

use super::load::load_model;
use super::verify::{self, Limit, Verified};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};

/// Arguments of `hone merge`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone merge smollm2-135m --edit runs/a/adapter --edit runs/b/adapter --out both
  hone merge smollm2-135m --edit runs/a/adapter=0.7 --edit runs/b/adapter=-0.3 --how svd --rank 16 --out both
  hone merge smollm2-135m --edit a --edit b --edit c --how ties_svd --density 0.2 --out agreed
  hone merge smollm2-135m --edit a --edit b=-1 --how task_arithmetic --out without-b

`hone merge --list-ways` says what each way does. `docs/edits.md` says which to choose.")]
pub struct Merge {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    #[arg(required_unless_present = "list_ways")]
    model: Option<String>,
    /// An adapter directory, and how much it counts (1, if not said; negative takes it away). Give it once for each
    /// edit.
    #[arg(long, value_name = "DIR[=WEIGHT]", required_unless_present = "list_ways")]
    edit: Vec<String>,
    /// Weights of the edits in their order, instead of `=WEIGHT`.
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f32>,
    /// The way.
    #[arg(long, default_value = "cat", value_name = "NAME")]
    how: String,
    /// Share of numbers kept by ways that prune: above 0, at most 1.
    #[arg(long, value_name = "SHARE")]
    density: Option<f64>,
    /// How `ties` elects a sign.
    #[arg(long, value_enum, default_value = "total")]
    majority_sign: Majority,
    /// Rank of the result of the `svd` ways (default: the largest of the edits').
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Seed of the random drops of the `dare` ways.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Type the weights of a merged model are stored in.
    #[arg(long, default_value = "bf16", value_name = "f32|bf16")]
    store: DType,
    /// The directory to write; it must not exist.
    #[arg(long, value_name = "DIR", required_unless_present = "list_ways")]
    out: Option<PathBuf>,
    /// List the ways and end.
    #[arg(long)]
    list_ways: bool,
}

/// How a sign is elected.
#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Majority {
    /// The sign of the sum.
    Total,
    /// The sign most edits have.
    Frequency,
}

#[derive(Serialize)]
struct Output {
    path: PathBuf,
    how: &'static str,
    /// `adapter` or `model`.
    kind: &'static str,
    rank: Option<u64>,
    changed_tensors: usize,
    /// What was written, read again, beside what was computed.
    written: Verified,
    /// Beside the edits applied one after another at their weights; absent where they cannot be stacked.
    from_weighted_sum: Option<LogitDifference>,
}

#[derive(Serialize)]
struct Way {
    name: &'static str,
    summary: &'static str,
    prunes: bool,
    paper: &'static str,
}

impl Merge {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.list_ways {
            return list(common);
        }
        let (Some(reference), Some(out)) = (&self.model, &self.out) else {
            return Err(Failure::ours("the command line was read without MODEL and --out"));
        };
        if out.exists() {
            let hint = "choose another `--out`, or remove it first";
            return Err(Failure::user(format!("{} is there already", out.display()), hint));
        }
        // Everything that can be wrong with the words is said before a model is loaded.
        let how = How::named(&self.how)?;
        let named = named_weights(&self.edit, &self.weights)?;
        let model = load_model(reference, DType::F32, common)?;
        let base = Base::of(&model);
        let operands = named.into_iter().map(|(dir, weight)| operand(dir, weight, &base, common));
        let operands = operands.collect::<Result<Vec<_>, Failure>>()?;
        let majority_sign = match self.majority_sign {
            Majority::Total => MajoritySign::Total,
            Majority::Frequency => MajoritySign::Frequency,
        };
        let options = Options { density: self.density, majority_sign, rank: self.rank, seed: self.seed };
        let combined = algebra::combine(how, &operands, &base, &options)?;
        let output = match combined {
            Combined::Edit(edit) => adapter(how, *edit, &operands, &model, &base, out)?,
            Combined::Weights(weights) => {
                let decoder = Arc::new(model.decoder.replaced(|name, _| weights.get(name).cloned()));
                let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
                let from_weighted_sum = from_weighted_sum(&operands, &model, &(&decoder, plain.clone()))?;
                if let Some(difference) = from_weighted_sum.filter(|_| how.name == "stack") {
                    verify::as_beside(difference, Limit::SAME)?;
                }
                let merged = Model { decoder: decoder.clone(), ..unshared(model)? };
                merged.save_hf(out, self.store)?;
                let written = verify::written_model(&merged, &(&decoder, plain), out, Limit::rounded(self.store))?;
                let (kind, changed_tensors) = ("model", weights.len());
                Output {
                    path: out.clone(),
                    how: how.name,
                    kind,
                    rank: None,
                    changed_tensors,
                    written,
                    from_weighted_sum,
                }
            }
        };
        print(&output, operands.len(), common)
    }
}

/// Saves an adapter, reads it again, and compares.
fn adapter(
    how: &How,
    edit: Edit,
    operands: &[Operand],
    model: &Arc<Model>,
    base: &Base,
    out: &Path,
) -> Result<Output, Failure> {
    save_edit(&edit, out)?;
    let rank = edit.config.get("r").and_then(serde_json::Value::as_u64);
    let changed_tensors = edit.placed.len();
    let made = EditStack::of(edit).hooks(DType::F32);
    let read = EditStack::of(read_edit(out, base)?).hooks(DType::F32);
    let difference = verify::compare(model, &(&model.decoder, made.clone()), &(&model.decoder, read))?;
    let written = verify::within(difference, Limit::SAME, out)?;
    let from_weighted_sum = from_weighted_sum(operands, model, &(&model.decoder, made))?;
    let path = out.to_path_buf();
    Ok(Output { path, how: how.name, kind: "adapter", rank, changed_tensors, written, from_weighted_sum })
}

/// How far the result is from the edits stacked, where they can be.
fn from_weighted_sum(
    operands: &[Operand],
    model: &Model,
    result: &hone_edit::merge::Hooked,
) -> Result<Option<LogitDifference>, Failure> {
    match algebra::stack(operands) {
        Ok(stack) => Ok(Some(verify::compare(model, &(&model.decoder, stack.hooks(DType::F32)), result)?)),
        Err(EditError::CannotStack { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn unshared(model: Arc<Model>) -> Result<Model, Failure> {
    Arc::try_unwrap(model).map_err(|_| Failure::ours("the model is still in use"))
}

fn operand(dir: PathBuf, weight: f32, base: &Base, common: &Common) -> Result<Operand, Failure> {
    let edit = read_edit(&dir, base)?;
    if !common.quiet {
        edit.warnings.iter().for_each(|warning| remark!("note: {}: {warning}", dir.display()));
    }
    Ok(Operand { name: dir.display().to_string(), edit, weight })
}

/// Directories and weights, from `DIR=WEIGHT` or from `DIR` and `--weights`.
fn named_weights(edits: &[String], weights: &[f32]) -> Result<Vec<(PathBuf, f32)>, Failure> {
    let split = edits.iter().map(|text| split_weight(text)).collect::<Result<Vec<_>, _>>()?;
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
        let cause = format!("`--weights`: found `{weight}`, expected finite numbers");
        return Err(Failure::user(cause, "give one number, such as 0.5 or -1, for each `--edit`"));
    }
    if weights.is_empty() {
        return Ok(split.into_iter().map(|(dir, weight)| (dir.into(), weight.unwrap_or(1.0))).collect());
    }
    if let Some((dir, Some(weight))) = split.iter().find(|(_, weight)| weight.is_some()) {
        let cause = format!("`{dir}` has a weight of its own ({weight}), and `--weights` gives weights too");
        return Err(Failure::user(cause, "say the weights one way: `--edit DIR=WEIGHT` or `--weights`"));
    }
    if weights.len() != split.len() {
        let cause = format!("`--weights` names {} weights for {} edits", weights.len(), split.len());
        return Err(Failure::user(cause, "give one weight for each `--edit`, in their order"));
    }
    Ok(split.into_iter().zip(weights).map(|((dir, _), weight)| (dir.into(), *weight)).collect())
}

/// `DIR=0.5` as `DIR` and 0.5; a path that is there, or has no number behind its `=`, is a path.
///
/// # Errors
/// A number behind it that is infinite or none (`nan`).
pub(super) fn split_weight(text: &str) -> Result<(&str, Option<f32>), Failure> {
    let weighted = text.rsplit_once('=').filter(|(dir, _)| !dir.is_empty() && !Path::new(text).exists());
    match weighted.and_then(|(dir, weight)| Some((dir, weight, weight.parse::<f32>().ok()?))) {
        Some((dir, _, weight)) if weight.is_finite() => Ok((dir, Some(weight))),
        Some((_, found, _)) => Err(no_weight(&format!("`--edit {text}`"), found)),
        None => Ok((text, None)),
    }
}

/// What is said of a weight that nothing can be multiplied by.
fn no_weight(place: &str, found: &str) -> Failure {
    let cause = format!("{place}: found the weight `{found}`, expected a finite number");
    Failure::user(cause, "write a number such as 0.5 or -1 behind the `=`, or leave it out for 1")
}

fn print(output: &Output, edits: usize, common: &Common) -> Result<u8, Failure> {
    if common.json {
        outln!("{}", serde_json::to_string(output)?)?;
        return Ok(0);
    }
    let rank = output.rank.map_or(String::new(), |r| format!(" of rank {r}"));
    let (path, kind, how, tensors) = (output.path.display(), output.kind, output.how, output.changed_tensors);
    let what = if edits == 1 { "1 edit".to_string() } else { format!("{edits} edits") };
    outln!("{path}: {kind}{rank} from {what} by `{how}`, {tensors} weights changed")?;
    outln!("  read again:            {}", output.written)?;
    match &output.from_weighted_sum {
        Some(difference) => outln!("  from the weighted sum: {}", verify::shown(difference))?,
        None => outln!("  from the weighted sum: not comparable, these edits cannot be stacked")?,
    }
    Ok(0)
}

fn list(common: &Common) -> Result<u8, Failure> {
    let way = |how: &How| Way { name: how.name, summary: how.summary, prunes: how.prunes(), paper: how.paper };
    let ways: Vec<Way> = algebra::HOW.iter().map(way).collect();
    if common.json {
        outln!("{}", serde_json::to_string(&ways)?)?;
        return Ok(0);
    }
    for way in &ways {
        let density = if way.prunes { "; needs --density" } else { "" };
        outln!("{:20} {}{density} ({})", way.name, way.summary, way.paper)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stand_behind_the_last_equals_sign() {
        let split = |text| split_weight(text).unwrap();
        assert_eq!(split("runs/a=0.5"), ("runs/a", Some(0.5)));
        assert_eq!(split("runs/lr=1e-4/adapter"), ("runs/lr=1e-4/adapter", None));
        assert_eq!(split("runs/lr=3=-2"), ("runs/lr=3", Some(-2.0)));
        assert_eq!(split("plain"), ("plain", None));
        assert_eq!(split("=3"), ("=3", None));
    }

    #[test]
    fn a_directory_that_is_there_wins_and_weights_are_finite() {
        let directory = tempfile::tempdir().unwrap();
        let [odd, none] = ["lr=3", "lr=nan"].map(|name| directory.path().join(name).display().to_string());
        assert_eq!(split_weight(&odd).unwrap().1, Some(3.0));
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(split_weight(&odd).unwrap(), (&*odd, None));
        for text in [none.as_str(), "a=inf", "a=-inf", "a=1e40"] {
            let failure = split_weight(text).unwrap_err();
            let cause = &failure.causes[0];
            assert!(cause.contains(text) && cause.ends_with("expected a finite number"), "{cause}");
        }
        std::fs::create_dir(&none).unwrap();
        assert_eq!(split_weight(&none).unwrap(), (&*none, None));
        let failure = named_weights(&["a".into(), "b".into()], &[1.0, f32::NAN]).unwrap_err();
        assert!(failure.causes[0].starts_with("`--weights`: found `NaN`"), "{:?}", failure.causes);
    }
}
