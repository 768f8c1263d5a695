//! `hone demo`: the whole job on a small model and data that ship with hone.

use std::path::{Path, PathBuf};

use hone_train::recipe;
use hone_train::session::Start;

use super::{compare, pull, tune};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::remark;

/// The model the demo is about, and the one that is always at hand.
const MODEL: &str = "smollm2-135m-instruct";
const FALLBACK: &str = "stories260k";

/// The recipe and its training data.
const RECIPE: &str = include_str!("../../../../assets/demo/recipe.yaml");
const TRAIN: &str = include_str!("../../../../assets/demo/train.jsonl");

/// Arguments of `hone demo`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  hone demo --out demo && xdg-open demo/report.html")]
pub struct Demo {
    /// Where the run goes.
    #[arg(long, default_value = "demo", value_name = "DIR")]
    out: PathBuf,
    /// Continue a demo that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Override a key of the demo's recipe: `--set train.steps=20`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Demo {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let model = model(common)?;
        prepare(&self.out)?;
        let path = self.out.join("demo-recipe.yaml");
        let mut overrides = vec![format!("model={model}")];
        overrides.extend(self.set.iter().cloned());
        let recipe = recipe::read(&path, &overrides)?;
        let start = if self.resume { Start::Resume } else { Start::Fresh };
        if !common.quiet && !common.json {
            remark!(
                "tuning {model} on the shipped examples, asking before and after; the recipe is {}",
                path.display()
            );
        }
        let command = format!("hone demo --out {}", self.out.display());
        let tuned = tune::tune(&recipe, &self.out, start, &command, common)?;
        tune::finish(&tuned, &self.out, common)
    }
}

/// The demo's model, or, said aloud, the tiny one that ships with hone.
fn model(common: &Common) -> Result<&'static str, Failure> {
    match pull::resolve(MODEL, common) {
        Ok(_) => Ok(MODEL),
        Err(failure) => {
            remark!("note: {MODEL} is out of reach:");
            failure.causes.iter().for_each(|cause| remark!("  {cause}"));
            remark!(
                "note: going on with {FALLBACK}, a 0.26M-parameter story teller that ships with hone. It shows every \
                 step of the job, but it is too small to answer these questions: expect no gain."
            );
            pull::resolve(FALLBACK, common)?;
            Ok(FALLBACK)
        }
    }
}

/// Writes the recipe and its data where the run can be repeated from.
fn prepare(out: &Path) -> Result<(), Failure> {
    compare::write_text(&out.join("demo-recipe.yaml"), RECIPE)?;
    compare::write_text(&out.join("data/train.jsonl"), TRAIN)
}
