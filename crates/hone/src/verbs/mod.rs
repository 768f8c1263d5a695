//! The verbs, one file each.

pub mod battery;
pub mod bench;
pub mod chat;
pub mod compare;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod edit;
pub mod eval;
pub mod explain;
pub mod export;
mod gate;
pub mod generate;
pub mod judge;
mod load;
pub mod locate;
pub mod merge;
mod outcome;
pub mod predict;
pub mod pull;
mod rewards;
mod routing;
pub mod sandboxed;
pub mod score;
mod sources;
pub mod study;
mod study_progress;
mod take_out;
pub mod tune;
mod tune_progress;
mod tune_report;
mod verify;

use crate::args::{Arguments, Common, Verb};
use crate::fail::Failure;

/// Bytes of stack of a thread of the pool: as much as the main thread of a program usually has, for the verbs run there.
const STACK: usize = 8 << 20;

/// Runs the verb; the number is the exit code.
pub fn run(arguments: Arguments) -> Result<u8, Failure> {
    let common = arguments.common;
    if let Verb::Sandboxed(verb) = &arguments.verb {
        return Ok(verb.run());
    }
    // 0 threads are as many as there are cores.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(common.threads.unwrap_or(0)).stack_size(STACK);
    pool.build_global().map_err(|error| Failure::ours(format!("the thread pool could not be made: {error}")))?;
    if let Some(root) = common.data_root.as_deref().filter(|root| !root.is_dir()) {
        let hint = "name the folder that the task files' data paths start from";
        return Err(Failure::user(format!("--data-root {}: no such directory", root.display()), hint));
    }
    // On a thread of the pool, where parallel work is handed over without waking the caller for each operation.
    rayon::scope(|_| dispatch(arguments.verb, &common))
}

fn dispatch(verb: Verb, common: &Common) -> Result<u8, Failure> {
    match verb {
        Verb::Demo(verb) => verb.run(common),
        Verb::Tune(verb) => verb.run(common),
        Verb::Eval(verb) => verb.run(common),
        Verb::Compare(verb) => verb.run(common),
        Verb::Explain(verb) => verb.run(common),
        Verb::Battery(verb) => verb.run(common),
        Verb::Judge(verb) => verb.run(common),
        Verb::Data(verb) => verb.run(common),
        Verb::Score(verb) => verb.run(common),
        Verb::Generate(verb) => verb.run(common),
        Verb::Chat(verb) => verb.run(common),
        Verb::Merge(verb) => verb.run(common),
        Verb::Edit(verb) => verb.run(common),
        Verb::Locate(verb) => verb.run(common),
        Verb::Export(verb) => verb.run(common),
        Verb::Predict(verb) => verb.run(common),
        Verb::Study(verb) => verb.run(common),
        Verb::Pull(verb) => verb.run(common),
        Verb::Sandboxed(verb) => Ok(verb.run()),
        Verb::Bench(verb) => verb.run(common),
        Verb::Doctor(verb) => verb.run(common),
    }
}
