//! Evaluations that outlive the process. An example's row goes to `TASK.jsonl.part` as soon as it is made; when all are there, the
//! scorecard is written beside it and the part goes away. A run that was stopped or killed goes on with what is missing, computes no
//! row again, and ends in the bytes it would have ended in (but for the seconds it says it took). What the file holds and what a
//! power cut may take: [`part`].
//!
//! An example is done
//!
//! - where log-likelihoods or a head's rewards are read: with its batch; implicit rewards: with its batch of the second reading;
//! - where texts are written: when its text ends, or the last of its texts where there are several, or of its ratings;
//! - where a reasoning is written before: when the last form of it is answered. The stages before, which the whole wave goes through
//!   together, are computed again for those that were not done;
//! - where a server answers: when its last answer is there. One without an answer is done with its wave ([`crate::endpoint`]).
//!
//! What was being worked on is worked on again: a batch, or the texts under way.
//!
//! A finished scorecard says in its header what its rows depend on, too, and is not made again while that is the same: of several
//! tasks those that are done stay. (Of a model behind a server only the name is known; delete a card to have it asked anew.)
//!
//! A card is made by one process at a time; a second one is refused before it computes anything ([`lock`]).

mod lock;
mod part;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_engine::DType;
use hone_model::{Hooks, Model};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::endpoint::Endpoint;
use crate::error::EvalError;
use crate::evaluate::{Done, EvalOptions, Progress, Sink, Subject, Summary, WAVE, evaluate_rows, header};
use crate::rewards::Rewards;
use crate::scorecard::ScorecardHeader;
use crate::task::Task;
use crate::task::data::hex;
use part::Part;

/// Evaluates into the scorecard at `path`, going on with what an earlier run left there. `contents` names what is
/// done with the model (its edits' contents, for one); the other arguments are those of [`crate::evaluate()`].
#[allow(clippy::too_many_arguments)]
pub fn evaluate_to(
    path: &Path,
    contents: &str,
    model: &Model,
    hooks: Arc<dyn Hooks>,
    dtype: DType,
    task: &Task,
    options: &EvalOptions,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
) -> Result<ScorecardHeader, EvalError> {
    kept(path, &Subject::of(model, dtype), contents, task, options, |done, sink| {
        evaluate_rows(model, hooks, dtype, task, options, done, progress, stop, sink)
    })
}

/// The same for what a server answers; see [`crate::endpoint`].
pub fn ask_into(
    path: &Path,
    endpoint: &Endpoint,
    task: &Task,
    options: &EvalOptions,
    progress: &mut dyn FnMut(&Progress<'_>),
    stop: &AtomicBool,
) -> Result<ScorecardHeader, EvalError> {
    kept(path, &endpoint.subject(), "", task, options, |done, sink| {
        endpoint.ask(task, options, done, progress, stop, sink)
    })
}

/// The scorecard at `path` of the rows that are there and those that `evaluate` makes besides.
fn kept(
    path: &Path,
    subject: &Subject,
    contents: &str,
    task: &Task,
    options: &EvalOptions,
    evaluate: impl FnOnce(Done, &mut Sink<'_>) -> Result<Summary, EvalError>,
) -> Result<ScorecardHeader, EvalError> {
    let identity = identity(subject, contents, task, options)?;
    let finished = || finished(path).filter(|header| header.identity.as_deref() == Some(&identity));
    if let Some(finished) = finished() {
        return Ok(finished);
    }
    let mut part = Part::open(path, &identity)?;
    // Somebody else may have ended it just before this one got the lock.
    if let Some(finished) = finished() {
        return Ok(finished);
    }
    let summary = evaluate(part.done(), &mut |examples| part.append(examples))?;
    let header = header(subject, task, options, summary, part.tally(), part.seconds())?;
    let header = ScorecardHeader { identity: Some(identity.clone()), ..header };
    part.finish(path, &header)?;
    Ok(header)
}

/// Longest header that is read, in bytes.
const MAX_HEADER: u64 = 1 << 20;

/// The header of the card at `path`, if there is one: a card appears whole or not at all.
fn finished(path: &Path) -> Option<ScorecardHeader> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?).take(MAX_HEADER).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// A hash of everything that decides what the rows are.
fn identity(subject: &Subject, contents: &str, task: &Task, options: &EvalOptions) -> Result<String, EvalError> {
    let runner = task.runs_code().and(options.code.as_deref());
    let decides = json!({
        "task": task.sha256(),
        "other_data": task.other_data_sha256(task.shots(options.num_fewshot))?,
        "route": options.route.as_ref().map(|route| (&route.column, &route.groups)),
        "code": runner.map(|runner| (&runner.sandbox.python.version, &runner.sandbox.limits)),
        "model": [subject.model, subject.model_sha256],
        "edit": [options.edit.as_ref().map_or("", |edit| &edit.name), contents],
        "dtype": subject.dtype,
        "limit": options.limit,
        "num_fewshot": options.num_fewshot,
        "chat_template": options.chat_template,
        "multiturn": options.fewshot_as_multiturn,
        "system": options.system_instruction,
        "seed": options.seed,
        "max_length": options.max_length,
        "rewards": options.rewards.as_ref().map(Rewards::identity),
        "wave": WAVE,
        "version": env!("CARGO_PKG_VERSION"),
    });
    Ok(hex(&Sha256::digest(decides.to_string())))
}
