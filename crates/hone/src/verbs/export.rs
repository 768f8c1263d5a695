//! `hone export`: a model, edits merged in, as a Hugging Face directory.

use std::path::PathBuf;
use std::sync::Arc;

use hone_edit::Base;
use hone_edit::merge::Merger;
use hone_engine::DType;
use hone_model::Model;
use serde::Serialize;

use super::load::{ModelArguments, load_model};
use crate::args::Common;
use crate::fail::Failure;

/// Arguments of `hone export`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  hone export smollm2-135m-instruct --edit runs/first/adapter --store bf16 --out merged"
)]
pub struct Export {
    #[command(flatten)]
    model: ModelArguments,
    /// Type the weights are stored in.
    #[arg(long, default_value = "bf16", value_name = "f32|bf16")]
    store: DType,
    /// The directory to write; it must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
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
        let model = load_model(&self.model.model, self.model.dtype, common)?;
        let mut merged_tensors = 0;
        let model = match self.model.stack(&model, common)? {
            None => model,
            Some(stack) => {
                let base = Base::of(&model);
                let merger = Merger::new(&stack, &base)?;
                merged_tensors = merger.names().count();
                let decoder = Arc::new(merger.decoder(&model.decoder, self.model.dtype)?);
                let model = Arc::try_unwrap(model).map_err(|_| Failure::ours("the model is still in use"))?;
                Arc::new(Model { decoder, ..model })
            }
        };
        model.save_hf(&self.out, self.store)?;
        if common.json {
            println!("{}", serde_json::to_string(&Output { path: self.out, merged_tensors })?);
        } else {
            println!("{} ({merged_tensors} tensors changed by edits)", self.out.display());
        }
        Ok(0)
    }
}
