//! What a comparison could have seen: the smallest change of each task that as many questions find.

use hone_eval::explain::comparison::smallest_detectable;
use hone_eval::ledger::{Ledger, TaskComparison};
use serde::Serialize;

use super::tasks::{number, signed};
use crate::charts::plot::Digits;
use crate::links::anchor;

/// What the table says, for people.
pub(crate) const EXPLAINED: &str = "With so many questions, so many of them answered differently, a change of this size would \
                                    have been seen in 4 of 5 such comparisons (McNemar's test at 0.05; Connor 1987). A smaller \
                                    one may be there and stay unseen: \"unchanged\" is \"not measurable\".";

/// Level of the intervals of a ledger.
const LEVEL: f64 = 0.95;

/// A task's row.
#[derive(Serialize)]
pub(crate) struct Power {
    pub task: String,
    pub n: usize,
    /// Answers that are right on one side and wrong on the other.
    pub changed: String,
    /// The smallest change that would have been seen.
    pub smallest: String,
    /// The change that was found, for comparison.
    pub found: String,
    pub verdict: String,
    /// Where its numbers lead.
    pub href: Option<String>,
}

/// The tasks of a ledger; `on_page` says whether the page has examples of a task.
pub(crate) fn power(ledger: &Ledger, on_page: &dyn Fn(&str) -> bool) -> Vec<Power> {
    ledger.asked().map(|task| of_task(task, on_page(&task.name))).collect()
}

fn of_task(task: &TaskComparison, on_page: bool) -> Power {
    let flips = task.mcnemar_p.is_some();
    let changed = 100.0 * (task.gained + task.lost) as f64 / task.n.max(1) as f64;
    let size = |value: f64| if task.is_share { format!("{:.1} points", 100.0 * value) } else { number(value) };
    let smallest = smallest_detectable(task, LEVEL);
    Power {
        task: task.name.clone(),
        n: task.n,
        changed: if flips { format!("{changed:.1} %") } else { "–".into() },
        smallest: smallest.map_or_else(|| "none: too few questions".into(), |value| format!("± {}", size(value))),
        found: if task.is_share { Digits(1).signed(100.0 * task.difference) } else { signed(task.difference) },
        verdict: task.verdict.clone(),
        href: on_page.then(|| format!("#{}", anchor(&["examples", &task.name]))),
    }
}
