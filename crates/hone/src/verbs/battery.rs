//! `hone battery`: what an edit gained and lost, in one command.

use std::path::PathBuf;

use hone_eval::files::{check_writable, read_scorecard};
use hone_eval::scorecard::Scorecard;
use hone_eval::{DataRoot, EvalOptions, compare, measures};

use super::compare::{report, show, write};
use super::eval::{Asked, Shown, card_path, load_tasks, score_model};
use super::load::{ModelArguments, With};
use super::outcome::Measured;
use crate::args::Common;
use crate::fail::Failure;
use crate::interrupt;

/// Arguments of `hone battery`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone battery smollm2-135m-instruct --edit runs/first/adapter --out check
  hone battery smollm2-135m-instruct --edit runs/first/adapter --tasks battery,telecom --target telecom --out check
  hone battery my-model --against my-tuned-model --out check         # a model against another one

The battery is fourteen small tasks that ship with hone (knowledge, commonsense, arithmetic, reading, instructions, translation, code,
long context, text): minutes for a model of 135 million parameters. What was scored is kept in OUT/base and OUT/tuned; the same
command goes on where it was stopped.")]
pub struct Battery {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    model: String,
    #[command(flatten)]
    with: With,
    /// The second model, where the change is no edit.
    #[arg(long, value_name = "MODEL", conflicts_with = "edit", required_unless_present = "edit")]
    against: Option<String>,
    /// Names of tasks or groups, or their files, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "battery")]
    tasks: Vec<String>,
    /// A task the tuning was for (may be given several times).
    #[arg(long, value_name = "TASK")]
    target: Vec<String>,
    /// At most so many questions a task (the first ones).
    #[arg(long, value_name = "N")]
    limit: Option<std::num::NonZeroUsize>,
    /// Put prompts through the model's chat template (default: what the task says).
    #[arg(long, value_name = "BOOL")]
    chat_template: Option<bool>,
    /// Where the scorecards, `ledger.json` and `report.html` go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Battery {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let asked = Asked {
            root: DataRoot::discover(common.data_root.as_deref()),
            options: EvalOptions { limit: self.limit.map(std::num::NonZeroUsize::get), ..EvalOptions::default() },
            chat_template: self.chat_template,
            dtype: self.with.dtype,
        };
        let tasks = load_tasks(&self.tasks, &asked)?;
        // Not after the first model was scored.
        let names = || tasks.tasks.iter().map(|task| task.name());
        let options = compare::CompareOptions {
            targets: self.target.clone(),
            allow_different_prompts: self.against.is_some(),
            measures: measures::MEASURES.iter().filter(|measure| measure.unasked).collect(),
            only_fitting_measures: true,
            ..compare::CompareOptions::default()
        };
        options.check_names(names())?;
        check_writable(&self.out)?;
        let base = ModelArguments { model: self.model.clone(), with: With { edit: Vec::new(), ..self.with.clone() } };
        let tuned = match &self.against {
            Some(other) => ModelArguments { model: other.clone(), with: self.with.clone() },
            None => ModelArguments { model: self.model.clone(), with: self.with.clone() },
        };
        let stop = interrupt::stop_flag();
        let mut sides: Vec<Vec<Scorecard>> = Vec::new();
        for (model, side) in [(base, "base"), (tuned, "tuned")] {
            let out = self.out.join(side);
            let code = score_model(&model, &tasks, &asked, Some(out.clone()), &stop, Shown::Nothing, common)?;
            if code != 0 {
                return Ok(code);
            }
            let cards = names().map(|task| read_scorecard(&card_path(&out, task))).collect::<Result<_, _>>()?;
            sides.push(cards);
        }
        let (base, tuned) = (&sides[0], &sides[1]);
        let ledger = compare::compare(base, tuned, &options)?;
        let title = self.out.file_name().map_or_else(|| "battery".into(), |name| name.to_string_lossy().into_owned());
        let report = report(title, base, tuned, ledger);
        write(&self.out, &report)?;
        show(&report.ledger, Measured::Numbers, &self.out, common)
    }
}
