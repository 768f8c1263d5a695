//! `hone edit collapse`: what a routed adapter is for one task, as a plain LoRA adapter.

use std::path::PathBuf;

use hone_edit::collapse::collapsed;
use hone_edit::files::{read_edit, save_edit};
use hone_edit::{Base, EditStack};
use hone_engine::DType;
use serde::Serialize;

use super::super::verify::{self, Limit, Verified};
use super::base_model;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};

/// Arguments of `hone edit collapse`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone edit collapse runs/many-tasks/adapter --task 3 --out third
  hone merge smollm2-135m --edit third --how stack --out merged    # which a routed adapter cannot be

Of Poly, MHR and AdaMix: mixtures of low-rank pairs that are the same for every token of a task.")]
pub struct Collapse {
    /// The adapter's directory.
    dir: PathBuf,
    /// The task, by its number in training.
    #[arg(long, value_name = "N", default_value_t = 0)]
    task: u32,
    /// The directory to write; it must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The base model, where it is not at the place that the adapter names.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    path: PathBuf,
    method: &'static str,
    task: u32,
    rank: Option<u64>,
    /// The LoRA adapter, read again, beside the routed one for this task.
    written: Verified,
}

impl Collapse {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.out.exists() {
            let hint = "choose another `--out`, or remove it first";
            return Err(Failure::user(format!("{} is there already", self.out.display()), hint));
        }
        let model = base_model(&self.dir, self.model.as_deref(), common)?;
        let base = Base::of(&model);
        let routed = read_edit(&self.dir, &base)?;
        if !common.quiet {
            routed.warnings.iter().for_each(|warning| remark!("note: {warning}"));
        }
        let method = routed.method.info().name;
        save_edit(&collapsed(&routed, self.task, &base)?, &self.out)?;
        let read = read_edit(&self.out, &base)?;
        let rank = read.config.get("r").and_then(serde_json::Value::as_u64);
        let mut routed = EditStack::of(routed);
        routed.choose_group(self.task)?;
        let hooks = (routed.hooks(DType::F32), EditStack::of(read).hooks(DType::F32));
        let difference = verify::compare(&model, &(&model.decoder, hooks.0), &(&model.decoder, hooks.1))?;
        let written = verify::within(difference, Limit::SAME, &self.out)?;
        if common.json {
            let output = Output { path: self.out, method, task: self.task, rank, written };
            outln!("{}", serde_json::to_string(&output)?)?;
            return Ok(0);
        }
        let rank = rank.map_or(String::new(), |rank| format!(" of rank {rank}"));
        outln!("{}: LoRA{rank}, what `{method}` is for task {}", self.out.display(), self.task)?;
        outln!("  beside it: {written}")?;
        Ok(0)
    }
}
