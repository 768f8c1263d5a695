//! Leaks: evaluation texts that stand in the training data, by the n-gram rule of GPT-3 (arXiv 2005.14165, appendix C).
//!
//! A text's words are its runs of letters and digits in lower case; punctuation and white space do not count (of scripts
//! without spaces, each character is a word). A training example **leaks** an evaluation text if
//! - one of its texts, or all of them joined, has exactly the words of the evaluation text, or
//! - it contains a run of 13 words of the evaluation text; a text of 8 to 12 words counts as one run; shorter ones leak only
//!   by being equal.
//!
//! Runs that occur in more than 10 training examples are boilerplate (a prompt every row begins with) and do not count, as
//! in GPT-3; how many were left out is reported.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::example::{Example, SourceRef};

/// Words of a run.
pub const RUN_WORDS: usize = 13;
/// Shorter evaluation texts leak only by being equal to a training text.
pub const LEAST_WORDS: usize = 8;
/// Runs in more training examples than this are boilerplate.
pub const BOILERPLATE: usize = 10;
/// Leaks kept to be shown.
const SHOWN: usize = 5;

/// What of the evaluation stands in the training data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeakReport {
    /// Evaluation texts looked for.
    pub evaluation_texts: usize,
    /// Training examples looked through.
    pub training_examples: usize,
    /// Evaluation texts found in at least one training example.
    pub leaked_texts: usize,
    /// Indices of those texts.
    pub leaked: Vec<usize>,
    /// For each of `leaked`, which parts of the training data ([`Example::part`]) have an example that holds it, ascending.
    #[serde(default)]
    pub leaked_by: Vec<Vec<usize>>,
    /// Training examples that hold an evaluation text.
    pub leaking_examples: usize,
    /// Of those, examples (or texts of them) that are equal to an evaluation text.
    pub equal: usize,
    /// Runs that were left out as boilerplate.
    pub boilerplate_runs: usize,
    /// The first few leaks.
    pub first: Vec<Leak>,
}

/// One leak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leak {
    /// The training example.
    pub source: SourceRef,
    /// Index of the evaluation text.
    pub text: usize,
    /// The words both have.
    pub words: String,
}

/// Looks for `evaluation` texts in the training examples.
pub fn find_leaks(training: &[Example], evaluation: &[String]) -> LeakReport {
    let texts: Vec<Vec<String>> = evaluation.iter().map(|t| words(t)).collect();
    let index = Index::new(&texts);
    let mut report =
        LeakReport { evaluation_texts: texts.len(), training_examples: training.len(), ..LeakReport::default() };

    // First pass: in how many training examples each run occurs.
    let mut occurrences: HashMap<u64, usize> = HashMap::new();
    for example in training {
        for (key, _, _) in index.runs_in(&example_words(example)) {
            *occurrences.entry(key).or_default() += 1;
        }
    }
    report.boilerplate_runs = occurrences.values().filter(|&&n| n > BOILERPLATE).count();

    let mut parts: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); texts.len()];
    for example in training {
        let mut hits: Vec<(usize, String)> = Vec::new();
        let equal = index.equal_to(example);
        report.equal += usize::from(!equal.is_empty());
        hits.extend(equal.into_iter().map(|text| (text, texts[text].join(" "))));
        for (key, run, found_in) in index.runs_in(&example_words(example)) {
            if occurrences.get(&key).is_some_and(|&n| n <= BOILERPLATE) {
                hits.extend(found_in.iter().map(|&text| (text, run.join(" "))));
            }
        }
        report.leaking_examples += usize::from(!hits.is_empty());
        for (text, words) in hits {
            let first = parts[text].is_empty();
            parts[text].insert(example.part);
            if first && report.first.len() < SHOWN {
                report.first.push(Leak { source: example.source.clone(), text, words });
            }
        }
    }
    report.leaked = (0..texts.len()).filter(|&t| !parts[t].is_empty()).collect();
    report.leaked_by = report.leaked.iter().map(|&t| parts[t].iter().copied().collect()).collect();
    report.leaked_texts = report.leaked.len();
    report
}

/// Evaluation texts by their runs and as wholes.
struct Index<'a> {
    texts: &'a [Vec<String>],
    /// Hash of a run to the texts that hold it and the run's place in the first of them.
    runs: HashMap<u64, (Vec<usize>, usize)>,
    /// Lengths of the runs, in words: 8 to 13.
    lengths: Vec<usize>,
    wholes: HashMap<u64, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(texts: &'a [Vec<String>]) -> Index<'a> {
        let mut index = Index { texts, runs: HashMap::new(), lengths: Vec::new(), wholes: HashMap::new() };
        for (text, words) in texts.iter().enumerate().filter(|(_, w)| !w.is_empty()) {
            index.wholes.entry(hash(words)).or_default().push(text);
            let length = words.len().min(RUN_WORDS);
            if length < LEAST_WORDS {
                continue;
            }
            if !index.lengths.contains(&length) {
                index.lengths.push(length);
            }
            for (at, run) in words.windows(length).enumerate() {
                let (holders, _) = index.runs.entry(hash(run)).or_insert_with(|| (Vec::new(), at));
                if holders.last() != Some(&text) {
                    holders.push(text);
                }
            }
        }
        index
    }

    /// Runs of the index in a training example's words, each once: its hash, its words, the texts that hold it.
    fn runs_in<'w>(&'w self, training: &'w [String]) -> Vec<(u64, &'w [String], &'w [usize])> {
        let mut found: Vec<(u64, &[String], &[usize])> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for &length in &self.lengths {
            for run in training.windows(length) {
                let key = hash(run);
                let Some((holders, at)) = self.runs.get(&key) else { continue };
                // The words themselves decide, not the hash alone.
                let same = holders.first().is_some_and(|&t| self.texts[t].get(*at..at + length) == Some(run));
                if same && seen.insert(key) {
                    found.push((key, run, holders));
                }
            }
        }
        found
    }

    fn equal_to(&self, example: &Example) -> Vec<usize> {
        let mut candidates: Vec<Vec<String>> = example.body.texts().into_iter().map(words).collect();
        candidates.push(example_words(example));
        let mut equal: Vec<usize> = Vec::new();
        for candidate in candidates.iter().filter(|c| !c.is_empty()) {
            let holders = self.wholes.get(&hash(candidate)).into_iter().flatten();
            equal.extend(holders.filter(|&&t| self.texts[t] == *candidate));
        }
        equal.sort_unstable();
        equal.dedup();
        equal
    }
}

fn example_words(example: &Example) -> Vec<String> {
    example.body.texts().into_iter().flat_map(words).collect()
}

/// A text's words; see the module's text.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() && !without_spaces(c) {
            word.extend(c.to_lowercase());
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if without_spaces(c) && c.is_alphanumeric() {
            words.push(c.to_string());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Han, Hiragana, Katakana, Thai, Lao, Khmer and Burmese: scripts that put no spaces between words.
fn without_spaces(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3040}'..='\u{30FF}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

fn hash(words: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}
