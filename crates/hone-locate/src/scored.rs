//! Turns of a data file with their scores of context-dependency, by one model or by two, and how the two differ: what
//! `dependency.json` holds. How a score is made: [`crate::dependency`].
//!
//! ```text
//! change of a turn = score after − score before         the same turn, layer, and form of the prompt
//! mean change      = mean over turns, with an interval from resampling rows: the turns of one row are drawn together
//! fell, rose       = change < −moved, change > moved     `moved`: the smallest amount that is called a move
//! ```
//!
//! What it does not know: whether a head took over from another. A score is that of the head that has most, so the two sides of a
//! turn may be those of two heads; [`ScoredTurn::same_head`] says of which turns they are not.

use std::collections::BTreeMap;

use hone_eval::statistics::clusters::of_units;
use hone_eval::statistics::{BootstrapOptions, Estimate, mean};
use serde::{Deserialize, Serialize};

use crate::attention::Subject;
use crate::conversation::Conversation;
use crate::dependency::TurnScore;
use crate::prompt::Form;

/// The file's name.
pub const FILE: &str = "dependency.json";
/// A change that is called a move, where the user does not say.
pub const MOVED: f64 = 0.05;
/// Resamples of an interval.
pub const RESAMPLES: usize = 2000;
/// Longest piece of a text that is kept, in characters.
const KEPT: usize = 160;

/// What `dependency.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DependencyReport {
    /// The data file.
    pub source: String,
    /// With or without the chat template.
    pub form: Form,
    /// The layer whose heads were looked at.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// A change by more than this is a move.
    pub moved: f64,
    /// What the groups of turns are named by: a column of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The model.
    pub subject: Subject,
    /// The other version of it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Subject>,
    /// Turns that were not scored, by one model or the other: without words, or cut off.
    pub left_out: usize,
    /// The turns, in the order of the file.
    pub turns: Vec<ScoredTurn>,
}

/// A turn with its scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredTurn {
    /// The row's number from 1, with the turn's number in it where the row has several (`12.2`).
    pub id: String,
    /// The row it is in.
    pub row: String,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The end of what the user said last.
    pub user: String,
    /// The beginning of the answer.
    pub answer: String,
    /// The model's score.
    pub after: TurnScore,
    /// The other version's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<TurnScore>,
    /// What the context is worth to the model, in nats a token, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain_after: Option<f64>,
    /// What it is worth to the other version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain_before: Option<f64>,
}

impl ScoredTurn {
    /// Score after minus score before.
    pub fn change(&self) -> Option<f64> {
        Some(self.after.score - self.before?.score)
    }

    /// Whether the same head has most on both sides.
    pub fn same_head(&self) -> Option<bool> {
        Some(self.after.head == self.before?.head)
    }

    /// Gain after minus gain before.
    pub fn gain_change(&self) -> Option<f64> {
        Some(self.gain_after? - self.gain_before?)
    }
}

/// What a version of the model says of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowScores {
    /// The scores of its turns; nothing of a turn that was not scored.
    pub turns: Vec<Option<TurnScore>>,
    /// What the context is worth to its last answer, where that is known.
    pub gain: Option<f64>,
}

/// A row's turns that were scored by all versions there are, and how many were not.
pub fn turns(
    conversation: &Conversation,
    group: Option<&str>,
    after: &RowScores,
    before: Option<&RowScores>,
) -> (Vec<ScoredTurn>, usize) {
    let messages = &conversation.messages;
    let answers: Vec<usize> = (0..messages.len()).filter(|&at| messages[at].role == "assistant").collect();
    let mut scored = Vec::new();
    for (k, (&at, score)) in answers.iter().zip(&after.turns).enumerate() {
        let other = before.map(|before| before.turns.get(k).copied().flatten());
        let (Some(score), true) = (*score, other.is_none_or(|other| other.is_some())) else { continue };
        let user = messages[..at].iter().rfind(|message| message.role == "user");
        let is_last = k + 1 == answers.len();
        scored.push(ScoredTurn {
            id: if answers.len() > 1 { format!("{}.{}", conversation.id, k + 1) } else { conversation.id.clone() },
            row: conversation.id.clone(),
            group: group.map(str::to_owned),
            user: user.map_or_else(String::new, |message| tail(&message.content)),
            answer: head(&messages[at].content),
            after: score,
            before: other.flatten(),
            gain_after: after.gain.filter(|_| is_last),
            gain_before: before.and_then(|before| before.gain).filter(|_| is_last),
        });
    }
    let left_out = answers.len() - scored.len();
    (scored, left_out)
}

/// How the scores of two versions of a model differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Turns that both scored.
    pub turns: usize,
    /// Their mean score before.
    pub before: f64,
    /// Mean change.
    pub change: Estimate,
    /// Share of turns whose score fell by more than [`DependencyReport::moved`].
    pub fell: f64,
    /// Share of turns whose score rose by more.
    pub rose: f64,
}

/// A number of a turn, where it has one.
pub type OfTurn<'f> = &'f (dyn Fn(&ScoredTurn) -> Option<f64> + Sync);

impl DependencyReport {
    /// The mean of a number over some turns (places in [`DependencyReport::turns`]) that have it; those of one row are drawn
    /// together. Nothing where no turn has it.
    pub fn mean(&self, turns: &[usize], of: OfTurn<'_>, options: &BootstrapOptions) -> Option<Estimate> {
        let mut values = Vec::new();
        let mut units: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for turn in turns.iter().map(|&at| &self.turns[at]) {
            if let Some(value) = of(turn) {
                units.entry(&turn.row).or_default().push(values.len());
                values.push(value);
            }
        }
        if values.is_empty() {
            return None;
        }
        let units: Vec<Vec<usize>> = units.into_values().collect();
        let drawn = |at: &[usize]| at.iter().map(|&i| values[i]).sum::<f64>() / at.len() as f64;
        let interval = of_units(&units, options, &drawn);
        Some(Estimate { value: mean(&values), low: interval.low, high: interval.high })
    }

    /// How many of all turns have a property, and of how many it is known.
    pub fn count(&self, has: impl Fn(&ScoredTurn) -> Option<bool>) -> (usize, usize) {
        let known: Vec<bool> = self.turns.iter().filter_map(has).collect();
        (known.iter().filter(|has| **has).count(), known.len())
    }

    /// Whether a turn's score fell by more than [`DependencyReport::moved`].
    pub fn fell(&self, turn: &ScoredTurn) -> Option<bool> {
        turn.change().map(|change| change < -self.moved)
    }

    /// Whether a turn's score rose by more than [`DependencyReport::moved`].
    pub fn rose(&self, turn: &ScoredTurn) -> Option<bool> {
        turn.change().map(|change| change > self.moved)
    }

    /// How the two versions' scores differ; nothing where there is one version, or no turn.
    pub fn change(&self, options: &BootstrapOptions) -> Option<Change> {
        let all: Vec<usize> = (0..self.turns.len()).collect();
        let change = self.mean(&all, &ScoredTurn::change, options)?;
        let before: Vec<f64> = self.turns.iter().filter_map(|turn| Some(turn.before?.score)).collect();
        let share = |(count, of): (usize, usize)| count as f64 / of as f64;
        Some(Change {
            turns: before.len(),
            before: mean(&before),
            change,
            fell: share(self.count(|turn| self.fell(turn))),
            rose: share(self.count(|turn| self.rose(turn))),
        })
    }
}

/// The end of a text, which is what was asked.
fn tail(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(KEPT);
    let rest: String = text.chars().skip(skipped).collect();
    if skipped > 0 { format!("[…] {rest}") } else { rest }
}

/// The beginning of a text.
fn head(text: &str) -> String {
    let first: String = text.chars().take(KEPT).collect();
    if first.len() < text.len() { format!("{first} […]") } else { first }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Turns of one row each, or of the rows named, with scores before and after; groups `a` and `b` in turn.
    pub(crate) fn report(scores: &[(&str, Option<f64>, f64)]) -> DependencyReport {
        let score = |score: f64| TurnScore { score, max_first: score, head: (score * 10.0) as usize, tokens: 4 };
        let turn = |(i, (row, before, after)): (usize, &(&str, Option<f64>, f64))| ScoredTurn {
            id: format!("{row}.{i}"),
            row: (*row).into(),
            group: Some(if i % 2 == 0 { "a" } else { "b" }.into()),
            user: "Who?".into(),
            answer: "Ann.".into(),
            after: score(*after),
            before: before.map(score),
            gain_after: None,
            gain_before: None,
        };
        let subject = |model: &str| Subject { model: model.into(), ..Subject::default() };
        DependencyReport {
            source: "data/train.jsonl".into(),
            form: Form::Chat,
            layer: 15,
            layers: 30,
            moved: MOVED,
            group: Some("kind".into()),
            subject: subject("new"),
            before: scores.iter().any(|(_, before, _)| before.is_some()).then(|| subject("old")),
            left_out: 1,
            turns: scores.iter().enumerate().map(turn).collect(),
        }
    }

    #[test]
    fn a_move_is_more_than_the_amount_and_pairs_are_resampled_as_pairs() {
        let report = report(&[
            ("1", Some(0.5), 0.46),
            ("2", Some(0.9), 0.5),
            ("3", Some(0.1), 0.25),
            ("4", Some(0.3), 0.2),
            ("5", Some(0.7), 0.7),
        ]);
        let options = BootstrapOptions { resamples: 500, ..BootstrapOptions::default() };
        let change = report.change(&options).unwrap();
        assert!((change.change.value + 0.078).abs() < 1e-12 && (change.before - 0.5).abs() < 1e-12, "{change:?}");
        assert_eq!((change.turns, change.fell, change.rose), (5, 0.4, 0.2), "by 0.04 is no move");
        assert!(change.change.low < -0.1 && change.change.high > 0.0, "{change:?}");
        // A change that is the same everywhere does not vary, however much the scores do.
        let even = self::report(&[("1", Some(0.1), 0.35), ("2", Some(0.5), 0.75), ("3", Some(0.25), 0.5)]);
        let change = even.change(&options).unwrap().change;
        assert!((change.low - 0.25).abs() < 1e-12 && (change.high - 0.25).abs() < 1e-12, "{change:?}");
        assert_eq!(self::report(&[("1", None, 0.2)]).change(&options), None);
    }

    #[test]
    fn turns_of_one_row_are_drawn_together() {
        let options = BootstrapOptions { resamples: 2000, ..BootstrapOptions::default() };
        let scores = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7];
        let width = |rows: &[&str]| {
            let all: Vec<_> = scores.iter().zip(rows).map(|(score, row)| (*row, None, *score)).collect();
            let places: Vec<usize> = (0..all.len()).collect();
            let found = report(&all).mean(&places, &|turn| Some(turn.after.score), &options).unwrap();
            assert!((found.value - 0.5).abs() < 1e-12);
            found.high - found.low
        };
        // Each row's mean is 0.5: which rows are drawn changes nothing.
        assert!(width(&["1", "1", "2", "2", "3", "3"]) < 1e-12);
        assert!(width(&["1", "2", "3", "4", "5", "6"]) > 0.3);
    }

    #[test]
    fn turns_are_those_that_both_versions_scored() {
        let says = |role: &str, text: &str| crate::prompt::message(role, text);
        let mut talk = Conversation {
            id: "7".into(),
            row: serde_json::Map::new(),
            messages: vec![
                says("system", "Be short."),
                says("user", "Who?"),
                says("assistant", "Ann."),
                says("user", "When?"),
                says("assistant", "In May."),
            ],
        };
        let score = |score: f64| Some(TurnScore { score, max_first: score, head: 0, tokens: 2 });
        let after = RowScores { turns: vec![score(0.25), score(0.5)], gain: Some(1.5) };
        let before = RowScores { turns: vec![None, score(0.75)], gain: Some(2.0) };
        let (both, left_out) = turns(&talk, Some("x"), &after, Some(&before));
        assert_eq!((both.len(), left_out), (1, 1));
        let turn = &both[0];
        assert_eq!((turn.id.as_str(), turn.row.as_str(), turn.group.as_deref()), ("7.2", "7", Some("x")));
        assert_eq!((turn.user.as_str(), turn.answer.as_str()), ("When?", "In May."));
        assert_eq!((turn.change(), turn.gain_change(), turn.same_head()), (Some(-0.25), Some(-0.5), Some(true)));
        let (alone, left_out) = turns(&talk, None, &after, None);
        assert_eq!((alone.len(), left_out, alone[0].gain_after, alone[1].gain_after), (2, 0, None, Some(1.5)));
        assert_eq!((alone[0].id.as_str(), alone[0].change()), ("7.1", None));
        // A single turn bears the row's number.
        talk.messages.truncate(3);
        let one = RowScores { turns: vec![score(0.25)], gain: None };
        assert_eq!(turns(&talk, None, &one, None).0[0].id, "7");
    }

    #[test]
    fn texts_are_cut_at_letters() {
        let long = "ä".repeat(KEPT + 1);
        assert_eq!((tail("Who?").as_str(), head("Ann.").as_str()), ("Who?", "Ann."));
        assert_eq!(tail(&long), format!("[…] {}", "ä".repeat(KEPT)));
        assert_eq!(head(&long), format!("{} […]", "ä".repeat(KEPT)));
    }
}
