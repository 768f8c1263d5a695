//! `hone export`: a model, edits merged in, as a Hugging Face directory or a GGUF file.

use std::path::PathBuf;
use std::sync::Arc;

use hone_edit::Base;
use hone_edit::merge::Merger;
use hone_engine::DType;
use hone_model::{GgufType, Model};
use serde::Serialize;

use super::load::{ModelArguments, load_model_as};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;

/// Arguments of `hone export`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  hone export smollm2-135m-instruct --edit runs/first/adapter --store bf16 --out merged"
)]
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
    /// A GGUF file with weights in f16.
    #[value(name = "gguf-f16")]
    GgufF16,
    /// A GGUF file with matrices in Q8_0 blocks.
    #[value(name = "gguf-q8_0")]
    GgufQ8_0,
}

#[derive(Serialize)]
struct Output {
    path: PathBuf,
    merged_tensors: usize,
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
        let mut merged_tensors = 0;
        let model = match self.model.stack(&model, common)? {
            None => model,
            Some(stack) => {
                let base = Base::of(&model);
                let merger = Merger::new(&stack, &base)?;
                merged_tensors = merger.names().count();
                let decoder = Arc::new(merger.decoder(&model.decoder, self.model.with.dtype)?);
                let model = Arc::try_unwrap(model).map_err(|_| Failure::ours("the model is still in use"))?;
                Arc::new(Model { decoder, ..model })
            }
        };
        match self.format {
            Format::Hf => model.save_hf(&self.out, self.store)?,
            Format::GgufF16 => model.save_gguf(&self.out, GgufType::F16)?,
            Format::GgufQ8_0 => model.save_gguf(&self.out, GgufType::Q8_0)?,
        }
        if common.json {
            outln!("{}", serde_json::to_string(&Output { path: self.out, merged_tensors })?)?;
        } else {
            outln!("{} ({merged_tensors} tensors changed by edits)", self.out.display())?;
        }
        Ok(0)
    }
}
