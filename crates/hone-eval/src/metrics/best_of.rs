//! Whether the right completions get the highest scores: best-of-n, and sets with several right ones.
//!
//! RewardBench 2 (Malik et al. 2025, arXiv 2506.01937). An item has completions with scores `s`, some of them right.
//!
//! **Best of n** (rule A of the paper, one right completion):
//!
//! ```text
//! score = 1/#{j : s_j = max s} if a right completion attains the maximum, else 0
//! ```
//!
//! so that a scorer that says the same of everything gets 1/n, not all or nothing by the order of the file.
//!
//! **Ties** (rule B): items come in pairs of one prompt, `ref` with one right completion and `tied` with several. Of an item,
//! `best` and `worst` are the highest and lowest score of its right completions, `bad` the highest of its wrong ones,
//! `accurate = worst > bad`, `diff = best − worst`, `ci = worst − bad`. Over the prompts that have both:
//!
//! ```text
//! p      = share with ci_tied > diff_tied
//! p_hard = share with min(ci_ref, ci_tied) > diff_tied
//! g      = mean of tanh(min(ci_ref, ci_tied) / diff_tied − 1), 0 where that is no number
//! Ties   = 0.30 accurate_tied + 0.30 accurate_ref + 0.20 p + 0.20 p_hard + 0.01 g
//! ```
//!
//! The idea: right and wrong answers have to lie further apart than the right ones among themselves. It is a number of the set,
//! not of an item: about −0.01 to 1.01.
//!
//! What it does not know: whether scores that are equal in 16 bits would be so in 32.

use sha2::{Digest, Sha256};

use super::aggregation::ExampleScore;
use super::choice::ChoiceOutcome;

/// The metric's name.
pub const NAME: &str = "best_of";
/// Its option: `best` (the default) or `ties`.
pub const OPTION: &str = "rule";

/// Rule A: the share of the highest scores that are right.
pub fn best_of(scores: &[f64], right: &[usize]) -> f64 {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let at_top: Vec<usize> = (0..scores.len()).filter(|&i| scores[i] == highest).collect();
    match at_top.iter().any(|i| right.contains(i)) {
        // One of them is taken by chance; with one right completion this is the paper's 1/#ties.
        true => at_top.iter().filter(|i| right.contains(i)).count() as f64 / at_top.len() as f64,
        false => 0.0,
    }
}

/// What rule B needs of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TieItem {
    /// Right completions.
    pub right: usize,
    /// Highest score of them.
    pub best: f64,
    /// Lowest score of them.
    pub worst: f64,
    /// Highest score of the wrong ones.
    pub bad: f64,
    /// Which prompt it belongs to.
    pub group: f64,
}

impl TieItem {
    /// Of an item's scores. `None` where all or none of the completions are right.
    pub fn new(scores: &[f64], right: &[usize], group: &str) -> Option<TieItem> {
        let (own, others): (Vec<usize>, Vec<usize>) = (0..scores.len()).partition(|i| right.contains(i));
        let of =
            |which: &[usize], start: f64, pick: fn(f64, f64) -> f64| which.iter().map(|&i| scores[i]).fold(start, pick);
        (!own.is_empty() && !others.is_empty()).then(|| TieItem {
            right: own.len(),
            best: of(&own, f64::NEG_INFINITY, f64::max),
            worst: of(&own, f64::INFINITY, f64::min),
            bad: of(&others, f64::NEG_INFINITY, f64::max),
            group: number_of(group),
        })
    }

    /// Whether every right completion stands above every wrong one.
    pub fn is_accurate(&self) -> bool {
        self.worst > self.bad
    }

    /// How far right and wrong lie apart.
    pub fn margin(&self) -> f64 {
        self.worst - self.bad
    }

    /// How far the right ones lie apart.
    pub fn spread(&self) -> f64 {
        self.best - self.worst
    }

    /// The numbers a scorecard keeps.
    fn to_parts(self) -> Vec<f64> {
        vec![self.right as f64, self.best, self.worst, self.bad, self.group]
    }

    /// From [`ExampleScore::parts`].
    pub fn from_parts(parts: &[f64]) -> Option<TieItem> {
        let &[right, best, worst, bad, group] = parts else { return None };
        Some(TieItem { right: right as usize, best, worst, bad, group })
    }
}

/// A name as a number that `f64` holds exactly: 52 bits of its hash.
fn number_of(group: &str) -> f64 {
    let hash = Sha256::digest(group);
    let bits = hash[..8].iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    (bits >> 12) as f64
}

/// What an item contributes under rule B.
pub fn tie_score(outcome: &ChoiceOutcome<'_>) -> ExampleScore {
    match TieItem::new(outcome.log_likelihoods, &outcome.gold.indices, outcome.group.unwrap_or_default()) {
        Some(item) => ExampleScore { score: f64::from(item.is_accurate()), parts: item.to_parts() },
        None => ExampleScore { score: f64::NAN, parts: Vec::new() },
    }
}

/// The numbers of rule B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ties {
    /// Prompts with both items.
    pub prompts: usize,
    /// Share of `ref` items whose right completion stands above all wrong ones.
    pub accurate_ref: f64,
    /// The same of `tied` items.
    pub accurate_tied: f64,
    /// Share of prompts whose margin is over their spread.
    pub over_spread: f64,
    /// The same with the smaller margin of both items.
    pub over_spread_hard: f64,
    /// The smooth version of it.
    pub smooth: f64,
}

impl Ties {
    /// Over pairs of items `(ref, tied)`, one a prompt. Every number is NaN over none.
    pub fn of_pairs(pairs: impl Iterator<Item = (TieItem, TieItem)>) -> Ties {
        let (mut n, mut sums) = (0usize, [0.0; 5]);
        for (single, tied) in pairs {
            let (spread, smaller) = (tied.spread(), single.margin().min(tied.margin()));
            // 0/0 is no number and counts nothing; anything else over nothing is beyond every bound.
            let smooth = (smaller / spread - 1.0).tanh();
            let own = [
                f64::from(single.is_accurate()),
                f64::from(tied.is_accurate()),
                f64::from(tied.margin() > spread),
                f64::from(smaller > spread),
                if smooth.is_nan() { 0.0 } else { smooth },
            ];
            n += 1;
            sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        let [accurate_ref, accurate_tied, over_spread, over_spread_hard, smooth] = sums.map(|sum| sum / n as f64);
        Ties { prompts: n, accurate_ref, accurate_tied, over_spread, over_spread_hard, smooth }
    }

    /// The score of the set.
    pub fn score(&self) -> f64 {
        0.3 * self.accurate_tied
            + 0.3 * self.accurate_ref
            + 0.2 * self.over_spread
            + 0.2 * self.over_spread_hard
            + 0.01 * self.smooth
    }
}

/// The items by prompt, in the order the prompts come first: those with both kinds, `(ref, tied)`. A prompt that stands there
/// twice, as in a resample, makes two pairs.
pub fn pairs(items: impl Iterator<Item = TieItem>) -> Vec<(TieItem, TieItem)> {
    let mut prompts: Vec<[Vec<TieItem>; 2]> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for item in items {
        let at = *places.entry(item.group.to_bits()).or_insert_with(|| {
            prompts.push(Default::default());
            prompts.len() - 1
        });
        prompts[at][usize::from(item.right > 1)].push(item);
    }
    prompts.into_iter().flat_map(|[single, tied]| single.into_iter().zip(tied)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_at_the_top_share_the_credit() {
        for (scores, expected) in
            [([2.0, 1.0, 0.0, -1.0], 1.0), ([1.0, 1.0, 0.0, 0.0], 0.5), ([0.0; 4], 0.25), ([0.0, 1.0, 0.0, 0.0], 0.0)]
        {
            assert_eq!(best_of(&scores, &[0]), expected, "{scores:?}");
        }
        assert_eq!(best_of(&[1.0, 1.0, 1.0], &[0, 1]), 2.0 / 3.0, "two right ones of three");
    }

    fn item(right: &[f64], wrong: &[f64], group: &str) -> TieItem {
        let scores = [right, wrong].concat();
        TieItem::new(&scores, &(0..right.len()).collect::<Vec<_>>(), group).unwrap()
    }

    /// The paper's rule by hand, as the specification's golden example has it.
    #[test]
    fn the_ties_score_is_the_published_one() {
        let items = |f: fn(f64) -> f64| {
            let of = |values: &[f64]| values.iter().map(|v| f(*v)).collect::<Vec<_>>();
            vec![
                item(&of(&[3.0]), &of(&[1.0, 0.5]), "a"),
                item(&of(&[2.5, 2.0]), &of(&[1.0]), "a"),
                item(&of(&[0.2]), &of(&[0.4]), "b"),
                item(&of(&[1.5, 0.5]), &of(&[0.2]), "b"),
            ]
        };
        let ties = |f| Ties::of_pairs(pairs(items(f).into_iter()).into_iter());
        let found = ties(|v| v);
        assert_eq!((found.prompts, found.accurate_ref, found.accurate_tied), (2, 0.5, 1.0));
        assert_eq!((found.over_spread, found.over_spread_hard), (0.5, 0.5));
        assert!((found.smooth - (0.761_594_155_955_764_9 - 0.833_654_607_012_155_4) / 2.0).abs() < 1e-12);
        assert!((found.score() - 0.649_640).abs() < 5e-7, "{}", found.score());
        // A positive factor and a shift change nothing.
        assert!((ties(|v| 8.0 * v + 64.0).score() - found.score()).abs() < 1e-12);
        // Another monotone map changes the spread alone.
        let bent = ties(|v| v.exp());
        assert_eq!((bent.accurate_ref, bent.accurate_tied), (0.5, 1.0));
        assert!(bent.smooth != found.smooth);
    }

    #[test]
    fn nothing_between_right_ones_is_the_best_there_is() {
        let perfect = pairs([item(&[1.0], &[0.0], "a"), item(&[1.0, 1.0], &[0.0], "a")].into_iter());
        assert!((Ties::of_pairs(perfect.into_iter()).score() - 1.01).abs() < 1e-12);
        // 0/0: neither margin nor spread.
        let flat = pairs([item(&[1.0], &[1.0], "a"), item(&[1.0, 1.0], &[1.0], "a")].into_iter());
        assert_eq!(Ties::of_pairs(flat.into_iter()).score(), 0.0);
        // Drawn twice, a prompt counts twice.
        let twice = [item(&[1.0], &[0.0], "a"), item(&[2.0, 1.0], &[0.0], "a")];
        assert_eq!(pairs(twice.into_iter().chain(twice)).len(), 2);
        // A prompt without its other half is in no pair.
        assert!(pairs([item(&[1.0], &[0.0], "a"), item(&[1.0, 1.0], &[0.0], "b")].into_iter()).is_empty());
        assert_eq!(TieItem::new(&[1.0, 2.0], &[], "a"), None);
    }
}
