//! What the user typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::verbs;

/// Fine-tune a model, and learn, with intervals, what it gained and what it lost.
#[derive(Parser, Debug)]
#[command(name = "hone", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// What goes for every verb.
    #[command(flatten)]
    pub common: Common,
}

const EXAMPLES: &str = "Examples:
  hone demo                                    the whole job on a small model, in minutes
  hone tune recipe.yaml --out runs/first       tune, and compare before with after
  hone eval smollm2-135m-instruct --tasks arc_easy,boolq --limit 200 --out cards/base
  hone compare cards/base cards/tuned --out report
  hone battery smollm2-135m-instruct --edit runs/first/adapter --out check
  hone chat smollm2-135m-instruct --edit runs/first/adapter --versus

MODEL is a Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
Exit codes: 0 done, 1 a fault of hone (for a study: a claim that does not hold), 2 something you can mend, 3 a rule of fail_if was broken.";

/// Options of every verb.
#[derive(clap::Args, Debug, Clone)]
pub struct Common {
    /// Print one JSON document on standard output and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bars and no remarks.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Threads to compute with (default: all cores).
    #[arg(long, global = true, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// Folder the task files' data paths are relative to (default: $HONE_DATA, then what ships with hone).
    #[arg(long, global = true, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
}

/// More threads than any machine has processors; many more would only fill the memory with their stacks.
const MOST_THREADS: usize = 1024;

fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=MOST_THREADS).contains(threads));
    threads.ok_or_else(|| format!("expected a whole number from 1 to {MOST_THREADS}"))
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// The whole job on a small model: tune, compare, report. Does its own set-up.
    Demo(verbs::demo::Demo),
    /// Tune a model as a recipe says.
    Tune(verbs::tune::Tune),
    /// Score a model on tasks; writes one scorecard a task, one row an example.
    Eval(verbs::eval::Eval),
    /// Pair two sets of scorecards question by question: gained, lost, verdict, report.
    Compare(verbs::compare::Compare),
    /// How a number of an evaluation or a comparison came about, down to its examples.
    Explain(verbs::explain::Explain),
    /// What an edit gained and lost on a fixed set of small tasks: both models scored, compared, reported.
    Battery(verbs::battery::Battery),
    /// Ask a model what it thinks of written answers, and keep its verdicts beside their scores.
    Judge(verbs::judge::Judge),
    /// Look at training data as the model will see it, and at whether its sources pull the same way.
    Data(verbs::data::Data),
    /// Log-probabilities of a text, token by token.
    Score(verbs::score::Score),
    /// Continue a prompt.
    Generate(verbs::generate::Generate),
    /// Talk to a model, or to a base and its tuned version side by side.
    Chat(verbs::chat::Chat),
    /// Make one edit of several, or merge them into the model.
    Merge(verbs::merge::Merge),
    /// What methods there are, and what is in an adapter.
    Edit(verbs::edit::EditVerb),
    /// Where in a model something happens: what its heads look at, which answers depend on what was given.
    Locate(verbs::locate::LocateVerb),
    /// Write a model, edits merged in or taken out again, as a Hugging Face directory or a GGUF file.
    Export(verbs::export::Export),
    /// What can be told of larger or longer-trained models: how evenly scores move with compute.
    Predict(verbs::predict::Predict),
    /// Hold published claims against measurement: run a study's steps, print claim, expectation, measurement.
    Study(verbs::study::Study),
    /// Fetch a model into the cache.
    Pull(verbs::pull::Pull),
    /// Become the interpreter of a program under test.
    #[command(hide = true)]
    Sandboxed(verbs::sandboxed::Sandboxed),
    /// How fast this machine trains and generates, and what share of its own ceiling that is.
    Bench(verbs::bench::Bench),
    /// What this machine can do, what is in the cache, and a five-second self-check.
    Doctor(verbs::doctor::Doctor),
}

/// Reads the command line; ends the process with help on a mistake.
pub fn parse() -> Arguments {
    Arguments::parse()
}
