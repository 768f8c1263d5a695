//! Task after task: what is scored is shown at once; a task that fails is told at once and again at the end, and those behind it are
//! scored all the same. Only what no other task would be spared (a server that answers nobody, a place that takes no file) ends it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hone_eval::files::read_tally;
use hone_eval::intervals::intervals;
use hone_eval::rewards::ratings::UNPARSED;
use hone_eval::scorecard::{Scorecard, ScorecardHeader};
use hone_eval::statistics::BootstrapOptions;
use hone_eval::tally::Tally;
use hone_eval::task::group::{GroupScore, Loaded};
use hone_eval::{Applied, EvalError, EvalOptions, Task};
use serde::Serialize;

use super::{Asked, Shown, card_path, watched};
use crate::args::Common;
use crate::fail::{Failure, INTERRUPTED, USER};
use crate::print::{outln, remark};

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    tasks: Vec<TaskOutput>,
    /// Metrics over groups of tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupScore>,
    /// Groups whose mean is not given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_averaged: Vec<NotAveraged>,
    /// Tasks without a score.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<FailedTask>,
}

/// A task's part of it.
#[derive(Serialize)]
struct TaskOutput {
    #[serde(flatten)]
    header: ScorecardHeader,
    /// Ends of the 95 % interval of each metric, by bootstrap over the examples.
    intervals: BTreeMap<String, (f64, f64)>,
    /// The scorecard, a row an example, if `--out` was given.
    scorecard: Option<PathBuf>,
}

impl TaskOutput {
    fn new(header: ScorecardHeader, tally: &Tally, scorecard: Option<PathBuf>) -> TaskOutput {
        TaskOutput { intervals: intervals(&header.metrics, tally, &BootstrapOptions::default()), header, scorecard }
    }
}

/// A task that could not be scored, or is left out.
#[derive(Serialize)]
struct FailedTask {
    name: String,
    error: String,
}

/// A group whose mean is not given, and why.
#[derive(Serialize)]
struct NotAveraged {
    group: String,
    reason: String,
}

/// A task's scorecard: its header where it went to a file, else all of it.
pub(super) type Score<'a> = dyn FnMut(
        Option<&Path>,
        &Task,
        &EvalOptions,
        &mut dyn FnMut(&hone_eval::Progress<'_>),
    ) -> Result<(ScorecardHeader, Option<Scorecard>), EvalError>
    + 'a;

/// Scores one task after the other and prints what came out. With several tasks, an error comes after all of them were tried.
pub(super) fn each_task(
    Loaded { tasks, groups, left_out }: &Loaded,
    asked: &Asked,
    edit: Option<Applied>,
    out: Option<PathBuf>,
    shown: Shown,
    common: &Common,
    score: &mut Score<'_>,
) -> Result<u8, Failure> {
    let (mut done, mut headers) = (Vec::new(), Vec::new());
    let left = left_out.iter().map(|left| FailedTask { name: left.name.clone(), error: left.reason.clone() });
    let mut failed: Vec<FailedTask> = left.collect();
    for (at, task) in tasks.iter().enumerate() {
        let place = out.as_deref().map(|out| card_path(out, task.name()));
        let options = asked.options_for(task, edit.clone());
        let mut is_of_all = false;
        let scored = watched(task, options, "scoring", common, |options, shown| {
            score(place.as_deref(), task, options, shown)
                .inspect_err(|error| is_of_all = would_fail_all(error, out.as_deref()))
        });
        let scored = match scored {
            Ok(scored) => scored,
            Err(failure) if tasks.len() == 1 && left_out.is_empty() => return Err(failure),
            Err(failure) => {
                let rest = &tasks[at + 1..];
                let error = in_one_line(&failure);
                let left =
                    if is_of_all || rest.is_empty() { "" } else { "; the tasks behind it are scored all the same" };
                remark!("note: {}: {error}{left}", task.name());
                failed.push(FailedTask { name: task.name().into(), error });
                if is_of_all {
                    let error = format!("not scored, because {} failed", task.name());
                    failed
                        .extend(rest.iter().map(|task| FailedTask { name: task.name().into(), error: error.clone() }));
                    break;
                }
                continue;
            }
        };
        let Some((header, card)) = scored else {
            let kept =
                if place.is_some() { "what is done is kept; the same command goes on" } else { "nothing is kept" };
            remark!("stopped; {kept}");
            return Ok(INTERRUPTED);
        };
        if header.unrated > 0 && header.unrated == header.ratings {
            remark!(
                "warning: {}: none of the {} replies held a rating, so every answer counts as {UNPARSED} and the score says nothing of \
                 the answers; read the replies in the scorecard, and ask for the number in other words or another model",
                header.task,
                header.ratings
            );
        }
        match (common.json, card, place) {
            _ if shown == Shown::Nothing => {}
            (false, ..) => print_card(&header)?,
            (true, Some(card), place) => done.push(TaskOutput::new(card.header, &Tally::of(&card.rows), place)),
            // Rows are read back for their intervals only.
            (true, None, Some(place)) => {
                let (header, tally) = read_tally(&place)?;
                done.push(TaskOutput::new(header, &tally, Some(place)));
            }
            (true, None, None) => {}
        }
        headers.push(header);
    }
    let code = ending(&failed, left_out.len(), tasks.len() + left_out.len(), out.is_some());
    if shown == Shown::Nothing {
        return code;
    }
    let headers: Vec<&ScorecardHeader> = headers.iter().collect();
    let unscored: Vec<&str> = failed.iter().map(|task| task.name.as_str()).collect();
    let (mut scores, mut not_averaged) = (Vec::<GroupScore>::new(), Vec::new());
    for group in groups {
        match group.no_mean(&unscored) {
            None => scores.extend(group.scores(&headers)),
            Some(reason) => {
                remark!("note: no mean of {} is given: {reason}", group.name);
                not_averaged.push(NotAveraged { group: group.name.clone(), reason });
            }
        }
    }
    if common.json {
        outln!("{}", serde_json::to_string(&Output { tasks: done, groups: scores, not_averaged, failed })?)?;
        return code;
    }
    for score in &scores {
        let stderr = score.stderr.map_or_else(String::new, |e| format!(" ± {e:.4}"));
        let tasks = if score.tasks == 1 { "1 task that has it" } else { &format!("{} tasks", score.tasks) };
        let of = format!("{tasks}, {} questions", score.n);
        outln!("{} ({of})\n  {:<20} {:.4}{stderr}", score.group, score.metric, score.value)?;
    }
    code
}

/// Whether the next task would fail for the same reason: a server that answers nobody, or no room for the cards.
fn would_fail_all(error: &EvalError, out: Option<&Path>) -> bool {
    match error {
        EvalError::Endpoint { .. } => true,
        EvalError::Io { path, .. } => out.is_some_and(|out| path.starts_with(out)),
        _ => false,
    }
}

/// The exit code when all tasks were scored, or every task that was not, with its error; `left_out` of them were never begun.
fn ending(failed: &[FailedTask], left_out: usize, tasks: usize, is_kept: bool) -> Result<u8, Failure> {
    if failed.is_empty() {
        return Ok(0);
    }
    let mut causes = vec![format!("{} of {tasks} tasks could not be scored", failed.len())];
    causes.extend(failed.iter().map(|FailedTask { name, error }| format!("{name}: {error}")));
    let hint = match is_kept {
        _ if failed.len() == left_out => {
            "name the tasks that are to be scored one by one, without those that are left out"
        }
        true => "mend what is named and run the same command again; it scores only the tasks that are not done",
        false => "mend what is named, and run these tasks again",
    };
    Err(Failure { code: USER, causes, hint: Some(hint.into()) })
}

/// A failure within another one's causes.
fn in_one_line(failure: &Failure) -> String {
    let hint = failure.hint.iter().map(String::as_str);
    failure.causes.iter().map(String::as_str).chain(hint).collect::<Vec<_>>().join("; ")
}

fn print_card(header: &ScorecardHeader) -> Result<(), Failure> {
    let template = if header.chat_template { "on" } else { "off" };
    outln!(
        "{} (v{}, {} questions, {} shots, chat template {template}, {:.1} s)",
        header.task,
        header.version,
        header.n,
        header.num_fewshot,
        header.seconds
    )?;
    for metric in &header.metrics {
        let stderr = metric.stderr.map_or_else(String::new, |e| format!(" ± {e:.4}"));
        outln!("  {:<20} {:.4}{stderr}", metric.name, metric.value)?;
    }
    if header.truncated > 0 {
        outln!("  {} prompts were cut from the left to fit the model", header.truncated)?;
    }
    if header.unrated > 0 {
        let (none, all) = (header.unrated, header.ratings);
        outln!("  {none} of {all} replies held no rating and count as {UNPARSED}")?;
    }
    match header.unanswered {
        0 => {}
        count => {
            let what =
                if count == 1 { "answer could not be had and counts" } else { "answers could not be had and count" };
            let why = header.first_unanswered.as_deref().unwrap_or("no reason is known");
            outln!("  {count} {what} as wrong; the first: {why}")?;
        }
    }
    match header.gold_missing {
        0 => {}
        1 => outln!("  1 question names a right choice that is not among its choices and counts as wrong")?,
        count => {
            outln!("  {count} questions name a right choice that is not among their choices and count as wrong")?;
        }
    }
    Ok(())
}
