//! chrF (Popović 2015, W15-3049) and chrF++ (Popović 2017, W17-4770) as `sacrebleu` 2.6 computes them with its defaults:
//! n-grams of up to six characters without white space, for chrF++ also words and pairs of words, recall weighing four
//! times as much as precision.
//!
//! Precision and recall are averaged over the orders that both sides are long enough for, and the score is
//! `100 · 5·P·R / (4·P + R)`. Lowercasing, white space in n-grams and smoothing of empty orders, which sacrebleu has as
//! options, are not offered: the harness does not use them.

use std::collections::HashMap;
use std::hash::Hash;

/// Longest n-gram of characters.
pub const CHARACTER_ORDER: usize = 6;

/// Longest n-gram of words in chrF++.
const WORD_ORDER: usize = 2;

/// How many times recall weighs as much as precision (beta is 2).
const RECALL_WEIGHT: f64 = 4.0;

/// Which n-grams count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grams {
    /// Of characters: chrF.
    Characters,
    /// Of words too: chrF++.
    CharactersAndWords,
}

/// The n-grams of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OrderCounts {
    /// Of the hypothesis; 0 where the reference is too short to have any.
    pub hypothesis: f64,
    /// Of the reference.
    pub reference: f64,
    /// Common to both.
    pub matches: f64,
}

/// What chrF needs to know of one segment; those of a corpus are summed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChrfCounts {
    /// Characters from one to six, then, in chrF++, words from one to two.
    pub orders: Vec<OrderCounts>,
}

impl ChrfCounts {
    /// Counts of one segment against the reference that gives it the highest score, the first of equal ones.
    pub fn new(hypothesis: &str, references: &[&str], grams: Grams) -> ChrfCounts {
        let hypothesis = Text::new(hypothesis, grams);
        let mut best: Option<(f64, ChrfCounts)> = None;
        for reference in references {
            let counts = hypothesis.counts(&Text::new(reference, grams));
            let score = counts.score();
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, counts));
            }
        }
        best.map_or_else(ChrfCounts::default, |(_, counts)| counts)
    }

    /// For a scorecard row: three numbers an order.
    pub fn to_numbers(&self) -> Vec<f64> {
        self.orders.iter().flat_map(|order| [order.hypothesis, order.reference, order.matches]).collect()
    }

    /// Back from [`ChrfCounts::to_numbers`].
    pub fn from_numbers(numbers: &[f64]) -> Option<ChrfCounts> {
        let (orders, []) = numbers.as_chunks::<3>() else { return None };
        let order = |&[hypothesis, reference, matches]: &[f64; 3]| OrderCounts { hypothesis, reference, matches };
        Some(ChrfCounts { orders: orders.iter().map(order).collect() })
    }

    /// Adds another segment's counts.
    pub fn add(&mut self, other: &ChrfCounts) {
        if self.orders.len() < other.orders.len() {
            self.orders.resize(other.orders.len(), OrderCounts::default());
        }
        for (sum, order) in self.orders.iter_mut().zip(&other.orders) {
            sum.hypothesis += order.hypothesis;
            sum.reference += order.reference;
            sum.matches += order.matches;
        }
    }

    /// The score, 0 to 100.
    pub fn score(&self) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for order in self.orders.iter().filter(|order| order.hypothesis > 0.0 && order.reference > 0.0) {
            precision += order.matches / order.hypothesis;
            recall += order.matches / order.reference;
            orders += 1.0;
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        precision /= orders;
        recall /= orders;
        100.0 * ((1.0 + RECALL_WEIGHT) * precision * recall / (RECALL_WEIGHT * precision + recall))
    }
}

/// A text as what its n-grams are made of.
struct Text {
    characters: Vec<char>,
    /// Empty for chrF.
    words: Vec<String>,
    word_order: usize,
}

impl Text {
    fn new(text: &str, grams: Grams) -> Text {
        let characters = text.chars().filter(|c| !crate::python::is_space(*c)).collect();
        match grams {
            Grams::Characters => Text { characters, words: Vec::new(), word_order: 0 },
            Grams::CharactersAndWords => Text { characters, words: split_words(text), word_order: WORD_ORDER },
        }
    }

    /// Counts of this hypothesis against a reference.
    fn counts(&self, reference: &Text) -> ChrfCounts {
        let characters = (1..=CHARACTER_ORDER).map(|n| common(&self.characters, &reference.characters, n));
        let words = (1..=self.word_order).map(|n| common(&self.words, &reference.words, n));
        ChrfCounts { orders: characters.chain(words).collect() }
    }
}

/// The n-grams of two sequences.
fn common<T: Eq + Hash>(hypothesis: &[T], reference: &[T], n: usize) -> OrderCounts {
    let mut left: HashMap<&[T], usize> = HashMap::new();
    for gram in reference.windows(n) {
        *left.entry(gram).or_default() += 1;
    }
    if left.is_empty() {
        return OrderCounts::default();
    }
    let mut counts = OrderCounts { reference: (reference.len() + 1 - n) as f64, ..OrderCounts::default() };
    for gram in hypothesis.windows(n) {
        counts.hypothesis += 1.0;
        if let Some(left) = left.get_mut(gram).filter(|left| **left > 0) {
            *left -= 1;
            counts.matches += 1.0;
        }
    }
    counts
}

/// Words by white space; a punctuation mark at the end of one, or else at its beginning, is a word of its own.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.split(crate::python::is_space).filter(|word| !word.is_empty()) {
        let is_mark = |c: char| c.is_ascii_punctuation();
        let alone = word.chars().nth(1).is_none();
        let (first, second) = if !alone && word.ends_with(is_mark) {
            word.split_at(word.len() - 1)
        } else if !alone && word.starts_with(is_mark) {
            word.split_at(1)
        } else {
            (word, "")
        };
        words.extend([first, second].into_iter().filter(|part| !part.is_empty()).map(str::to_owned));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let counts = ChrfCounts::new("a bc", &["ab d"], Grams::Characters);
        let order = |hypothesis, reference, matches| OrderCounts { hypothesis, reference, matches };
        assert_eq!(counts.orders[..3], [order(3.0, 3.0, 2.0), order(2.0, 2.0, 1.0), order(1.0, 1.0, 0.0)]);
        assert_eq!(counts.orders[3..], [OrderCounts::default(); 3]);
        // Both averages are (2/3 + 1/2 + 0) / 3.
        assert!((counts.score() - 100.0 * 7.0 / 18.0).abs() < 1e-12);
        assert_eq!(ChrfCounts::from_numbers(&counts.to_numbers()), Some(counts));
        assert_eq!(ChrfCounts::from_numbers(&[1.0, 2.0]), None);
        assert_eq!(ChrfCounts::new("", &["x"], Grams::Characters).score(), 0.0);
    }

    #[test]
    fn marks_are_words_only_at_one_end() {
        assert_eq!(split_words("(hi) \"so ... é! - ü"), ["(hi", ")", "\"", "so", "..", ".", "é", "!", "-", "ü"]);
    }

    #[test]
    fn the_best_reference_counts() {
        let references = ["nothing like it", "the cat sat", "the cat sat!"];
        let best = ChrfCounts::new("the cat sat", &references, Grams::CharactersAndWords);
        assert_eq!((best.score(), best.orders.len()), (100.0, 8));
    }
}
