//! What a comparison could have seen: the smallest change of each task that as many questions find, how large the change that was
//! found is, and how many questions would find that one.

use hone_eval::explain::comparison::smallest_detectable;
use hone_eval::ledger::{Ledger, TaskComparison};
use hone_eval::statistics::power::{USUAL, questions_needed};
use serde::Serialize;

use super::tasks::{number, signed};
use crate::charts::plot::Digits;
use crate::grid::NOTHING;
use crate::links::anchor;

/// What the table says, for people.
pub(crate) const EXPLAINED: &str = "With so many questions, so many of them answered differently, a change of this size would \
                                    have been seen in 4 of 5 such comparisons (McNemar's test at 0.05; Connor 1987). A smaller \
                                    one may be there and stay unseen: \"unchanged\" is \"not measurable\".";

/// What an effect size is, and how many questions a change needs.
pub(crate) const EFFECT: &str = "Effect: the change found as Cohen's h where answers are right or wrong, else as his d_z (the \
                                 change in standard deviations of a question's), with the sign of the change; 0.2 is small, 0.5 \
                                 medium, 0.8 large (Cohen 1988). Questions needed: so many would see the change found, by the \
                                 same test as often, if as large a share of answers changes; given where more are needed than \
                                 were asked.";

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
    /// Its effect size, with the letter of its kind.
    pub effect: String,
    /// The questions that would see it, where they are more than were asked.
    pub needed: String,
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
    let kind = if flips { "h" } else { "d_z" };
    let effect = task.effect.map(|effect| format!("{kind} {}", Digits(2).signed(effect)));
    Power {
        task: task.name.clone(),
        n: task.n,
        changed: if flips { format!("{changed:.1} %") } else { NOTHING.into() },
        smallest: smallest.map_or_else(|| "none: too few questions".into(), |value| format!("± {}", size(value))),
        found: if task.is_share { Digits(1).signed(100.0 * task.difference) } else { signed(task.difference) },
        effect: effect.unwrap_or_else(|| NOTHING.into()),
        needed: needed(task).map_or_else(|| NOTHING.into(), |questions| questions.to_string()),
        verdict: task.verdict.clone(),
        href: on_page.then(|| format!("#{}", anchor(&["examples", &task.name]))),
    }
}

/// The questions that would see the change that was found, as often as is usual; `None` where as many were asked, nothing changed
/// or nothing is right or wrong.
fn needed(task: &TaskComparison) -> Option<usize> {
    task.mcnemar_p?;
    // From the counts: the rounded difference of two scores may be a hair above the share of answers that changed.
    let share = |count: usize| count as f64 / task.n.max(1) as f64;
    let questions =
        questions_needed(share(task.gained.abs_diff(task.lost)), share(task.gained + task.lost), LEVEL, USUAL)?;
    (questions > task.n).then_some(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(n: usize, gained: usize, lost: usize) -> TaskComparison {
        let json = serde_json::json!({
            "name": "boolq", "metric": "acc", "higher_is_better": true, "is_share": true, "n": n, "base": 0.5, "tuned": 0.5,
            "difference": 0.0, "ci_low": null, "ci_high": null, "mcnemar_p": 0.5, "p_holm": null, "gained": gained,
            "lost": lost, "both_right": 0, "both_wrong": 0, "negative_flip_rate": 0.0, "positive_flip_rate": 0.0,
            "effect": -0.1234, "verdict": "unchanged", "is_target": false,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_questions_needed_are_those_that_were_not_asked() {
        // Chow, Shao & Wang (2008), example 2.5.6: 0.5 one way and 0.2 the other need 59 pairs.
        assert_eq!(needed(&task(10, 5, 2)), Some(59));
        assert_eq!(needed(&task(100, 50, 20)), None, "enough were asked");
        assert_eq!(needed(&task(100, 7, 7)), None, "no change needs no questions");
        assert!(needed(&task(49, 0, 3)).is_some_and(|questions| questions > 49), "all of one kind");
        assert_eq!(needed(&TaskComparison { mcnemar_p: None, ..task(10, 5, 2) }), None);
    }

    #[test]
    fn effects_have_the_letter_of_their_kind() {
        let shown = |task: &TaskComparison| of_task(task, false).effect;
        assert_eq!(shown(&task(10, 5, 2)), "h −0.12");
        assert_eq!(shown(&TaskComparison { mcnemar_p: None, ..task(10, 5, 2) }), "d_z −0.12");
        assert_eq!(shown(&TaskComparison { effect: None, ..task(10, 5, 2) }), NOTHING);
    }
}
