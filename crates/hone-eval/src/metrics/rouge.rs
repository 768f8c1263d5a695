//! ROUGE (Lin 2004) as `rouge-score` 0.1.2 computes it: ROUGE-N, ROUGE-L and the summary-level ROUGE-Lsum.
//!
//! Letters outside `a`–`z` and digits vanish in tokenising, so texts in other scripts score on their Latin parts only.

use std::collections::HashMap;

use super::porter;

/// Precision, recall and their harmonic mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RougeScore {
    /// Share of the prediction that is in the reference.
    pub precision: f64,
    /// Share of the reference that is in the prediction.
    pub recall: f64,
    /// `2 P R / (P + R)`.
    pub f: f64,
}

impl RougeScore {
    fn new(hits: usize, predicted: usize, wanted: usize) -> RougeScore {
        let (precision, recall) = (hits as f64 / predicted as f64, hits as f64 / wanted as f64);
        let sum = precision + recall;
        RougeScore { precision, recall, f: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// Which ROUGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rouge {
    /// Overlap of n-grams.
    N(usize),
    /// Longest common subsequence of the whole texts.
    L,
    /// Union of longest common subsequences, sentence by sentence; sentences are lines.
    Lsum,
}

/// The variant's score of a prediction against one reference.
pub fn rouge(variant: Rouge, reference: &str, prediction: &str, stemmed: bool) -> RougeScore {
    match variant {
        Rouge::N(n) => rouge_n(n, &tokens(reference, stemmed), &tokens(prediction, stemmed)),
        Rouge::L => rouge_l(&tokens(reference, stemmed), &tokens(prediction, stemmed)),
        Rouge::Lsum => rouge_lsum(&sentences(reference, stemmed), &sentences(prediction, stemmed)),
    }
}

/// Lower-cased runs of `a`–`z` and digits; those longer than three characters are stemmed if asked.
pub fn tokens(text: &str, stemmed: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit())).filter(|w| !w.is_empty());
    let finish = |word: &str| if stemmed && word.len() > 3 { porter::stem(word) } else { word.to_owned() };
    words.map(finish).filter(|word| !word.is_empty()).collect()
}

fn sentences(text: &str, stemmed: bool) -> Vec<Vec<String>> {
    text.split('\n').filter(|line| !line.is_empty()).map(|line| tokens(line, stemmed)).collect()
}

fn rouge_n(n: usize, reference: &[String], prediction: &[String]) -> RougeScore {
    let counts = |tokens: &[String]| -> HashMap<Vec<String>, usize> {
        let mut counts = HashMap::new();
        for gram in tokens.windows(n.max(1)) {
            *counts.entry(gram.to_vec()).or_default() += 1;
        }
        counts
    };
    let (wanted, predicted) = (counts(reference), counts(prediction));
    let hits = wanted.iter().map(|(gram, &count)| count.min(predicted.get(gram).copied().unwrap_or(0))).sum();
    let total = |counts: &HashMap<Vec<String>, usize>| counts.values().sum::<usize>().max(1);
    RougeScore::new(hits, total(&predicted), total(&wanted))
}

fn rouge_l(reference: &[String], prediction: &[String]) -> RougeScore {
    if reference.is_empty() || prediction.is_empty() {
        return RougeScore::default();
    }
    let hits = LcsTable::new(reference, prediction).length();
    RougeScore::new(hits, prediction.len(), reference.len())
}

fn rouge_lsum(reference: &[Vec<String>], prediction: &[Vec<String>]) -> RougeScore {
    let length = |sentences: &[Vec<String>]| sentences.iter().map(Vec::len).sum::<usize>();
    let (wanted, predicted) = (length(reference), length(prediction));
    if wanted == 0 || predicted == 0 {
        return RougeScore::default();
    }
    let counts = |sentences: &[Vec<String>]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        sentences.iter().flatten().for_each(|token| *counts.entry(token.clone()).or_default() += 1);
        counts
    };
    let (mut left_wanted, mut left_predicted) = (counts(reference), counts(prediction));
    let mut hits = 0;
    for sentence in reference {
        let mut in_union = vec![false; sentence.len()];
        for candidate in prediction {
            LcsTable::new(sentence, candidate).indices(sentence, candidate).for_each(|i| in_union[i] = true);
        }
        // A token counts as often as both texts have it, however many subsequences it is in.
        for (token, _) in sentence.iter().zip(&in_union).filter(|(_, hit)| **hit) {
            let (Some(a), Some(b)) = (left_wanted.get_mut(token), left_predicted.get_mut(token)) else { continue };
            if *a > 0 && *b > 0 {
                (*a, *b) = (*a - 1, *b - 1);
                hits += 1;
            }
        }
    }
    RougeScore::new(hits, predicted, wanted)
}

/// Lengths of the longest common subsequences of all prefixes, `[reference + 1, prediction + 1]`.
struct LcsTable {
    columns: usize,
    lengths: Vec<u32>,
}

impl LcsTable {
    fn new(reference: &[String], prediction: &[String]) -> LcsTable {
        let columns = prediction.len() + 1;
        let mut lengths = vec![0u32; (reference.len() + 1) * columns];
        for (i, wanted) in reference.iter().enumerate() {
            for (j, given) in prediction.iter().enumerate() {
                let (above, left) = (lengths[i * columns + j + 1], lengths[(i + 1) * columns + j]);
                let longer = if wanted == given { lengths[i * columns + j] + 1 } else { above.max(left) };
                lengths[(i + 1) * columns + j + 1] = longer;
            }
        }
        LcsTable { columns, lengths }
    }

    fn length(&self) -> usize {
        self.lengths.last().copied().unwrap_or(0) as usize
    }

    /// Indices into the reference of one longest subsequence; among several, the one `rouge-score` walks back to.
    fn indices(&self, reference: &[String], prediction: &[String]) -> impl Iterator<Item = usize> + use<> {
        let at = |i: usize, j: usize| self.lengths[i * self.columns + j];
        let (mut i, mut j) = (reference.len(), prediction.len());
        let mut found = Vec::new();
        while i > 0 && j > 0 {
            if reference[i - 1] == prediction[j - 1] {
                found.push(i - 1);
                (i, j) = (i - 1, j - 1);
            } else if at(i, j - 1) > at(i - 1, j) {
                j -= 1;
            } else {
                i -= 1;
            }
        }
        found.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn scores_are_rouge_scores() {
        let (reference, prediction) =
            ("The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log.");
        let f = |variant| rouge(variant, reference, prediction, true).f;
        assert_abs_diff_eq!(f(Rouge::N(1)), 0.705_882_352_941_176_4, epsilon = 1e-9);
        assert_abs_diff_eq!(f(Rouge::N(2)), 0.266_666_666_666_666_66, epsilon = 1e-9);
        assert_abs_diff_eq!(f(Rouge::L), 0.588_235_294_117_647, epsilon = 1e-9);
        let cats = |stemmed| rouge(Rouge::L, "The cats were running quickly.", "A cat runs quick", stemmed).f;
        assert_abs_diff_eq!(cats(true), 0.444_444_444_444_444_4, epsilon = 1e-9);
        assert_eq!(cats(false), 0.0);
        assert_eq!(rouge(Rouge::L, "数据 data", "data 数据", true).f, 1.0);
        assert_eq!(rouge(Rouge::Lsum, "", "a", true), RougeScore::default());
    }
}
