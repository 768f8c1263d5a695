//! Code that a model wrote, run against tests and counted: HumanEval's and MBPP's way.
//!
//! A response becomes a program ([`program`]), the program is run in a [`sandbox`] and has one [`Outcome`], and the outcomes of an
//! example's responses make its pass@k ([`pass_at_k`]). The task's score is the mean over examples.
//!
//! Nothing is run that nobody asked for: whoever evaluates brings the [`CodeRunner`].

#[cfg(target_os = "linux")]
mod launcher;
pub mod outcome;
pub mod pass_at_k;
pub mod program;
pub mod python;
pub mod sandbox;
#[cfg(target_os = "linux")]
mod supervise;
#[cfg(target_os = "linux")]
mod system_calls;
#[cfg(target_os = "linux")]
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use outcome::Outcome;
pub use program::Answer;
pub use python::Python;
pub use sandbox::{Layer, Limits, Protections, Sandbox, SandboxError};

use crate::metrics::MetricError;

/// Becomes the interpreter in the sandbox, as the launcher's last argument says. Returns an exit code, and only where that
/// failed. To be called by a program with one thread.
pub fn enter(order: &str) -> u8 {
    #[cfg(target_os = "linux")]
    return launcher::enter(order);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = order;
        1
    }
}

/// What a task says of its code: the metric `pass@K` and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeOptions {
    /// Draws of which one has to pass.
    pub k: usize,
    /// Which part of a response is code.
    pub answer: Answer,
}

impl CodeOptions {
    /// The metric's name in lists; in a task file a number stands for `k`.
    pub const NAME: &'static str = "pass@k";

    /// Options in a task file.
    pub const OPTIONS: [&'static str; 1] = ["answer"];

    /// The `k` of a metric's name; `None` if it is another metric.
    pub fn k_of(name: &str) -> Option<usize> {
        let digits = name.strip_prefix("pass@")?;
        // `pass@01` and `pass@+1` are no names.
        digits.parse().ok().filter(|k: &usize| *k > 0 && k.to_string() == digits)
    }

    /// By the metric's name and options.
    ///
    /// # Errors
    /// An `answer` that is none of [`Answer::NAMES`].
    pub fn from_options(name: &str, k: usize, options: &Map<String, Value>) -> Result<CodeOptions, MetricError> {
        let answer = match options.get("answer") {
            None => Answer::default(),
            Some(found) => found.as_str().and_then(Answer::from_name).ok_or_else(|| MetricError::Option {
                metric: name.into(),
                option: "answer".into(),
                found: found.to_string(),
                expected: Answer::NAMES.map(|(_, name)| name).join(", "),
            })?,
        };
        Ok(CodeOptions { k, answer })
    }
}

/// Why an example's code has no score.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// Fewer responses than draws.
    #[error("pass@{k} takes {k} responses or more an example, found {found}; set `repeats` in the task file")]
    TooFew {
        /// Draws.
        k: usize,
        /// Responses.
        found: usize,
    },
    /// No program could be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// An example's responses, run.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeOutcome {
    /// How each response's program ended.
    pub outcomes: Vec<Outcome>,
    /// pass@k.
    pub score: f64,
}

impl CodeOutcome {
    /// Responses whose program passed.
    pub fn passed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.passed()).count()
    }

    /// In words: every way in which programs ended, and how many did.
    pub fn summary(&self) -> String {
        if let [only] = self.outcomes.as_slice() {
            return only.to_string();
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in &self.outcomes {
            *counts.entry(outcome.to_string()).or_default() += 1;
        }
        counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect::<Vec<_>>().join("; ")
    }
}

/// Runs programs, each different one once.
#[derive(Debug)]
pub struct CodeRunner {
    /// Where they are run.
    pub sandbox: Sandbox,
    /// By the SHA-256 of the program.
    seen: Mutex<HashMap<[u8; 32], Outcome>>,
}

impl CodeRunner {
    /// A runner that has run nothing yet.
    pub fn new(sandbox: Sandbox) -> CodeRunner {
        CodeRunner { sandbox, seen: Mutex::default() }
    }

    /// How each program ends, in order. Several are run at once, as many as the thread pool has threads.
    ///
    /// # Errors
    /// No program could be run; nothing that a program does is an error.
    pub fn outcomes(&self, programs: &[String]) -> Result<Vec<Outcome>, SandboxError> {
        let keys: Vec<[u8; 32]> = programs.iter().map(|program| Sha256::digest(program).into()).collect();
        let mut new: Vec<([u8; 32], &String)> = Vec::new();
        {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, program) in keys.iter().zip(programs) {
                if !seen.contains_key(key) && !new.iter().any(|(known, _)| known == key) {
                    new.push((*key, program));
                }
            }
        }
        let run = |(key, program): ([u8; 32], &String)| Ok((key, self.run(program)?));
        let ended: Vec<([u8; 32], Outcome)> = new.into_par_iter().map(run).collect::<Result<_, SandboxError>>()?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(ended);
        // All of them were run, now or before.
        Ok(keys.iter().filter_map(|key| seen.get(key).cloned()).collect())
    }

    /// A sandbox that does not come up, on a machine that is short of something for a moment, is tried once more.
    fn run(&self, program: &str) -> Result<Outcome, SandboxError> {
        let run = match self.sandbox.run(program) {
            Err(SandboxError::Start { .. } | SandboxError::Io { .. }) => self.sandbox.run(program),
            other => other,
        };
        Ok(run?.outcome)
    }
}

/// Runs an example's responses. `target` is the program with the place of the answer, or the test that follows it.
///
/// # Errors
/// Fewer responses than draws, or no program could be run.
pub fn score(
    runner: &CodeRunner,
    responses: &[String],
    target: &str,
    options: &CodeOptions,
) -> Result<CodeOutcome, CodeError> {
    let too_few = CodeError::TooFew { k: options.k, found: responses.len() };
    if options.k > responses.len() {
        return Err(too_few);
    }
    let programs: Vec<String> =
        responses.iter().map(|response| program::program(&options.answer.code(response), target)).collect();
    let outcomes = runner.outcomes(&programs)?;
    let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
    let score = pass_at_k::pass_at_k(outcomes.len(), passed, options.k).ok_or(too_few)?;
    Ok(CodeOutcome { outcomes, score })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_is_read_from_its_name() {
        assert_eq!((CodeOptions::k_of("pass@1"), CodeOptions::k_of("pass@100")), (Some(1), Some(100)));
        for name in ["pass@", "pass@k", "pass@0", "pass@01", "pass@+1", "pass@x", "exact_match"] {
            assert_eq!(CodeOptions::k_of(name), None, "{name}");
        }
        let options = |value: Value| value.as_object().cloned().unwrap();
        let read = |value| CodeOptions::from_options("pass@3", 3, &options(value));
        assert_eq!(read(serde_json::json!({})).unwrap(), CodeOptions { k: 3, answer: Answer::Text });
        assert_eq!(read(serde_json::json!({"answer": "fenced"})).unwrap().answer, Answer::Fenced);
        let message = read(serde_json::json!({"answer": "chat"})).unwrap_err().to_string();
        assert!(message.contains("`pass@3`") && message.contains("text, completion, fenced"), "{message}");
    }

    #[test]
    fn a_summary_counts_every_end() {
        let failed = Outcome::Failed { message: "AssertionError".into() };
        let of = |outcomes: Vec<Outcome>| CodeOutcome { outcomes, score: 0.0 };
        assert_eq!(of(vec![failed.clone()]).summary(), "failed: AssertionError");
        let several = of(vec![Outcome::Passed, failed.clone(), Outcome::TimedOut, failed]);
        assert_eq!(several.summary(), "2 failed: AssertionError; 1 passed; 1 timed out");
        assert_eq!(several.passed(), 1);
    }
}
