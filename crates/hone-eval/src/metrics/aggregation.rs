//! How examples make a task's score: most metrics are means, some are computed from numbers that each example keeps.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use super::bleu::{BleuCounts, Smoothing};
use super::chrf::ChrfCounts;
use super::ter::TerCounts;
use super::{best_of, calibration, choice};

/// How examples make a task's score. The names are the harness'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean of the scores.
    #[default]
    Mean,
    /// Mean of those scores that are numbers.
    #[serde(rename = "nanmean")]
    NanMean,
    /// The score in the middle; of an even number the upper one of the two.
    Median,
    /// Nothing is computed: 999, whatever the scores are.
    Bypass,
    /// `exp(-Σ a / Σ b)` over parts `[a, b]`: log-likelihood by document, word or byte. A text without length adds nothing to Σ b;
    /// where all are, as where one stands alone, Σ b counts as 1 (the harness divides by zero).
    WeightedPerplexity,
    /// `-(Σ a / Σ b) / ln 2` over parts `[a, b]`, as above.
    BitsPerByte,
    /// BLEU of the corpus over [`BleuCounts`], with NIST smoothing.
    Bleu,
    /// The same without smoothing, with `floor`, with `add-k`.
    BleuNone,
    /// See [`Aggregation::BleuNone`].
    BleuFloor,
    /// See [`Aggregation::BleuNone`].
    BleuAddK,
    /// chrF of the corpus over [`ChrfCounts`].
    Chrf,
    /// chrF++ of the corpus over [`ChrfCounts`] with words.
    #[serde(rename = "chrf++")]
    ChrfWords,
    /// Translation edit rate of the corpus over [`TerCounts`].
    Ter,
    /// F1 of class 1 over parts `[gold, predicted]`.
    F1,
    /// Matthews correlation over parts `[gold, predicted]`.
    MatthewsCorrcoef,
    /// Expected calibration error over parts `[confidence, correct]`.
    Ece {
        /// Bins of equal width.
        bins: u32,
    },
    /// The Ties score of RewardBench 2 over the parts of [`best_of::TieItem`].
    Ties,
}

/// What one example contributes to a metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExampleScore {
    /// Its own score.
    pub score: f64,
    /// What the task's score needs of it, where that is no mean of scores.
    pub parts: Vec<f64>,
}

impl ExampleScore {
    pub(super) fn plain(score: f64) -> ExampleScore {
        ExampleScore { score, parts: Vec::new() }
    }
}

impl Aggregation {
    /// The task's score over some examples. NaN over none.
    pub fn value<'a>(self, examples: impl Iterator<Item = &'a ExampleScore>) -> f64 {
        let part = |e: &ExampleScore, i: usize| e.parts.get(i).copied().unwrap_or(f64::NAN);
        match self {
            Aggregation::Mean => {
                let (sum, n) = examples.fold((0.0, 0usize), |(sum, n), e| (sum + e.score, n + 1));
                sum / n as f64
            }
            Aggregation::NanMean => {
                let numbers = examples.map(|example| example.score).filter(|score| !score.is_nan());
                let (sum, n) = numbers.fold((0.0, 0usize), |(sum, n), score| (sum + score, n + 1));
                sum / n as f64
            }
            Aggregation::Median => {
                let mut scores: Vec<f64> = examples.map(|example| example.score).collect();
                let middle = scores.len() / 2;
                match scores.is_empty() {
                    true => f64::NAN,
                    false => *scores.select_nth_unstable_by(middle, f64::total_cmp).1,
                }
            }
            Aggregation::Bypass => super::aggregated::BYPASS,
            Aggregation::WeightedPerplexity | Aggregation::BitsPerByte => {
                let none = (0.0, 0.0, 0usize);
                let (a, b, n) = examples.fold(none, |(a, b, n), e| (a + part(e, 0), b + part(e, 1), n + 1));
                let per = match (n, b == 0.0) {
                    (0, _) => f64::NAN,
                    (_, true) => 0.0 - a,
                    (_, false) => -a / b,
                };
                let value = if self == Aggregation::BitsPerByte { per / LN_2 } else { per.exp() };
                // What is beyond every number stays one: JSON has no infinity. `min` would make a number of NaN.
                if value > f64::MAX { f64::MAX } else { value }
            }
            Aggregation::Bleu | Aggregation::BleuNone | Aggregation::BleuFloor | Aggregation::BleuAddK => {
                let mut sum = BleuCounts::default();
                for example in examples {
                    match BleuCounts::from_numbers(&example.parts) {
                        Some(counts) => sum.add(&counts),
                        None => return f64::NAN,
                    }
                }
                sum.score(self.smoothing(), false)
            }
            Aggregation::Chrf | Aggregation::ChrfWords => {
                let mut sum = ChrfCounts::default();
                for example in examples {
                    match ChrfCounts::from_numbers(&example.parts) {
                        Some(counts) => sum.add(&counts),
                        None => return f64::NAN,
                    }
                }
                sum.score()
            }
            Aggregation::Ter => {
                let mut sum = TerCounts::default();
                for example in examples {
                    match TerCounts::from_numbers(&example.parts) {
                        Some(counts) => sum.add(&counts),
                        None => return f64::NAN,
                    }
                }
                sum.score()
            }
            Aggregation::F1 => choice::binary_f1(examples.map(|e| (part(e, 0) as i64, part(e, 1) as i64))),
            Aggregation::MatthewsCorrcoef => choice::matthews(examples.map(|e| (part(e, 0) as i64, part(e, 1) as i64))),
            Aggregation::Ties => {
                let items = examples.filter_map(|e| best_of::TieItem::from_parts(&e.parts));
                best_of::Ties::of_pairs(best_of::pairs(items).into_iter()).score()
            }
            Aggregation::Ece { bins } => {
                calibration::expected_calibration_error(examples.map(|e| (part(e, 0), part(e, 1))), bins)
            }
        }
    }

    /// What is drawn together where examples are resampled, by place: the items of a prompt in a set of ties. `None` where every
    /// example is drawn alone.
    pub fn units(self, examples: &[ExampleScore]) -> Option<Vec<Vec<usize>>> {
        if self != Aggregation::Ties {
            return None;
        }
        let items: Vec<best_of::TieItem> =
            examples.iter().map(|example| best_of::TieItem::from_parts(&example.parts)).collect::<Option<_>>()?;
        let mut prompts: Vec<Vec<usize>> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for (i, item) in items.iter().enumerate() {
            let at = *places.entry(item.group.to_bits()).or_insert(prompts.len());
            if at == prompts.len() {
                prompts.push(Vec::new());
            }
            prompts[at].push(i);
        }
        Some(prompts)
    }

    fn smoothing(self) -> Smoothing {
        match self {
            Aggregation::BleuNone => Smoothing::None,
            Aggregation::BleuFloor => Smoothing::Floor,
            Aggregation::BleuAddK => Smoothing::AddK,
            _ => Smoothing::Exp,
        }
    }
}
