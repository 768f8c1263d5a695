//! `hone data show`: training data as the model will see it, trained tokens coloured.

use std::io::IsTerminal;
use std::path::PathBuf;

use hone_data::{DataReport, EncodeOptions, PreviewExample, preview};
use hone_train::prepare::{prepare, recipe_codec};
use hone_train::recipe;
use serde::Serialize;

use super::super::load::load_model;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{TRAINED, outln};

/// Arguments of `hone data show`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  hone data show recipe.yaml --examples 5")]
pub struct Show {
    /// The recipe.
    recipe: PathBuf,
    /// How many examples to show.
    #[arg(long, default_value_t = 3, value_name = "N")]
    examples: usize,
    /// Override a key of the recipe: `--set data.max_length=512`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Serialize)]
struct Output<'a> {
    report: &'a DataReport,
    examples: &'a [PreviewExample],
}

impl Show {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let recipe = recipe::read(&self.recipe, &self.set)?;
        let model = load_model(&recipe.model, recipe.train.dtype.into(), common)?;
        let data = prepare(&recipe, &model)?;
        let codec = recipe_codec(&recipe, &model)?;
        let options = EncodeOptions::new(&recipe.data, &codec)?;
        let examples = preview(&data.loaded.train, self.examples, &codec, &options)?;
        let report = &data.tokenised.report;
        if common.json {
            outln!("{}", serde_json::to_string(&Output { report, examples: &examples })?)?;
            return Ok(0);
        }
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        for (i, example) in examples.iter().enumerate() {
            outln!("{}", example_lines(i + 1, example, None, color))?;
        }
        print_report(report)?;
        Ok(0)
    }
}

/// Trained pieces in green on a terminal, between ⟦ and ⟧ elsewhere.
pub fn marked(pieces: &[(String, bool)], color: bool) -> String {
    let piece = |(text, trained): &(String, bool)| match (trained, color) {
        (false, _) => text.clone(),
        (true, true) => format!("{}{text}{}", TRAINED.0, TRAINED.1),
        (true, false) => format!("⟦{text}⟧"),
    };
    pieces.iter().map(piece).collect()
}

/// An example with its trained tokens marked, at most `limit` characters of it: what is cut is cut from the prompt's
/// beginning first, because the trained part is what one looks for.
pub fn example_lines(number: usize, example: &PreviewExample, limit: Option<usize>, color: bool) -> String {
    let (tokens, trained) = (example.tokens, example.trained_tokens);
    let remark = example.remark.as_ref().map_or_else(String::new, |remark| format!("\n   {remark}"));
    let head = format!("── example {number}: {}, {tokens} tokens, {trained} trained{remark}", example.source);
    let text = match limit {
        Some(limit) => marked(&shortened(&example.pieces, limit), color),
        None => marked(&example.pieces, color),
    };
    format!("{head}\n{text}\n")
}

/// The pieces cut to about `limit` characters: the end of the first untrained piece, the beginning of the others.
fn shortened(pieces: &[(String, bool)], limit: usize) -> Vec<(String, bool)> {
    let mut left = limit;
    let mut kept = Vec::new();
    for (index, (text, trained)) in pieces.iter().enumerate() {
        let characters = text.chars().count();
        let room = if *trained { left } else { left / 2 };
        let shown = match characters <= room {
            true => text.clone(),
            false if index == 0 && !trained => {
                format!("… {}", text.chars().skip(characters - room).collect::<String>())
            }
            false => format!("{} …", text.chars().take(room).collect::<String>()),
        };
        left = left.saturating_sub(shown.chars().count());
        kept.push((shown, *trained));
        if left == 0 && *trained {
            break;
        }
    }
    kept
}

fn print_report(report: &DataReport) -> Result<(), Failure> {
    for file in &report.files {
        let kind = file.detection.as_ref().map_or_else(String::new, |d| format!(" ({})", d.format));
        outln!("{}: {} rows, {} examples kept{kind}", file.path.display(), file.rows, file.examples)?;
    }
    for (name, side) in [("training", &report.train), ("validation", &report.validation)] {
        if side.sequences == 0 {
            continue;
        }
        let share = 100.0 * side.trained_tokens as f64 / side.tokens.max(1) as f64;
        outln!(
            "{name}: {} examples, {} tokens, {share:.0} % of them trained; lengths {} to {}, median {}",
            side.examples,
            side.tokens,
            side.lengths.min,
            side.lengths.max,
            side.lengths.median
        )?;
        if side.truncated_sequences > 0 {
            outln!("  cut at max_length: {} sequences, {} tokens", side.truncated_sequences, side.truncated_tokens)?;
        }
    }
    if report.drops.total() > 0 {
        outln!("dropped: {}", report.drops.summary())?;
    }
    if report.duplicates > 0 {
        outln!("duplicates: {}", report.duplicates)?;
    }
    if report.validation_in_training > 0 {
        outln!("validation examples that are in the training data: {}", report.validation_in_training)?;
    }
    report.notes.iter().try_for_each(|note| outln!("note: {note}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_is_cut_and_the_answer_stays() {
        let pieces = [("x".repeat(500) + "Question?", false), ("The answer.".into(), true), ("\n".into(), false)];
        let text = marked(&shortened(&pieces, 100), false);
        assert_eq!(text, format!("… {}Question?⟦The answer.⟧\n", "x".repeat(41)));
        let whole = marked(&shortened(&pieces, 10_000), false);
        assert_eq!(whole, marked(&pieces, false));
    }
}
