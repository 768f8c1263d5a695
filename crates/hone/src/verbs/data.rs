//! `hone data show`: training data as the model will see it, trained tokens coloured.

use std::io::IsTerminal;
use std::path::PathBuf;

use hone_data::{DataReport, EncodeOptions, PreviewExample, preview};
use hone_train::codec::ModelCodec;
use hone_train::prepare::prepare;
use hone_train::recipe;
use serde::Serialize;

use super::load::load_model;
use crate::args::Common;
use crate::fail::Failure;

/// Arguments of `hone data`.
#[derive(clap::Args, Debug)]
pub struct Data {
    #[command(subcommand)]
    verb: DataVerb,
}

#[derive(clap::Subcommand, Debug)]
enum DataVerb {
    /// Three examples with their trained tokens coloured, and what was read, dropped and cut.
    Show(Show),
}

/// Arguments of `hone data show`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  hone data show recipe.yaml --examples 5")]
struct Show {
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

impl Data {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let DataVerb::Show(show) = self.verb;
        let recipe = recipe::read(&show.recipe, &show.set)?;
        let model = load_model(&recipe.model, recipe.train.dtype.into(), common)?;
        let data = prepare(&recipe, &model)?;
        let codec = ModelCodec(&model);
        let options = EncodeOptions::new(&recipe.data, &codec)?;
        let examples = preview(&data.loaded.train, show.examples, &codec, &options)?;
        let report = &data.tokenised.report;
        if common.json {
            println!("{}", serde_json::to_string(&Output { report, examples: &examples })?);
            return Ok(0);
        }
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        for (i, example) in examples.iter().enumerate() {
            print_example(i + 1, example, color);
        }
        print_report(report);
        Ok(0)
    }
}

/// Trained pieces in green on a terminal, between ⟦ and ⟧ elsewhere.
pub fn marked(pieces: &[(String, bool)], color: bool) -> String {
    let piece = |(text, trained): &(String, bool)| match (trained, color) {
        (false, _) => text.clone(),
        (true, true) => format!("\x1b[1;32m{text}\x1b[0m"),
        (true, false) => format!("⟦{text}⟧"),
    };
    pieces.iter().map(piece).collect()
}

fn print_example(number: usize, example: &PreviewExample, color: bool) {
    let (tokens, trained) = (example.tokens, example.trained_tokens);
    println!("── example {number}: {}, {tokens} tokens, {trained} trained", example.source);
    if let Some(remark) = &example.remark {
        println!("   {remark}");
    }
    println!("{}\n", marked(&example.pieces, color));
}

fn print_report(report: &DataReport) {
    for file in &report.files {
        let kind = file.detection.as_ref().map_or_else(String::new, |d| format!(" ({})", d.format));
        println!("{}: {} rows, {} examples kept{kind}", file.path.display(), file.rows, file.examples);
    }
    for (name, side) in [("training", &report.train), ("validation", &report.validation)] {
        if side.sequences == 0 {
            continue;
        }
        let share = 100.0 * side.trained_tokens as f64 / side.tokens.max(1) as f64;
        println!(
            "{name}: {} examples, {} tokens, {share:.0} % of them trained; lengths {} to {}, median {}",
            side.examples, side.tokens, side.lengths.min, side.lengths.max, side.lengths.median
        );
        if side.truncated_sequences > 0 {
            println!("  cut at max_length: {} sequences, {} tokens", side.truncated_sequences, side.truncated_tokens);
        }
    }
    if report.drops.total() > 0 {
        println!("dropped: {}", report.drops.summary());
    }
    if report.duplicates > 0 {
        println!("duplicates: {}", report.duplicates);
    }
    if report.validation_in_training > 0 {
        println!("validation examples that are in the training data: {}", report.validation_in_training);
    }
    report.notes.iter().for_each(|note| println!("note: {note}"));
}
