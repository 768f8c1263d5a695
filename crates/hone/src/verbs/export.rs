//! `hone export`: a model, edits merged in (or taken out again), as a Hugging Face directory or a GGUF file; or an adapter alone as
//! a GGUF file. What was written is read again and its logits compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_edit::algebra::pairs::lora_of;
use hone_edit::merge::{LogitDifference, Merger};
use hone_edit::method::{Mergeable, Place};
use hone_edit::{Base, Edit, EditStack};
use hone_engine::{DType, Tensor};
use hone_model::gguf::adapter::{AdapterPair, read_adapter, save_adapter};
use hone_model::{Decoder, GgufType, Hooks, Model, NoHooks};
use serde::Serialize;

use super::load::{ModelArguments, load_model_as};
use super::take_out::{Proof, TakenOut, taken_out};
use super::verify::{self, Limit, Verified};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;

/// Arguments of `hone export`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone export smollm2-135m-instruct --edit runs/first/adapter --store bf16 --out merged
  hone export smollm2-135m-instruct --edit runs/first/adapter --format gguf-q4_k --out merged.gguf
  hone export smollm2-135m-instruct --edit runs/first/adapter --format gguf-lora --out adapter.gguf
  hone export merged --edit runs/first/adapter --take-out --out before

What was written is read again and compared; beyond a limit that goes with the type it is removed and refused.")]
pub struct Export {
    #[command(flatten)]
    model: ModelArguments,
    /// What to write.
    #[arg(long, value_enum, default_value = "hf")]
    format: Format,
    /// Type the weights of a Hugging Face directory are stored in.
    #[arg(long, default_value = "bf16", value_name = "f32|bf16")]
    store: DType,
    /// Take the edits out of MODEL, which they were merged into in this order (with a weight: `--edit DIR=WEIGHT`), and write the
    /// model before.
    #[arg(long, requires = "edit", conflicts_with_all = ["quantize", "task_group"])]
    take_out: bool,
    /// With `--take-out`, the model before. Edits that are made of its weights (DoRA, masks, full tuning) do not come out without
    /// it; of any it says how near the result is.
    #[arg(long, value_name = "MODEL", requires = "take_out")]
    base: Option<String>,
    /// The directory or file to write; it must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Kinds of files.
#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Format {
    /// A Hugging Face directory.
    Hf,
    /// A GGUF file with matrices in f16.
    #[value(name = "gguf-f16")]
    GgufF16,
    /// A GGUF file with matrices in Q8_0 blocks.
    #[value(name = "gguf-q8_0")]
    GgufQ8_0,
    /// A GGUF file with matrices in Q4_0 blocks.
    #[value(name = "gguf-q4_0")]
    GgufQ4_0,
    /// A GGUF file with matrices in Q4_K blocks.
    #[value(name = "gguf-q4_k")]
    GgufQ4K,
    /// The one edit alone, a LoRA, as llama.cpp reads it beside a base model.
    #[value(name = "gguf-lora")]
    GgufLora,
}

impl Format {
    /// How matrices are stored in a GGUF file of the model.
    fn gguf(self) -> Option<GgufType> {
        match self {
            Format::Hf | Format::GgufLora => None,
            Format::GgufF16 => Some(GgufType::F16),
            Format::GgufQ8_0 => Some(GgufType::Q8_0),
            Format::GgufQ4_0 => Some(GgufType::Q4_0),
            Format::GgufQ4K => Some(GgufType::Q4K),
        }
    }
}

/// What `--json` prints of `--take-out`.
#[derive(Serialize)]
struct WithoutEdits {
    path: PathBuf,
    /// Tensors that the edits had changed.
    tensors: usize,
    written: Verified,
    #[serde(flatten)]
    proof: Proof,
}

#[derive(Serialize)]
struct Output {
    path: PathBuf,
    merged_tensors: usize,
    written: Verified,
    /// The merged model with the edits taken out again, beside the model before; absent where nothing was merged.
    taken_out: Option<LogitDifference>,
}

/// What was exported, and what is known of it.
struct Exported {
    merged_tensors: usize,
    written: Verified,
    taken_out: Option<LogitDifference>,
}

impl Export {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.out.exists() {
            let hint = "choose another `--out`, or remove it first";
            return Err(Failure::user(format!("{} is there already", self.out.display()), hint));
        }
        let with = &self.model.with;
        let model = load_model_as(&self.model.model, with.dtype, with.quantize, common)?;
        if self.take_out {
            return self.without_edits(model, common);
        }
        let stack = self.model.stack(&model, common)?;
        let Exported { merged_tensors, written, taken_out } = match self.format {
            Format::GgufLora => {
                let written = adapter(&model, stack, &self.out)?;
                Exported { merged_tensors: 0, written, taken_out: None }
            }
            _ => self.whole(model, stack)?,
        };
        if common.json {
            outln!("{}", serde_json::to_string(&Output { path: self.out, merged_tensors, written, taken_out })?)?;
        } else {
            outln!("{} ({merged_tensors} tensors changed by edits)", self.out.display())?;
            outln!("  read again:      {written}")?;
            if let Some(difference) = &taken_out {
                outln!("  taken out again: {} from the model before", verify::shown(difference))?;
            }
        }
        Ok(0)
    }

    /// Merges, saves, reads again, compares.
    fn whole(&self, model: Arc<Model>, stack: Option<EditStack>) -> Result<Exported, Failure> {
        let (mut merged_tensors, mut taken_out) = (0, None);
        let model = match &stack {
            None => model,
            Some(stack) => {
                let base = Base::of(&model);
                let merger = Merger::new(stack, &base)?;
                merged_tensors = merger.names().count();
                let dtype = self.model.with.dtype;
                let decoder = Arc::new(merger.decoder(&model.decoder, dtype)?);
                let again = Arc::new(merger.taken_out(&decoder, dtype)?);
                let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
                let (beside, merged) = (stack.hooks(DType::F32), (&decoder, plain.clone()));
                verify::as_beside(verify::compare(&model, &(&model.decoder, beside), &merged)?, Limit::rounded(dtype))?;
                taken_out = Some(verify::compare(&model, &(&model.decoder, plain.clone()), &(&again, plain))?);
                drop(again);
                with_decoder(model, decoder)?
            }
        };
        let written = self.write(&model)?;
        Ok(Exported { merged_tensors, written, taken_out })
    }

    /// Takes the edits out, saves, reads again, compares.
    fn without_edits(self, merged: Arc<Model>, common: &Common) -> Result<u8, Failure> {
        if matches!(self.format, Format::GgufLora) {
            let cause = "`--format gguf-lora` writes an adapter, and `--take-out` leaves a model";
            return Err(Failure::user(cause, "choose another format: `hf`, `gguf-f16`"));
        }
        let with = &self.model.with;
        let TakenOut { decoder, tensors, proof } = taken_out(&merged, with, self.base.as_deref(), common)?;
        let model = with_decoder(merged, decoder)?;
        let written = self.write(&model)?;
        if common.json {
            outln!("{}", serde_json::to_string(&WithoutEdits { path: self.out, tensors, written, proof })?)?;
            return Ok(0);
        }
        outln!("{} ({tensors} tensors without the edits)", self.out.display())?;
        outln!("  read again:    {written}")?;
        outln!("  {proof}")?;
        Ok(0)
    }

    /// Saves the model and compares what is read again.
    fn write(&self, model: &Model) -> Result<Verified, Failure> {
        let limit = match self.format.gguf() {
            None => {
                model.save_hf(&self.out, self.store)?;
                Limit::rounded(self.store)
            }
            Some(kind) => {
                model.save_gguf(&self.out, kind)?;
                rounded(kind)
            }
        };
        let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
        verify::written_model(model, &(&model.decoder, plain), &self.out, limit)
    }
}

/// The same model with other weights.
fn with_decoder(model: Arc<Model>, decoder: Arc<Decoder>) -> Result<Arc<Model>, Failure> {
    let model = Arc::try_unwrap(model).map_err(|_| Failure::ours("the model is still in use"))?;
    Ok(Arc::new(Model { decoder, ..model }))
}

/// What rounding explains: measured on the models of `docs/measurements.md`, with a factor of two or more to spare.
fn rounded(kind: GgufType) -> Limit {
    let mean = match kind {
        GgufType::F16 => 2e-3,
        GgufType::Q8_0 => 1e-2,
        GgufType::Q4_0 | GgufType::Q4K => 0.15,
    };
    Limit { max: f64::INFINITY, mean }
}

/// The one edit of the stack as an adapter file.
fn adapter(model: &Arc<Model>, stack: Option<EditStack>, out: &Path) -> Result<Verified, Failure> {
    let entries = stack.map(|s| s.entries).unwrap_or_default();
    let [entry] = &entries[..] else {
        let cause = format!("`--format gguf-lora` writes one edit, and {} are named", entries.len());
        return Err(Failure::user(cause, "name one `--edit`; `hone merge` makes one edit of several"));
    };
    let pairs = pairs(&entry.edit)?;
    save_adapter(&model.decoder, &pairs, out)?;
    // The file again, as an edit of its own.
    let scaled = |pair: AdapterPair| {
        let mut a = pair.a;
        a.as_mut_slice::<f32>().iter_mut().for_each(|v| *v *= pair.scale);
        (pair.module, (a, pair.b))
    };
    let read = read_adapter(&model.decoder, out)?.into_iter().map(scaled).collect();
    let read = lora_of(&Base::of(model), read, None)?;
    let hooks = |edit: Edit| EditStack::of(edit).hooks(DType::F32);
    let (first, second) = (hooks(entry.edit.clone()), hooks(read));
    let difference = verify::compare(model, &(&model.decoder, first), &(&model.decoder, second))?;
    verify::within(difference, Limit::SAME, out)
}

/// The pairs of a LoRA; whatever else an edit holds has no place in an adapter file.
fn pairs(edit: &Edit) -> Result<Vec<AdapterPair>, Failure> {
    let pair = |placed: &hone_edit::method::Placed| {
        let values: Vec<Tensor> = placed.params.iter().map(|&p| edit.params[p].value.clone()).collect();
        match (&placed.place, placed.part.low_rank(&values, None)) {
            (Place::Linear(module), Some(pair)) => {
                Ok(AdapterPair { module: module.clone(), a: pair.a, b: pair.b, scale: pair.scale })
            }
            (place, _) => {
                let method = edit.method.info().name;
                let cause =
                    format!("`{method}` at `{place}` is no low-rank pair, and an adapter GGUF holds nothing else");
                Err(match edit.method.mergeable() {
                    Mergeable::Yes => Failure::user(cause, "export the merged model: `--format gguf-f16`"),
                    Mergeable::No(why) => Failure::user(cause, why),
                })
            }
        }
    };
    edit.placed.iter().map(pair).collect()
}
