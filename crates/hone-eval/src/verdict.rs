//! The verdict in words: what got better, what got worse, what did not measurably change, who should not ship, and how large a
//! loss may have gone unseen.

use crate::compare::SIGNIFICANCE;
use crate::explain::comparison::smallest_detectable;
use crate::ledger::{Ledger, Outcome, TaskComparison};

/// Level of a ledger's intervals.
const LEVEL: f64 = 0.95;

/// Most tasks without a measurable change that the sentence names.
const NAMED: usize = 4;

/// One sentence over all tasks, targets first.
pub fn in_words(tasks: &[TaskComparison]) -> String {
    let of = |verdict: &str| {
        let mut some: Vec<&TaskComparison> = tasks.iter().filter(|t| t.verdict == verdict).collect();
        some.sort_by_key(|t| !t.is_target);
        some
    };
    let (better, worse, unchanged) = (of("better"), of("worse"), of("unchanged"));
    let mut parts = Vec::new();
    let (missed, others): (Vec<&TaskComparison>, Vec<_>) = unchanged.iter().partition(|t| t.is_target);
    // What the tuning was for comes first, all the more where nothing came of it.
    if !missed.is_empty() {
        parts.push(format!("no measurable change on {}, which the tuning was for", names(&missed, "and")));
    }
    if !better.is_empty() {
        let gain = |t: &&TaskComparison| match t.is_share {
            true => format!("{} by {}{}", t.name, points(t), doubt(t)),
            false => format!("{}{}", from_to(t), doubt(t)),
        };
        parts.push(format!("better on {}", list(&better.iter().map(gain).collect::<Vec<_>>(), "and")));
    }
    let (lost_shares, other_losses): (Vec<&TaskComparison>, Vec<_>) = worse.iter().partition(|t| t.is_share);
    if !lost_shares.is_empty() {
        let losses: Vec<String> =
            lost_shares.iter().map(|t| format!("{} on {}{}", points(t), t.name, doubt(t))).collect();
        parts.push(format!("lost {}", list(&losses, "and")));
    }
    if !other_losses.is_empty() {
        let losses: Vec<String> = other_losses.iter().map(|t| format!("{}{}", from_to(t), doubt(t))).collect();
        parts.push(format!("worse on {}", list(&losses, "and")));
    }
    match others.len() {
        0 => {}
        few if few <= NAMED => parts.push(format!("no measurable change on {}", names(&others, "and"))),
        many => {
            let other = if parts.is_empty() { "" } else { "other " };
            parts.push(format!("no measurable change on {many} {other}tasks"));
        }
    }
    if !worse.is_empty() {
        parts.push(format!("do not ship if you need {}", names(&worse, "or")));
    }
    parts.join("; ")
}

/// Of a comparison that found no loss: which losses its questions could not have shown. `losses under about 12 points could go
/// unseen with these questions`, or of tasks that differ in it from the most to the least sensitive one. A loss of that size is
/// found in four of five such comparisons ([`crate::statistics::power`]), a smaller one less often.
///
/// The tasks are those that guard against losses: no targets, and not measurably better. `None` where something was measurably
/// lost, or where there is no such task whose score is a share.
pub fn unseen(ledger: &Ledger) -> Option<String> {
    if matches!(ledger.outcome, Outcome::Worse | Outcome::Mixed) {
        return None;
    }
    let guards = |task: &&TaskComparison| task.is_share && !task.is_target && task.verdict == "unchanged";
    let guards: Vec<&TaskComparison> = ledger.asked().filter(guards).collect();
    let (mut seen, mut blind): (Vec<(f64, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    for task in guards {
        match smallest_detectable(task, LEVEL) {
            Some(smallest) => seen.push((100.0 * smallest, &task.name)),
            // Nothing varies: there is no interval that says how much would have been seen.
            None if task.mcnemar_p.is_none() && task.n > 1 => {}
            None => blind.push(&task.name),
        }
    }
    seen.sort_by(|a, b| a.0.total_cmp(&b.0));
    let about = |points: f64| if points < 0.95 { format!("{points:.1}") } else { format!("{points:.0}") };
    let sizes = seen.first().zip(seen.last()).map(|(least, most)| match (about(least.0), about(most.0)) {
        (low, high) if low == high => format!("losses under about {low} points"),
        (low, high) => format!("losses under about {low} points ({}) to {high} ({})", least.1, most.1),
    });
    let none = match blind.as_slice() {
        [] => None,
        [one] => Some(format!("any loss on {one}")),
        [one, ..] => Some(format!("any loss on {} tasks such as {one}", blind.len())),
    };
    let parts: Vec<String> = sizes.into_iter().chain(none).collect();
    (!parts.is_empty()).then(|| format!("{} could go unseen with these questions", parts.join(" and ")))
}

/// `3.0 ± 1.2 points`: the size of a change in a share, with half its interval.
fn points(task: &TaskComparison) -> String {
    let half = (task.ci_high - task.ci_low) / 2.0;
    format!("{:.1} ± {:.1} points", task.difference.abs() * 100.0, half * 100.0)
}

/// `wikitext (word perplexity 31.2 to 33.9)`: a change in a metric that is no share.
fn from_to(task: &TaskComparison) -> String {
    let digits = if task.base.abs().max(task.tuned.abs()) >= 10.0 { 1 } else { 3 };
    format!("{} ({} {:.digits$} to {:.digits$})", task.name, task.metric.replace('_', " "), task.base, task.tuned)
}

/// A remark where the change alone is measurable but might be chance among so many tasks.
fn doubt(task: &TaskComparison) -> String {
    match task.p_holm {
        Some(p) if p >= SIGNIFICANCE => format!(" (may be chance among so many tasks: Holm's p = {p:.2})"),
        _ => String::new(),
    }
}

fn names(tasks: &[&TaskComparison], word: &str) -> String {
    list(&tasks.iter().map(|t| t.name.clone()).collect::<Vec<_>>(), word)
}

/// `a`, `a and b`, `a, b and c`.
fn list(items: &[String], word: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} {word} {last}", most.join(", ")),
    }
}
