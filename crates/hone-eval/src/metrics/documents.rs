//! Answers in sentences, held against short references and against the passage they should rest on.
//!
//! Adlakha et al. 2024, "Evaluating Correctness and Faithfulness of Instruction-Following Models for Question Answering",
//! TACL 12, arXiv 2307.16877. With bags of tokens `p` of the prediction, `r` of a reference, `k` of the passage (normalised as
//! the SQuAD script does: lower case, no ASCII punctuation, no articles):
//!
//! ```text
//! precision   = |p ∩ r| / |p|      0 of an empty prediction
//! recall      = |p ∩ r| / |r|      1 of an empty reference        agrees best with people about correctness
//! contains    = [r's text is part of p's text]                    the paper's strict recall
//! k_precision = |p ∩ k| / |p|      0 of an empty prediction       agrees best with people about faithfulness
//! k_recall    = |p ∩ k| / |k|      k_f1 = their harmonic mean     both sink with the passage's length
//! k_precision_new                  k_precision over the tokens of p that the question does not have; 1 if none is left
//! words                            words of the prediction as it is, by white space
//! ```
//!
//! The best reference counts. What they do not know: paraphrase, negation, units (`recall` rewards dumping text, `k_precision`
//! copying: read `words` and `precision` beside them). For `k_precision_new` the question is the prompt without the passage, so
//! an instruction's words count as asked too.

use std::collections::HashMap;

use super::TextOutcome;
use super::squad::normalize;

/// A metric of this family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// Share of the prediction that the reference has.
    Precision,
    /// Share of the reference that the prediction has.
    Recall,
    /// Whether the reference stands in the prediction.
    Contains,
    /// Share of the prediction that the passage has.
    KnowledgePrecision,
    /// Share of the passage that the prediction has.
    KnowledgeRecall,
    /// Harmonic mean of the two.
    KnowledgeF1,
    /// Share of what the prediction adds to the question that the passage has.
    KnowledgePrecisionNew,
    /// Length of the prediction in words.
    Words,
}

impl Document {
    const NAMES: [(Document, &'static str); 8] = [
        (Document::Precision, "precision"),
        (Document::Recall, "recall"),
        (Document::Contains, "contains"),
        (Document::KnowledgePrecision, "k_precision"),
        (Document::KnowledgeRecall, "k_recall"),
        (Document::KnowledgeF1, "k_f1"),
        (Document::KnowledgePrecisionNew, "k_precision_new"),
        (Document::Words, "words"),
    ];

    /// By name.
    pub fn from_name(name: &str) -> Option<Document> {
        Document::NAMES.iter().find(|(_, known)| *known == name).map(|(document, _)| *document)
    }

    /// Whether it reads the passage.
    pub fn needs_passage(self) -> bool {
        matches!(
            self,
            Document::KnowledgePrecision
                | Document::KnowledgeRecall
                | Document::KnowledgeF1
                | Document::KnowledgePrecisionNew
        )
    }

    /// An answer's score. Without a passage, those that need one are 0.
    pub fn score(self, outcome: &TextOutcome<'_>) -> f64 {
        let predicted = tokens(outcome.text);
        let knowledge = || tokens(outcome.passage.unwrap_or_default());
        let best = |score: &dyn Fn(&str) -> f64| outcome.references.iter().map(|r| score(r)).fold(0.0, f64::max);
        match self {
            Document::Precision => best(&|reference| precision(&predicted, &tokens(reference))),
            Document::Recall => best(&|reference| recall(&predicted, &tokens(reference))),
            Document::Contains => {
                let text = normalize(outcome.text);
                best(&|reference| f64::from(text.contains(&normalize(reference))))
            }
            Document::KnowledgePrecision => precision(&predicted, &knowledge()),
            Document::KnowledgeRecall => recall(&predicted, &knowledge()),
            Document::KnowledgeF1 => {
                let knowledge = knowledge();
                if predicted.is_empty() || knowledge.is_empty() {
                    return f64::from(predicted.is_empty() && knowledge.is_empty());
                }
                let (p, r) = (precision(&predicted, &knowledge), recall(&predicted, &knowledge));
                if p + r == 0.0 { 0.0 } else { 2.0 * p * r / (p + r) }
            }
            Document::KnowledgePrecisionNew => {
                let passage = outcome.passage.unwrap_or_default();
                let asked = match passage.is_empty() {
                    true => tokens(outcome.prompt),
                    false => tokens(&outcome.prompt.replacen(passage, " ", 1)),
                };
                let new: Vec<String> = predicted.into_iter().filter(|token| !asked.contains(token)).collect();
                if new.is_empty() { 1.0 } else { precision(&new, &knowledge()) }
            }
            Document::Words => outcome.text.split_whitespace().count() as f64,
        }
    }
}

fn tokens(text: &str) -> Vec<String> {
    normalize(text).split_whitespace().map(str::to_owned).collect()
}

/// Size of the intersection of two bags.
fn common(a: &[String], b: &[String]) -> usize {
    let mut left: HashMap<&str, usize> = HashMap::new();
    b.iter().for_each(|token| *left.entry(token).or_default() += 1);
    let taken = |token: &&String| match left.get_mut(token.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    a.iter().filter(taken).count()
}

fn precision(predicted: &[String], wanted: &[String]) -> f64 {
    if predicted.is_empty() { 0.0 } else { common(predicted, wanted) as f64 / predicted.len() as f64 }
}

fn recall(predicted: &[String], wanted: &[String]) -> f64 {
    if wanted.is_empty() { 1.0 } else { common(predicted, wanted) as f64 / wanted.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTION: &str = "The Eiffel Tower, finished in 1889, is 330 metres tall and was painted brown.";
    const PASSAGE: &str = "The tower is 330 metres (1,083 ft) tall. Construction was finished in 1889.";

    fn score(name: &str, text: &str, references: &[&str], passage: Option<&str>, prompt: &str) -> f64 {
        let references: Vec<String> = references.iter().map(|r| (*r).to_owned()).collect();
        let outcome = TextOutcome { text, references: &references, prompt, passage, responses: &[] };
        Document::from_name(name).unwrap().score(&outcome)
    }

    /// The values of the reference implementation's rules on this example.
    #[test]
    fn scores_are_those_of_the_paper() {
        let all = [
            ("precision", 0.153846),
            ("recall", 1.0),
            ("contains", 1.0),
            ("k_precision", 0.692308),
            ("k_recall", 0.75),
            ("k_f1", 0.72),
            ("words", 14.0),
        ];
        for (name, expected) in all {
            let found = score(name, PREDICTION, &["nothing", "330 metres"], Some(PASSAGE), "");
            assert!((found - expected).abs() < 1e-6, "{name}: {found}, expected {expected}");
        }
    }

    #[test]
    fn empty_texts_have_their_own_rules() {
        let of =
            |name: &str, text: &str, reference: &str, passage: &str| score(name, text, &[reference], Some(passage), "");
        assert_eq!((of("precision", "", "a b", ""), of("recall", "", "yes", "")), (0.0, 0.0));
        assert_eq!((of("recall", "x", "the", ""), of("k_precision", "", "", "p")), (1.0, 0.0));
        assert_eq!((of("k_f1", "", "", ""), of("k_f1", "x", "", ""), of("k_f1", "x", "", "y")), (1.0, 0.0, 0.0));
        assert_eq!(score("recall", "x", &[], None, ""), 0.0);
    }

    #[test]
    fn what_the_question_has_already_does_not_count_as_new() {
        let prompt = format!("{PASSAGE}\n\nHow tall is the Eiffel Tower?");
        // New are: finished in 1889 330 metres and was painted brown; of them and, painted, brown are not in the passage.
        let found = score("k_precision_new", PREDICTION, &[""], Some(PASSAGE), &prompt);
        assert!((found - 6.0 / 9.0).abs() < 1e-12, "{found}");
        assert_eq!(score("k_precision_new", "Eiffel Tower", &[""], Some(PASSAGE), &prompt), 1.0);
    }

    /// Bare answer, in a sentence, in a sentence with more: recall stays, F1 and precision fall.
    #[test]
    fn verbosity_lowers_precision_and_not_recall() {
        let texts = ["330 metres", "It is 330 metres tall", "It is 330 metres tall and stands in Paris"];
        let of = |name: &str| texts.map(|text| score(name, text, &["330 metres"], None, ""));
        assert_eq!(of("recall"), [1.0; 3]);
        let precision = of("precision");
        assert!(precision[0] > precision[1] && precision[1] > precision[2], "{precision:?}");
    }
}
