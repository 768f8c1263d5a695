//! The tasks of a comparison as the page shows them: which stand under which question, and their numbers in the reader's units.

use hone_eval::compare::SIGNIFICANCE;
use hone_eval::ledger::{Ledger, TaskComparison};
use serde::Serialize;

use crate::charts::plot::Digits;
use crate::grid::NOTHING;
use crate::links::{Side, Source, anchor, href};

/// A row of a table of tasks, numbers already in the reader's units.
#[derive(Serialize)]
pub(crate) struct TableRow<'a> {
    pub task: &'a TaskComparison,
    pub metric: String,
    pub base: String,
    pub tuned: String,
    pub difference: String,
    pub interval: String,
    pub p: String,
    pub arrow: &'static str,
    /// Where the first model's numbers lead, the second one's, and those of both.
    pub base_href: Option<String>,
    pub tuned_href: Option<String>,
    pub href: Option<String>,
}

/// The tasks under "Is it better?" and those under "What did it lose?": what the tuning was for, and the rest. Without a named
/// target all tasks are asked the first question, and those that got worse the second one too.
pub(crate) fn parts(ledger: &Ledger) -> (Vec<&TaskComparison>, Vec<&TaskComparison>) {
    let named = ledger.asked().any(|task| task.is_target);
    match named {
        true => ledger.asked().partition(|task| task.is_target),
        false => (ledger.asked().collect(), ledger.asked().filter(|task| task.verdict == "worse").collect()),
    }
}

/// What stands where no task is asked the second question.
pub(crate) fn nothing_else(ledger: &Ledger) -> &'static str {
    match ledger.asked().any(|task| task.is_target) {
        true => {
            "Only what the tuning was for was asked, so what else it lost is not known. Compare on tasks that must not break, \
             too."
        }
        false => "No task got measurably worse.",
    }
}

/// A task's row without links.
pub(crate) fn row(task: &TaskComparison) -> TableRow<'_> {
    let value = |v: f64| if task.is_share { format!("{:.1} %", v * 100.0) } else { number(v) };
    // The ends of an interval with the decimals of what lies between them.
    let digits = if task.is_share { Digits(1) } else { decimals(task.difference) };
    let difference = |v: f64| digits.signed(if task.is_share { v * 100.0 } else { v });
    TableRow {
        metric: metric(&task.metric),
        base: value(task.base).replace('-', "−"),
        tuned: value(task.tuned).replace('-', "−"),
        difference: difference(task.difference),
        interval: match task.ci_low.is_finite() && task.ci_high.is_finite() {
            true => format!("{} to {}", difference(task.ci_low), difference(task.ci_high)),
            false => NOTHING.into(),
        },
        p: task.p_holm.or(task.mcnemar_p).map_or_else(|| NOTHING.into(), p_value),
        arrow: arrow(task),
        base_href: None,
        tuned_href: None,
        href: None,
        task,
    }
}

/// A task's row; `on_page` says whether the page has examples of a task.
pub(crate) fn linked<'a>(task: &'a TaskComparison, sources: &[Source], on_page: &dyn Fn(&str) -> bool) -> TableRow<'a> {
    let card = |side: Side| {
        let source = sources.iter().find(|source| source.task == task.name && source.side == side);
        source.map(|source| href(&source.path))
    };
    let examples = on_page(&task.name).then(|| format!("#{}", anchor(&["examples", &task.name])));
    TableRow {
        base_href: card(Side::Base).or_else(|| examples.clone()),
        tuned_href: card(Side::Tuned).or_else(|| examples.clone()),
        href: examples,
        ..row(task)
    }
}

/// A sentence's first letter large.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A number with the digits that say something.
pub(crate) fn number(v: f64) -> String {
    match v.abs() {
        large if large >= 1e6 => format!("{v:.1e}"),
        plain if plain.fract() == 0.0 && plain < 1e3 => format!("{v}"),
        large if large >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.3}"),
    }
}

/// The decimals that a difference of this size needs.
fn decimals(v: f64) -> Digits {
    match v.abs() {
        large if large >= 10.0 => Digits(1),
        plain if plain >= 0.1 => Digits(2),
        small if small >= 0.01 => Digits(3),
        _ => Digits(4),
    }
}

/// A difference with its sign.
pub(crate) fn signed(v: f64) -> String {
    decimals(v).signed(v)
}

/// What the marks say, where there is no page to say it.
pub(crate) const MARKS: &str = "▲ better, ▼ worse, = no measurable change; △ and ▽ may be chance among so many tasks. p is corrected \
                                for their number (Holm).";

/// What the verdict is: hollow where it may be chance among so many tasks.
fn arrow(task: &TaskComparison) -> &'static str {
    let doubtful = task.p_holm.is_some_and(|p| p >= SIGNIFICANCE);
    match (task.verdict.as_str(), doubtful) {
        ("better", false) => "▲",
        ("better", true) => "△",
        ("worse", false) => "▼",
        ("worse", true) => "▽",
        _ => "=",
    }
}

/// A metric's name in words: `f1,line` is F1 of what the filter `line` left of an answer. What a measure calls its own number has
/// words already, and a space after its comma.
pub(crate) fn metric(name: &str) -> String {
    let words = |name: &str| name.replace('_', " ");
    match name.split_once(',') {
        Some((name, filter)) if !filter.starts_with(' ') => format!("{} ({} filter)", words(name), words(filter)),
        _ => words(name),
    }
}

/// The tasks whose answers are right or wrong, what the tuning was for first.
pub(crate) fn flipped(ledger: &Ledger) -> Vec<&TaskComparison> {
    let mut tasks: Vec<&TaskComparison> = ledger.asked().filter(|task| task.mcnemar_p.is_some()).collect();
    tasks.sort_by_key(|task| !task.is_target);
    tasks
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_those_of_metrics_and_words_stay_as_they_are() {
        assert_eq!(metric("exact_match,strict-match"), "exact match (strict-match filter)");
        assert_eq!(metric("same answer, cut short"), "same answer, cut short");
        assert_eq!(metric("each task's own, freed of chance"), "each task's own, freed of chance");
        assert_eq!(metric("acc_norm"), "acc norm");
    }
}
