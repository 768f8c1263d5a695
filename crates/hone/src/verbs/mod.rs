//! The verbs, one file each.

pub mod bench;
pub mod chat;
pub mod compare;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
mod load;
mod outcome;
pub mod pull;
pub mod score;
pub mod tune;
mod tune_progress;
mod tune_report;

use crate::args::{Arguments, Verb};
use crate::fail::Failure;

/// Runs the verb; the number is the exit code.
pub fn run(arguments: Arguments) -> Result<u8, Failure> {
    let common = arguments.common;
    if let Some(threads) = common.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        pool.map_err(|error| Failure::ours(format!("the thread pool could not be made: {error}")))?;
    }
    if let Some(root) = common.data_root.as_deref().filter(|root| !root.is_dir()) {
        let hint = "name the folder that the task files' data paths start from";
        return Err(Failure::user(format!("--data-root {}: no such directory", root.display()), hint));
    }
    match arguments.verb {
        Verb::Demo(verb) => verb.run(&common),
        Verb::Tune(verb) => verb.run(&common),
        Verb::Eval(verb) => verb.run(&common),
        Verb::Compare(verb) => verb.run(&common),
        Verb::Data(verb) => verb.run(&common),
        Verb::Score(verb) => verb.run(&common),
        Verb::Generate(verb) => verb.run(&common),
        Verb::Chat(verb) => verb.run(&common),
        Verb::Export(verb) => verb.run(&common),
        Verb::Pull(verb) => verb.run(&common),
        Verb::Bench(verb) => verb.run(&common),
        Verb::Doctor(verb) => verb.run(&common),
    }
}
