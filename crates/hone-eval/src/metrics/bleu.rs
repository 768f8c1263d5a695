//! BLEU (Papineni et al. 2002) as `sacrebleu` 2.6 computes it: tokeniser `13a`, n-grams up to four, the four smoothing
//! methods.

use std::collections::HashMap;

use super::MetricError;

/// Longest n-gram.
const MAX_ORDER: usize = 4;

/// What to do about n-gram orders without a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Smoothing {
    /// Nothing: the score is 0.
    None,
    /// 0.1 matches.
    Floor,
    /// One match and one n-gram more for every order above one.
    AddK,
    /// Half, a quarter, an eighth … of a match, one order after another (NIST).
    #[default]
    Exp,
}

impl Smoothing {
    /// By sacrebleu's name.
    pub fn from_name(name: &str) -> Option<Smoothing> {
        match name {
            "none" => Some(Smoothing::None),
            "floor" => Some(Smoothing::Floor),
            "add-k" => Some(Smoothing::AddK),
            "exp" => Some(Smoothing::Exp),
            _ => None,
        }
    }
}

/// What BLEU needs to know of one segment; those of a corpus are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BleuCounts {
    /// Tokens of the hypothesis.
    pub hypothesis: f64,
    /// Tokens of the reference whose length is closest (the shorter on ties).
    pub reference: f64,
    /// Matched n-grams, each at most as often as the reference that has it most often.
    pub matches: [f64; MAX_ORDER],
    /// N-grams of the hypothesis.
    pub totals: [f64; MAX_ORDER],
}

impl BleuCounts {
    /// Counts of one segment.
    pub fn new(hypothesis: &str, references: &[&str]) -> BleuCounts {
        let hypothesis_tokens = tokenize_13a(hypothesis.trim_end_matches(crate::python::is_space));
        let reference_tokens: Vec<Vec<String>> =
            references.iter().map(|r| tokenize_13a(r.trim_end_matches(crate::python::is_space))).collect();
        let hypothesis = hypothesis_tokens.len();
        let distance = |n: &usize| (n.abs_diff(hypothesis), *n);
        let reference = reference_tokens.iter().map(Vec::len).min_by_key(distance).unwrap_or(0);
        let mut counts =
            BleuCounts { hypothesis: hypothesis as f64, reference: reference as f64, ..BleuCounts::default() };
        for order in 1..=MAX_ORDER {
            let mut wanted: HashMap<&[String], usize> = HashMap::new();
            for tokens in &reference_tokens {
                for (gram, count) in grams(tokens, order) {
                    let most = wanted.entry(gram).or_default();
                    *most = count.max(*most);
                }
            }
            for (gram, count) in grams(&hypothesis_tokens, order) {
                counts.totals[order - 1] += count as f64;
                counts.matches[order - 1] += count.min(wanted.get(gram).copied().unwrap_or(0)) as f64;
            }
        }
        counts
    }

    /// As ten numbers, for a scorecard row: lengths, matches, totals.
    pub fn to_numbers(&self) -> Vec<f64> {
        [&[self.hypothesis, self.reference][..], &self.matches, &self.totals].concat()
    }

    /// Back from [`BleuCounts::to_numbers`].
    pub fn from_numbers(numbers: &[f64]) -> Option<BleuCounts> {
        let [hypothesis, reference, rest @ ..] = numbers else { return None };
        let (matches, totals) = rest.split_at_checked(MAX_ORDER)?;
        Some(BleuCounts {
            hypothesis: *hypothesis,
            reference: *reference,
            matches: matches.try_into().ok()?,
            totals: totals.try_into().ok()?,
        })
    }

    /// Adds another segment's counts.
    pub fn add(&mut self, other: &BleuCounts) {
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
        for order in 0..MAX_ORDER {
            self.matches[order] += other.matches[order];
            self.totals[order] += other.totals[order];
        }
    }

    /// The score, 0 to 100. With `effective_order` (for single segments) only the orders the hypothesis is long enough for
    /// count.
    pub fn score(&self, smoothing: Smoothing, effective_order: bool) -> f64 {
        if self.matches.iter().all(|&m| m == 0.0) {
            return 0.0;
        }
        let brevity_penalty =
            if self.hypothesis < self.reference { (1.0 - self.reference / self.hypothesis).exp() } else { 1.0 };
        let mut precisions = [0.0f64; MAX_ORDER];
        let mut orders = MAX_ORDER;
        let mut halving = 1.0;
        for order in 0..MAX_ORDER {
            let extra = if smoothing == Smoothing::AddK && order > 0 { 1.0 } else { 0.0 };
            let (matches, total) = (self.matches[order] + extra, self.totals[order] + extra);
            if total == 0.0 {
                break;
            }
            if effective_order {
                orders = order + 1;
            }
            precisions[order] = match smoothing {
                _ if matches > 0.0 => 100.0 * matches / total,
                Smoothing::Exp => {
                    halving *= 2.0;
                    100.0 / (halving * total)
                }
                Smoothing::Floor => 100.0 * 0.1 / total,
                Smoothing::None | Smoothing::AddK => 0.0,
            };
        }
        if precisions[..orders].contains(&0.0) {
            return 0.0;
        }
        let mean_log = precisions[..orders].iter().map(|p| p.ln()).sum::<f64>() / orders as f64;
        brevity_penalty * mean_log.exp()
    }
}

/// BLEU of a corpus, each hypothesis with its references.
pub fn corpus_bleu(segments: &[(&str, Vec<&str>)], smoothing: Smoothing) -> f64 {
    let mut sum = BleuCounts::default();
    segments.iter().for_each(|(hypothesis, references)| sum.add(&BleuCounts::new(hypothesis, references)));
    sum.score(smoothing, false)
}

/// Reads the `smooth_method` option of a task file.
pub fn smoothing_option(value: Option<&serde_json::Value>) -> Result<Smoothing, MetricError> {
    let Some(value) = value else { return Ok(Smoothing::default()) };
    value.as_str().and_then(Smoothing::from_name).ok_or_else(|| MetricError::Option {
        metric: "bleu".into(),
        option: "smooth_method".into(),
        found: value.to_string(),
        expected: "`exp`, `floor`, `add-k` or `none`".into(),
    })
}

fn grams(tokens: &[String], order: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(order) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The tokeniser of mteval-v13a: punctuation apart, except apostrophes, hyphens within words and separators within
/// numbers.
pub fn tokenize_13a(line: &str) -> Vec<String> {
    let mut line = line.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        line = line.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    let line: Vec<char> = format!(" {line} ").chars().collect();
    let line = space_around_symbols(&line);
    let line = split_after_non_digit(&line);
    let line = split_before_non_digit(&line);
    let line = split_hyphen_after_digit(&line);
    let line: String = line.into_iter().collect();
    line.split(crate::python::is_space).filter(|t| !t.is_empty()).map(str::to_owned).collect()
}

/// `([\{-\~\[-\` -\&\(-\+\:-\@\/])` becomes ` \1 `.
fn space_around_symbols(line: &[char]) -> Vec<char> {
    let is_symbol = |c: char| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    let mut out = Vec::with_capacity(line.len() * 2);
    for &c in line {
        if is_symbol(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// `([^0-9])([\.,])` becomes `\1 \2 `. Matches do not overlap, as in the regular expression.
fn split_after_non_digit(line: &[char]) -> Vec<char> {
    pairs(line, |a, b| (!a.is_ascii_digit() && matches!(b, '.' | ',')).then(|| vec![a, ' ', b, ' ']))
}

/// `([\.,])([^0-9])` becomes ` \1 \2`.
fn split_before_non_digit(line: &[char]) -> Vec<char> {
    pairs(line, |a, b| (matches!(a, '.' | ',') && !b.is_ascii_digit()).then(|| vec![' ', a, ' ', b]))
}

/// `([0-9])(-)` becomes `\1 \2 `.
fn split_hyphen_after_digit(line: &[char]) -> Vec<char> {
    pairs(line, |a, b| (a.is_ascii_digit() && b == '-').then(|| vec![a, ' ', b, ' ']))
}

/// Replaces pairs of neighbours from left to right, going on after each replaced pair.
fn pairs(line: &[char], replace: impl Fn(char, char) -> Option<Vec<char>>) -> Vec<char> {
    let mut out = Vec::with_capacity(line.len() + 8);
    let mut i = 0;
    while i < line.len() {
        let replaced = line.get(i + 1).and_then(|&next| replace(line[i], next));
        match replaced {
            Some(pair) => {
                out.extend(pair);
                i += 2;
            }
            None => {
                out.push(line[i]);
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn tokens_are_sacrebleus() {
        let text = "Hello, world! It's 3.5% of $1,000.00 (U.S.) -- e.g. 2-3 & a&amp;b.";
        let tokens = "Hello , world ! It's 3.5 % of $ 1,000.00 ( U . S . ) -- e . g . 2 - 3 & a & b .";
        assert_eq!(tokenize_13a(text).join(" "), tokens);
    }

    #[test]
    fn scores_are_sacrebleus() {
        let hypotheses = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."];
        let first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."];
        let second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."];
        let both: Vec<_> = (0..3).map(|i| (hypotheses[i], vec![first[i], second[i]])).collect();
        assert_abs_diff_eq!(corpus_bleu(&both, Smoothing::Exp), 48.530_827_009_929_865, epsilon = 1e-9);
        let one: Vec<_> = (0..3).map(|i| (hypotheses[i], vec![first[i]])).collect();
        assert_abs_diff_eq!(corpus_bleu(&one, Smoothing::Exp), 45.067_506_321_061_14, epsilon = 1e-9);
        let counts = BleuCounts::new("the cat is on mat", &["the cat sat on the mat"]);
        let score = |smoothing| counts.score(smoothing, false);
        assert_abs_diff_eq!(score(Smoothing::Exp), 20.801_195_378_010_62, epsilon = 1e-9);
        assert_abs_diff_eq!(score(Smoothing::Floor), 11.062_691_203_042_489, epsilon = 1e-9);
        assert_abs_diff_eq!(score(Smoothing::AddK), 33.085_163_614_992_62, epsilon = 1e-9);
        assert_eq!(score(Smoothing::None), 0.0);
        assert_eq!(BleuCounts::from_numbers(&counts.to_numbers()), Some(counts));
    }
}
