//! The verdict in a few words, with its colour and the numbers that decided. A tuning with a named purpose is judged by it first:
//! gains elsewhere are no success where the tasks it was for did not gain.

use hone_eval::ledger::{Ledger, Outcome, TaskComparison};
use serde::Serialize;

use super::tasks;
use crate::links::Source;

/// What became of what the tuning was for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// None was named, tasks gained and none lost, or they went both ways: the outcome over all tasks says enough.
    Spoken,
    /// A task lost, none gained.
    Lost,
    /// None changed measurably.
    Missed,
}

fn purpose(ledger: &Ledger) -> Purpose {
    let of = |verdict: &str| ledger.asked().any(|task| task.is_target && task.verdict == verdict);
    match (ledger.asked().any(|task| task.is_target), of("better"), of("worse")) {
        (false, ..) | (_, true, _) => Purpose::Spoken,
        (_, false, true) => Purpose::Lost,
        (_, false, false) => Purpose::Missed,
    }
}

/// The verdict in a few words.
pub(crate) fn words(ledger: &Ledger) -> &'static str {
    match (purpose(ledger), ledger.outcome) {
        (Purpose::Lost, Outcome::Mixed) => "Worse at what it was tuned for, better at something else",
        (Purpose::Lost, _) => "Worse at what it was tuned for",
        (Purpose::Missed, Outcome::Better | Outcome::Unchanged) => {
            "Not measurably better at what it was tuned for; nothing measurably lost"
        }
        (Purpose::Missed, _) => "Not measurably better at what it was tuned for, and worse at something else",
        (Purpose::Spoken, Outcome::Better) => "Better, and nothing measurably lost",
        (Purpose::Spoken, Outcome::Mixed) => "Better at something, worse at something else",
        (Purpose::Spoken, Outcome::Worse) => "Worse",
        (Purpose::Spoken, Outcome::Unchanged) => "No measurable change",
    }
}

/// What the style sheet calls it.
pub(crate) fn class(ledger: &Ledger) -> &'static str {
    match (purpose(ledger), ledger.outcome) {
        (Purpose::Lost, _) | (Purpose::Missed, Outcome::Mixed) | (_, Outcome::Worse) => "worse",
        (Purpose::Missed, _) | (_, Outcome::Unchanged) => "unchanged",
        (Purpose::Spoken, Outcome::Better) => "better",
        (Purpose::Spoken, Outcome::Mixed) => "mixed",
    }
}

/// A task the tuning was for, in one line.
#[derive(Serialize)]
pub(crate) struct Decider<'a> {
    row: tasks::TableRow<'a>,
    unit: &'static str,
}

/// The lines of those that did not gain: what the sentence over all tasks says of them, it says last.
pub(crate) fn deciders<'a>(ledger: &'a Ledger, sources: &[Source], on_page: &dyn Fn(&str) -> bool) -> Vec<Decider<'a>> {
    let missed = |task: &&TaskComparison| task.is_target && task.verdict != "better";
    let line = |task: &'a TaskComparison| Decider {
        row: tasks::linked(task, sources, on_page),
        unit: if task.is_share { " points" } else { "" },
    };
    ledger.asked().filter(missed).map(line).collect()
}
