//! `hone data alignment`: whether the sources of a mix pull the same way, by the angles between their gradients.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use hone_edit::files::read_edit;
use hone_edit::{Base, Edit, EditStack};
use hone_model::Model;
use hone_train::alignment::{Alignment, AlignmentOptions, Pair, alignment};
use hone_train::prepare::{new_edit, prepare};
use hone_train::recipe::{self, Recipe};
use serde::Serialize;

use super::super::load::load_model_as;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};
use crate::progress;

/// Pairs shown from each end of the list.
const SHOWN: usize = 8;

/// Arguments of `hone data alignment`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone data alignment recipe.yaml                                        # a fresh edit of the recipe's method
  hone data alignment recipe.yaml --edit runs/first/adapter              # where training has led
  hone data alignment recipe.yaml --parameters lora_B --json | jq .mean_cosine

A cosine of 1 is the same direction, 0 none in common, below 0 that a step for one source undoes some of the other's.")]
pub struct AlignmentVerb {
    /// The recipe; its sources are the entries of `data.mix`.
    recipe: PathBuf,
    /// A trained edit at which the gradients are taken; without one, a fresh edit of the recipe's method.
    #[arg(long, value_name = "DIR")]
    edit: Option<PathBuf>,
    /// Examples read of each source, spread evenly over it.
    #[arg(long, default_value = "32", value_name = "N")]
    examples: NonZeroUsize,
    /// Only trained parameters whose key contains this text (capitals do not count): `lora_B`, `layers.3.`.
    #[arg(long, value_name = "TEXT")]
    parameters: Option<String>,
    /// Override a key of the recipe: `--set data.max_length=512`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    method: &'a str,
    edit: Option<&'a Path>,
    /// The text that the parameters' keys contain; `null` for all.
    restricted_to: Option<&'a str>,
    #[serde(flatten)]
    alignment: &'a Alignment,
}

impl AlignmentVerb {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let recipe = recipe::read(&self.recipe, &self.set)?;
        let sources = recipe.data.sources()?.len();
        let quantise = recipe.quantize.map(Into::into);
        let model = load_model_as(&recipe.model, recipe.train.dtype.into(), quantise, common)?;
        let edit = self.edit(&recipe, &model)?;
        let stack = EditStack::training(edit);
        if !common.quiet {
            stack.warnings().for_each(|warning| remark!("note: {warning}"));
        }
        let data = prepare(&recipe, &model)?;
        let options = AlignmentOptions { examples: self.examples, parameters: self.parameters.clone() };
        let bar = progress::bar(sources as u64, "sources", common.quiet || common.json);
        let measured = alignment(&model, &stack, &data, &recipe, &options, &mut |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        let alignment = measured?;
        let method = stack.entries.first().map_or("", |entry| entry.edit.method.info().name);
        if common.json {
            let (edit, restricted_to) = (self.edit.as_deref(), self.parameters.as_deref());
            outln!("{}", serde_json::to_string(&Output { method, edit, restricted_to, alignment: &alignment })?)?;
            return Ok(0);
        }
        self.print(&alignment, method)?;
        Ok(0)
    }

    /// The edit whose parameters the gradients are over.
    fn edit(&self, recipe: &Recipe, model: &Model) -> Result<Edit, Failure> {
        let Some(dir) = &self.edit else { return Ok(new_edit(recipe, model)?) };
        let edit = read_edit(dir, &Base::of(model))?;
        // The data are cut to what the recipe's method leaves of the model's length.
        let (found, planned) =
            (edit.method.virtual_tokens(), recipe.method.method(&recipe.directory)?.0.virtual_tokens());
        if found > planned {
            let cause = format!(
                "{}: it puts {found} virtual tokens before every text, the recipe's method {planned}",
                dir.display()
            );
            return Err(Failure::user(cause, "give the recipe that the edit was trained with"));
        }
        Ok(edit)
    }

    fn print(&self, alignment: &Alignment, method: &str) -> Result<(), Failure> {
        let edit = match &self.edit {
            Some(dir) => format!("{} (`{method}`)", dir.display()),
            None => format!("a fresh `{method}`"),
        };
        let only = self.parameters.as_ref().map_or_else(String::new, |text| format!(" with `{text}` in their keys"));
        outln!("Gradients over {} trained parameters{only} of {edit}\n", alignment.parameters)?;
        let names: Vec<&str> = alignment.sources.iter().map(|source| source.name.as_str()).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
        outln!("{:width$}  {:>8} {:>8} {:>10} {:>10}", "source", "examples", "loss", "‖gradient‖", "its halves")?;
        for source in &alignment.sources {
            let (halves, count) = (shown(source.halves), source.examples);
            outln!("{:width$}  {count:>8} {:>8.3} {:>10.2e} {halves:>10}", source.name, source.loss, source.norm)?;
        }
        let pairs = alignment.pairs();
        let opposed = pairs.iter().filter(|pair| pair.cosine < 0.0).count();
        outln!(
            "\nmean cosine of {} pairs: {}, {opposed} of them below 0; of a source's two halves: {}",
            pairs.len(),
            shown(alignment.mean_cosine),
            shown(alignment.mean_halves)
        )?;
        match pairs.len() > 2 * SHOWN {
            false => table("Pairs, the most opposed first", &pairs, &names),
            true => {
                let aligned: Vec<Pair> = pairs.iter().rev().take(SHOWN).copied().collect();
                table("The most opposed", &pairs[..SHOWN], &names)?;
                table("The most aligned", &aligned, &names)
            }
        }
    }
}

/// A cosine, or a dash.
fn shown(cosine: Option<f64>) -> String {
    cosine.map_or_else(|| "–".into(), |cosine| format!("{cosine:+.3}"))
}

fn table(title: &str, pairs: &[Pair], names: &[&str]) -> Result<(), Failure> {
    if pairs.is_empty() {
        return Ok(());
    }
    outln!("\n{title}")?;
    pairs.iter().try_for_each(|pair| outln!("{:+.3}  {} and {}", pair.cosine, names[pair.first], names[pair.second]))
}
