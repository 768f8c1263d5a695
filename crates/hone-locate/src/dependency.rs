//! How much an answer depends on what the user gave: a score of training examples (Wang, Bai, Peng & Hsieh 2025, "On the Loss
//! of Context-awareness in General Instruction Fine-tuning", arXiv 2411.02688).
//!
//! For the `m`-th turn `Y_m` of the assistant, with the user's words `X_1 … X_m` before it and the attention `A_h` of head `h`
//! in one layer of a small chat-tuned model:
//!
//! ```text
//! score     = max_h  1/|Y_m| Σ_{y in Y_m} Σ_{x in X_1 … X_m} A_h(y, x)      the paper's text
//! max_first = 1/|Y_m| Σ_{y in Y_m} max_h Σ_{x in X_1 … X_m} A_h(y, x)       the authors' code; never less
//! gain      = (ln p(Y | context, question) − ln p(Y | question)) / |Y|      ours: nats a token, what the context tells
//! ```
//!
//! The layer is the middle one, `⌊layers / 2⌋`, unless said otherwise (the paper takes index 15 of TinyLlama's 22). Queries are
//! the answer's own words, so row `y` looks after it was written. What counts as words: [`crate::prompt`].
//!
//! The score is a share of attention and no cause: a head may look at words that decide nothing, and how much goes to the
//! first token differs by model, so a threshold goes with a model. `gain` is measured by leaving the context out, and knows
//! nothing of attention.

use hone_eval::requests::{Encoder, Request};
use hone_eval::statistics::correlation::ranks;
use hone_eval::statistics::{BootstrapOptions, Estimate, groups, mean};
use serde::{Deserialize, Serialize};

use crate::conversation::{Conversation, spoken};
use crate::error::LocateError;
use crate::look::{Looker, positions};
use crate::prompt::Form;
use crate::question::Question;

/// Longest sequence the authors score, in tokens.
pub const LONGEST: usize = 2047;

/// The score of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnScore {
    /// The largest head's mean over the turn's tokens, 0 to 1.
    pub score: f64,
    /// The mean over the turn's tokens of the largest head's share at each.
    pub max_first: f64,
    /// The head that has `score`; the first of several.
    pub head: usize,
    /// Tokens of the turn.
    pub tokens: usize,
}

/// The score from what each token of a turn gives to the user's words: one list a token, one share a head. `None` of a turn
/// without tokens.
pub fn turn_score(shares: &[Vec<f64>]) -> Option<TurnScore> {
    let heads = shares.first()?.len();
    let tokens = shares.len() as f64;
    let of_head = |head: usize| shares.iter().map(|token| token[head]).sum::<f64>() / tokens;
    let (mut head, mut score) = (0, 0.0);
    for candidate in 0..heads {
        let own = of_head(candidate);
        if own > score {
            (head, score) = (candidate, own);
        }
    }
    let largest = |token: &Vec<f64>| token.iter().copied().fold(0.0, f64::max);
    let max_first = shares.iter().map(largest).sum::<f64>() / tokens;
    Some(TurnScore { score, max_first, head, tokens: shares.len() })
}

/// The scores of a conversation's turns; `None` for turns without words, and for those that end behind `longest` tokens.
///
/// # Errors
/// Conversations that the model's template does not take, and what the scorer refuses.
pub fn scores(
    looker: &Looker<'_>,
    encoder: &Encoder<'_>,
    conversation: &Conversation,
    form: Form,
    layer: usize,
    longest: usize,
) -> Result<Vec<Option<TurnScore>>, LocateError> {
    let longest = longest.min(encoder.max_length());
    let spoken = spoken(conversation, form, looker.model(), encoder, longest)?;
    let rows: Vec<usize> = spoken.turns.concat();
    if rows.is_empty() {
        return Ok(vec![None; spoken.turns.len()]);
    }
    let user = positions(spoken.user);
    let request = Request { input: spoken.ids, targets: vec![looker.closing_id()], truncated: false, edit_group: None };
    let (_, masses) = looker.look(request, rows, vec![user], layer..layer + 1)?;
    let mut first = 0;
    let of_turn = |turn: &Vec<usize>| {
        let rows = first..first + turn.len();
        first = rows.end;
        let shares: Vec<Vec<f64>> =
            rows.map(|row| (0..masses.heads).map(|head| masses.at(row, 0, head, 0)).collect()).collect();
        turn_score(&shares)
    };
    Ok(spoken.turns.iter().map(of_turn).collect())
}

/// What the context tells about the answer, in nats a token of it; `None` for a question without one (or that is not known by
/// itself), and where prompt and answer are longer than the model reads.
pub fn gain(
    looker: &Looker<'_>,
    encoder: &Encoder<'_>,
    question: &Question,
    form: Form,
) -> Result<Option<f64>, LocateError> {
    let Some(alone) = question.alone.as_deref().filter(|_| !question.context.is_empty()) else { return Ok(None) };
    let write = |user: &str| -> Result<String, LocateError> {
        Ok(match form {
            Form::Plain => user.to_owned(),
            Form::Chat => looker.model().render_chat(&[crate::prompt::message("user", user)], true)?,
        })
    };
    let continuation = match form {
        Form::Plain => format!("{}{}", question.delimiter, question.answer),
        Form::Chat => question.answer.clone(),
    };
    let mut groups = Vec::new();
    for user in [question.user.as_str(), alone] {
        let request = encoder
            .request(&write(user)?, &continuation)?
            .map_err(|problem| LocateError::Row { place: format!("row {}", question.id), problem })?;
        if request.truncated {
            return Ok(None);
        }
        groups.push(vec![request]);
    }
    let scored = looker.scorer.score(&groups, &mut |_| Ok(()))?;
    let [with, without] = scored.as_slice() else { return Ok(None) };
    let sum = |group: &[hone_eval::scorer::Scored]| group.iter().map(|s| s.log_likelihood()).sum::<f64>();
    let tokens = with.iter().map(|s| s.log_probs.len()).sum::<usize>();
    Ok(Some((sum(with) - sum(without)) / tokens as f64))
}

/// How well a score tells examples with a context from those without: the area under the ROC curve (Mann & Whitney 1947), with
/// an interval from resampling both kinds. 1: every example with a context scores higher; 0.5: chance. `None` unless both
/// kinds are there.
pub fn separation(with: &[f64], without: &[f64], options: &BootstrapOptions) -> Option<Estimate> {
    if with.is_empty() || without.is_empty() {
        return None;
    }
    let area = |a: &[f64], b: &[f64]| {
        let ranks = ranks(&[a, b].concat());
        let (n, m) = (a.len() as f64, b.len() as f64);
        (ranks[..a.len()].iter().sum::<f64>() - n * (n + 1.0) / 2.0) / (n * m)
    };
    let pick = |values: &[f64], indices: &[usize]| indices.iter().map(|&i| values[i]).collect::<Vec<f64>>();
    let resampled = |drawn: &[Vec<usize>]| area(&pick(with, &drawn[0]), &pick(without, &drawn[1]));
    let interval = groups::interval(&[with.len(), without.len()], options, &resampled);
    Some(Estimate { value: area(with, without), low: interval.low, high: interval.high })
}

/// What the scores of many examples come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Turns that were scored.
    pub turns: usize,
    /// Turns that were not: without words, or cut off.
    pub left_out: usize,
    /// Mean score.
    pub mean: f64,
    /// Share of turns above each threshold, strictly.
    pub above: Vec<Share>,
    /// How well the score tells examples with a context from those without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separation: Option<Estimate>,
    /// Mean gain of the examples with a context, in nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_gain: Option<f64>,
}

/// Share of turns above a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The threshold.
    pub threshold: f64,
    /// The share.
    pub share: f64,
}

/// The thresholds the paper tries.
const THRESHOLDS: [f64; 4] = [0.5, 0.6, 0.7, 0.8];

impl Summary {
    /// Of turns' scores; `contexts` says of each whether its example has a context, where that is known.
    pub fn new(scores: &[Option<TurnScore>], contexts: &[Option<bool>], gains: &[f64]) -> Summary {
        let scored: Vec<f64> = scores.iter().flatten().map(|turn| turn.score).collect();
        let share = |threshold: f64| {
            let above = scored.iter().filter(|score| **score > threshold).count();
            Share { threshold, share: above as f64 / scored.len().max(1) as f64 }
        };
        let of_kind = |kind: bool| -> Vec<f64> {
            let both = scores.iter().zip(contexts).filter(|(_, context)| **context == Some(kind));
            both.filter_map(|(turn, _)| Some(turn.as_ref()?.score)).collect()
        };
        let options = BootstrapOptions { resamples: 2000, ..BootstrapOptions::default() };
        Summary {
            turns: scored.len(),
            left_out: scores.len() - scored.len(),
            mean: if scored.is_empty() { 0.0 } else { mean(&scored) },
            above: THRESHOLDS.map(share).to_vec(),
            separation: separation(&of_kind(true), &of_kind(false), &options),
            mean_gain: (!gains.is_empty()).then(|| mean(gains)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_mean_and_maximum_matters() {
        // Two tokens, two heads that take turns: each head's mean is 0.5, each token's largest share 0.9.
        let turn = turn_score(&[vec![0.9, 0.1], vec![0.1, 0.9]]).unwrap();
        assert!((turn.score - 0.5).abs() < 1e-12 && (turn.max_first - 0.9).abs() < 1e-12);
        assert_eq!((turn.head, turn.tokens), (0, 2));
        // With one head there is no order.
        let single = turn_score(&[vec![0.2], vec![0.6]]).unwrap();
        assert_eq!(single.score, single.max_first);
        // Nothing of the user before the turn.
        let nothing = turn_score(&[vec![0.0, 0.0]]).unwrap();
        assert_eq!((nothing.score, nothing.max_first), (0.0, 0.0));
        assert_eq!(turn_score(&[]), None);
    }

    #[test]
    fn separation_is_the_share_of_pairs_in_order() {
        // Of six pairs four are in order and one is equal.
        let options = BootstrapOptions { resamples: 500, ..BootstrapOptions::default() };
        let found = separation(&[0.9, 0.4, 0.5], &[0.5, 0.1], &options).unwrap();
        assert!((found.value - 0.75).abs() < 1e-12, "{found:?}");
        assert!(found.low <= found.value && found.value <= found.high, "{found:?}");
        assert_eq!(separation(&[0.9], &[], &options), None);
        let clear = separation(&[0.8, 0.9], &[0.1, 0.2], &options).unwrap();
        assert_eq!((clear.value, clear.low, clear.high), (1.0, 1.0, 1.0));
    }

    #[test]
    fn thresholds_are_strict() {
        let turn = |score| Some(TurnScore { score, max_first: score, head: 0, tokens: 1 });
        let scores = [turn(0.6), turn(0.7), None, turn(0.2)];
        let summary = Summary::new(&scores, &[Some(true), Some(true), Some(false), Some(false)], &[1.0, 2.0]);
        assert_eq!((summary.turns, summary.left_out, summary.mean_gain), (3, 1, Some(1.5)));
        let shares: Vec<f64> = summary.above.iter().map(|s| (s.share * 3.0).round()).collect();
        assert_eq!(shares, [2.0, 1.0, 0.0, 0.0]);
        assert_eq!(summary.separation.unwrap().value, 1.0);
    }
}
