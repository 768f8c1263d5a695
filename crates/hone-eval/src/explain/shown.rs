//! An example as it is shown: what was asked, what was compared, what it scored.

use super::{Example, WITHHELD, number};
use crate::metrics::choice::argmax;
use crate::scorecard::{ChoiceScore, Completion, ScorecardHeader, ScorecardRow};

/// Longest text shown, in characters: of a prompt the end, which is what was asked, else the beginning.
const LONGEST: usize = 600;

/// What may be shown of a card's texts.
#[derive(Clone, Copy)]
pub(super) struct Texts {
    withheld: bool,
}

impl Texts {
    /// Of a card, if the user did not ask for sensitive texts.
    pub(super) fn of(header: &ScorecardHeader, show_sensitive: bool) -> Texts {
        Texts { withheld: header.sensitive && !show_sensitive }
    }

    /// The beginning of a text.
    pub(super) fn head(self, text: &str) -> String {
        match text.char_indices().nth(LONGEST) {
            _ if self.withheld => WITHHELD.into(),
            Some((end, _)) => format!("{} […]", &text[..end]),
            None => text.into(),
        }
    }

    /// The end of a text.
    pub(super) fn tail(self, text: &str) -> String {
        let characters = text.chars().count();
        if self.withheld {
            return WITHHELD.into();
        }
        match text.char_indices().nth(characters.saturating_sub(LONGEST)) {
            Some((start, _)) if start > 0 => format!("[…] {}", &text[start..]),
            _ => text.into(),
        }
    }
}

/// A row of a card with what a metric (its name without a filter) compared in it.
pub(super) fn example(header: &ScorecardHeader, row: &ScorecardRow, metric: &str, texts: Texts) -> Example {
    let mut example = Example { id: row.id.clone(), ..Example::default() };
    if !row.prompt.is_empty() {
        example.fact("asked", texts.tail(&row.prompt));
    }
    if let Some(target) = &row.target_score {
        example.fact("target", texts.head(&row.target));
        let greedy = if target.is_greedy { "every token the most likely one" } else { "not what it would write" };
        let likely = format!("{}, {} tokens, {greedy}", number(target.log_likelihood), target.tokens);
        example.fact("log-likelihood", likely);
    } else {
        example.fact(of_target(header.target_is_to_avoid()), texts.head(&row.target));
    }
    if !row.rewards.is_empty() {
        example.fact("rewards", rewards(row, texts));
    } else if !row.choices.is_empty() {
        example.fact("choices", choices(row, metric, header.target_is_to_avoid(), texts));
    } else if row.target_score.is_none() {
        example.fact("written", texts.head(&row.answer));
        if let Some(scored) = row.scored.as_ref().filter(|scored| **scored != row.answer) {
            let by = if names_main(header, metric) { "compared" } else { "after the main metric's filters" };
            example.fact(by, texts.head(scored));
        }
    }
    example
}

/// What a target is: the right answer, or the one to avoid.
pub(super) fn of_target(is_to_avoid: bool) -> &'static str {
    if is_to_avoid { "to avoid" } else { "right" }
}

fn names_main(header: &ScorecardHeader, metric: &str) -> bool {
    super::names(metric, &header.main_metric)
}

/// A line a completion, the highest reward first.
fn rewards(row: &ScorecardRow, texts: Texts) -> String {
    let mut order: Vec<&Completion> = row.rewards.iter().collect();
    order.sort_by(|a, b| b.reward.total_cmp(&a.reward));
    let line = |completion: &Completion| {
        let mark = if completion.right { "  ← right" } else { "" };
        let reply =
            completion.reply.as_ref().map_or_else(String::new, |reply| format!(" (said {:?})", texts.head(reply)));
        format!("{:>10}{reply}  {}{mark}", number(completion.reward), texts.head(&completion.text))
    };
    order.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A line a choice, the one that counts as the answer first.
fn choices(row: &ScorecardRow, metric: &str, to_avoid: bool, texts: Texts) -> String {
    let values: Vec<f64> = row.choices.iter().map(|choice| by(metric, choice)).collect();
    let picked = argmax(values.iter().copied());
    let mut order: Vec<usize> = (0..values.len()).collect();
    // As `argmax` does: of equal values the first one, and what is no number highest.
    order.sort_by(|&a, &b| (!values[a].is_nan()).cmp(&!values[b].is_nan()).then(values[b].total_cmp(&values[a])));
    let line = |i: usize| {
        let choice = &row.choices[i];
        let per = match metric {
            "acc_norm" => format!(" ({} per character)", number(values[i])),
            "acc_bytes" => format!(" ({} per byte)", number(values[i])),
            _ => String::new(),
        };
        let mut marks = Vec::new();
        if metric != "acc_mutual_info" && picked == Some(i) {
            marks.push("picked");
        }
        if is_right(row, choice) {
            marks.push(of_target(to_avoid));
        }
        let marks = if marks.is_empty() { String::new() } else { format!("  ← {}", marks.join(", ")) };
        format!("{:>10}{per}  {}{marks}", number(choice.log_likelihood), texts.head(&choice.text))
    };
    let lines: Vec<String> = order.into_iter().map(line).collect();
    lines.join("\n")
}

/// What a metric ranks a choice by. What the question adds to a choice (`acc_mutual_info`) is not in a scorecard, so those stand
/// by log-likelihood.
fn by(metric: &str, choice: &ChoiceScore) -> f64 {
    match metric {
        "acc_norm" => choice.log_likelihood / choice.text.chars().count() as f64,
        "acc_bytes" => choice.log_likelihood / choice.text.len() as f64,
        _ => choice.log_likelihood,
    }
}

/// Whether a choice is right, by its text: several right ones stand side by side in `target`.
fn is_right(row: &ScorecardRow, choice: &ChoiceScore) -> bool {
    row.target == choice.text || row.target.split(" | ").any(|target| target == choice.text)
}

/// How sure the call was: the log-likelihood of the best choice over that of the next; 0 without two choices. Used to order
/// examples that count alike.
pub(super) fn margin(row: &ScorecardRow, metric: &str) -> f64 {
    let mut values: Vec<f64> = row.choices.iter().map(|choice| by(metric, choice)).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    match values.as_slice() {
        [first, second, ..] if (first - second).is_finite() => first - second,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(choices: &[(&str, f64)], target: &str) -> ScorecardRow {
        let choice = |(text, log_likelihood): &(&str, f64)| ChoiceScore {
            text: (*text).into(),
            log_likelihood: *log_likelihood,
            tokens: 1,
            is_greedy: false,
        };
        ScorecardRow {
            id: "7".into(),
            prompt: "Which?".into(),
            target: target.into(),
            choices: choices.iter().map(choice).collect(),
            ..ScorecardRow::default()
        }
    }

    #[test]
    fn choices_stand_in_the_order_that_decided() {
        let header = ScorecardHeader { main_metric: "acc".into(), ..ScorecardHeader::default() };
        let row = row(&[("yes", -6.0), ("not at all", -8.0)], "not at all");
        let shown = |metric: &str| {
            let example = example(&header, &row, metric, Texts::of(&header, false));
            example.facts.last().map(|fact| fact.value.clone()).unwrap_or_default()
        };
        assert_eq!(shown("acc"), "        −6  yes  ← picked\n        −8  not at all  ← right");
        let by_character = shown("acc_norm");
        let first = by_character.lines().next().unwrap_or_default();
        assert_eq!(first, "        −8 (−0.8000 per character)  not at all  ← picked, right");
        assert_eq!((margin(&row, "acc"), margin(&row, "acc_norm")), (2.0, 1.2));
    }

    #[test]
    fn sensitive_texts_are_withheld_unless_asked_for() {
        let header = ScorecardHeader { sensitive: true, ..ScorecardHeader::default() };
        let row = row(&[("a secret", -1.0)], "a secret");
        let texts = |show| {
            let facts = example(&header, &row, "acc", Texts::of(&header, show)).facts;
            facts.into_iter().map(|fact| fact.value).collect::<String>()
        };
        assert!(!texts(false).contains("secret") && !texts(false).contains("Which?") && texts(true).contains("secret"));
    }

    #[test]
    fn long_texts_are_cut_where_it_matters_least() {
        let texts = Texts { withheld: false };
        let long = format!("{}é end", "x".repeat(700));
        assert!(texts.head(&long).starts_with("xxx") && texts.head(&long).ends_with("[…]"));
        assert!(texts.tail(&long).starts_with("[…] x") && texts.tail(&long).ends_with("é end"));
        assert_eq!((texts.head("short"), texts.tail("")), ("short".into(), String::new()));
    }
}
