//! `hone export`: a model, edits merged in, as a Hugging Face directory or a GGUF file; or an adapter alone as a GGUF
//! file. What was written is read again and its logits compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_edit::algebra::pairs::lora_of;
use hone_edit::merge::{LogitDifference, Merger};
use hone_edit::method::{Mergeable, Place};
use hone_edit::{Base, Edit, EditStack};
use hone_engine::{DType, Tensor};
use hone_model::gguf::adapter::{AdapterPair, read_adapter, save_adapter};
use hone_model::{GgufType, Hooks, Model, NoHooks};
use serde::Serialize;

use super::load::{ModelArguments, load_model_as};
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
        let stack = self.model.stack(&model, common)?;
        let Exported { merged_tensors, written, taken_out } = match self.format {
            Format::Hf => self.whole(model, stack, Limit::rounded(self.store), |m, to| m.save_hf(to, self.store))?,
            Format::GgufF16 => self.gguf(model, stack, GgufType::F16)?,
            Format::GgufQ8_0 => self.gguf(model, stack, GgufType::Q8_0)?,
            Format::GgufQ4_0 => self.gguf(model, stack, GgufType::Q4_0)?,
            Format::GgufQ4K => self.gguf(model, stack, GgufType::Q4K)?,
            Format::GgufLora => {
                let written = adapter(&model, stack, &self.out)?;
                Exported { merged_tensors: 0, written, taken_out: None }
            }
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

    fn gguf(&self, model: Arc<Model>, stack: Option<EditStack>, kind: GgufType) -> Result<Exported, Failure> {
        self.whole(model, stack, rounded(kind), |model, to| model.save_gguf(to, kind))
    }

    /// Merges, saves, reads again, compares.
    fn whole(
        &self,
        model: Arc<Model>,
        stack: Option<EditStack>,
        limit: Limit,
        save: impl FnOnce(&Model, &Path) -> Result<(), hone_model::ModelError>,
    ) -> Result<Exported, Failure> {
        let (mut merged_tensors, mut taken_out) = (0, None);
        let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
        let model = match &stack {
            None => model,
            Some(stack) => {
                let base = Base::of(&model);
                let merger = Merger::new(stack, &base)?;
                merged_tensors = merger.names().count();
                let dtype = self.model.with.dtype;
                let decoder = Arc::new(merger.decoder(&model.decoder, dtype)?);
                let again = Arc::new(merger.taken_out(&decoder, dtype)?);
                taken_out = Some(verify::compare(&model, &(&model.decoder, plain.clone()), &(&again, plain.clone()))?);
                drop(again);
                let model = Arc::try_unwrap(model).map_err(|_| Failure::ours("the model is still in use"))?;
                Arc::new(Model { decoder, ..model })
            }
        };
        save(&model, &self.out)?;
        let written = verify::written_model(&model, &(&model.decoder, plain), &self.out, limit)?;
        Ok(Exported { merged_tensors, written, taken_out })
    }
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
