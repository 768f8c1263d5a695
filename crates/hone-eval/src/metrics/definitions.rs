//! What each metric means, in a line, and its formula: what `hone explain` says first.
//!
//! A metric of one name may be another one for another kind of task (`f1`, `exact_match`, `acc`), so a definition is found by
//! both. `N` is the number of questions, `c` a choice, `ll` a natural log-likelihood. A test holds that no metric is without one.

use serde_json::Value;

use super::Kind;
use super::Kind::{GenerateUntil, Loglikelihood, LoglikelihoodRolling, MultipleChoice};
use crate::code::CodeOptions;

/// A metric in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What it says about a model, in a line.
    pub meaning: &'static str,
    /// How it is computed.
    pub formula: &'static str,
}

const ALL: &[(&[Kind], &str, Definition)] = &[
    (
        &[MultipleChoice],
        "acc",
        Definition {
            meaning: "share of questions whose most likely choice is right",
            formula: "acc = 1/N Σ [argmax_c ll(c) is right]",
        },
    ),
    (
        &[MultipleChoice],
        "acc_norm",
        Definition {
            meaning: "share of questions whose most likely choice, by log-likelihood per character, is right",
            formula: "acc_norm = 1/N Σ [argmax_c ll(c) / characters(c) is right]",
        },
    ),
    (
        &[MultipleChoice],
        "acc_bytes",
        Definition {
            meaning: "share of questions whose most likely choice, by log-likelihood per UTF-8 byte, is right",
            formula: "acc_bytes = 1/N Σ [argmax_c ll(c) / bytes(c) is right]",
        },
    ),
    (
        &[MultipleChoice],
        "acc_mutual_info",
        Definition {
            meaning: "share of questions where the choice that the question makes most more likely is right",
            formula: "acc_mutual_info = 1/N Σ [argmax_c (ll(c | question) − ll(c)) is right]",
        },
    ),
    (
        &[MultipleChoice],
        "exact_match",
        Definition {
            meaning: "share of questions where greedy decoding would write a right choice",
            formula: "exact_match = 1/N Σ [every token of a right choice is the most likely one]",
        },
    ),
    (
        &[MultipleChoice],
        "brier_score",
        Definition {
            meaning: "squared error of the choices' probabilities, 0 to 2, less is better",
            formula: "brier_score = 1/N Σ Σ_c (p_c − [c is right])², p = softmax(ll)",
        },
    ),
    (
        &[MultipleChoice],
        "ece",
        Definition {
            meaning: "expected calibration error: how far confidence is from how often it is right, less is better",
            formula: "ece = Σ_m |B_m|/N · |acc(B_m) − conf(B_m)|, confidence = max softmax(ll)",
        },
    ),
    (
        &[MultipleChoice],
        "best_of",
        Definition {
            meaning: "share of items whose right completion scores highest (equal ones share it); with `rule: ties`, the Ties score",
            formula: "best_of = 1/N Σ [right attains max]/#max; ties = .3 a_tied + .3 a_ref + .2 p + .2 p_hard + .01 g",
        },
    ),
    (
        &[MultipleChoice],
        "f1",
        Definition {
            meaning: "F1 of the second choice (class 1): how well it is found",
            formula: "f1 = 2 · hits / (2 · hits + errors), hits: class 1 is right and picked; errors: only one of the two",
        },
    ),
    (
        &[MultipleChoice],
        "mcc",
        Definition {
            meaning: "Matthews correlation of the classes picked with those that are right, −1 to 1, 0 is chance",
            formula: "mcc = (N·hits − Σ_k right_k·picked_k) / √((N² − Σ right_k²)(N² − Σ picked_k²))",
        },
    ),
    (
        &[GenerateUntil],
        "exact_match",
        Definition {
            meaning: "share of answers that are, after the filters, a reference",
            formula: "exact_match = 1/N Σ max_reference [answer = reference]",
        },
    ),
    (
        &[GenerateUntil],
        "f1",
        Definition {
            meaning: "words that answer and reference share (SQuAD's token F1), the best reference counts",
            formula: "f1 = 1/N Σ max_reference 2·precision·recall / (precision + recall)",
        },
    ),
    (
        &[GenerateUntil],
        "rouge1",
        Definition {
            meaning: "words that answer and reference share, as F1, the best reference counts",
            formula: "rouge1 = 1/N Σ max_reference F1 of unigrams",
        },
    ),
    (
        &[GenerateUntil],
        "rouge2",
        Definition {
            meaning: "pairs of words that answer and reference share, as F1, the best reference counts",
            formula: "rouge2 = 1/N Σ max_reference F1 of bigrams",
        },
    ),
    (
        &[GenerateUntil],
        "rougeL",
        Definition {
            meaning: "longest common subsequence of answer and reference, as F1, the best reference counts",
            formula: "rougeL = 1/N Σ max_reference F1 of the longest common subsequence",
        },
    ),
    (
        &[GenerateUntil],
        "rougeLsum",
        Definition {
            meaning: "longest common subsequences line by line, as F1, the best reference counts",
            formula: "rougeLsum = 1/N Σ max_reference F1 of the union of common subsequences of lines",
        },
    ),
    (
        &[GenerateUntil],
        "bleu",
        Definition {
            meaning: "n-grams up to four that the answers share with the references, over all answers together, 0 to 100",
            formula: "bleu = 100 · exp(min(0, 1 − reference/answer)) · (Π_{n=1..4} matches_n / n-grams_n)^¼",
        },
    ),
    (
        &[GenerateUntil],
        "chrf",
        Definition {
            meaning: "runs of up to six characters that answers and references share, over all answers together, 0 to 100",
            formula: "chrf = 100 · 5·P·R / (4·P + R), P, R: means over n = 1..6 of matches_n / n-grams_n",
        },
    ),
    (
        &[GenerateUntil],
        "chrf++",
        Definition {
            meaning: "chrf with words and pairs of words as well, 0 to 100",
            formula: "chrf++ = 100 · 5·P·R / (4·P + R), P, R: means over characters n = 1..6 and words n = 1..2",
        },
    ),
    (
        &[GenerateUntil],
        "ter",
        Definition {
            meaning: "words to edit and blocks to shift until the answers are the references, per 100 words, less is better",
            formula: "ter = 100 · Σ min_reference edits / Σ words of the references",
        },
    ),
    (
        &[GenerateUntil],
        "precision",
        Definition {
            meaning: "share of the answer's words that the reference has, the best reference counts",
            formula: "precision = 1/N Σ max_reference |answer ∩ reference| / |answer|",
        },
    ),
    (
        &[GenerateUntil],
        "recall",
        Definition {
            meaning: "share of the reference's words that the answer has, the best reference counts",
            formula: "recall = 1/N Σ max_reference |answer ∩ reference| / |reference|",
        },
    ),
    (
        &[GenerateUntil],
        "contains",
        Definition {
            meaning: "share of answers that a reference stands in",
            formula: "contains = 1/N Σ max_reference [reference is part of answer]",
        },
    ),
    (
        &[GenerateUntil],
        "k_precision",
        Definition {
            meaning: "share of the answer's words that the passage has: faithfulness",
            formula: "k_precision = 1/N Σ |answer ∩ passage| / |answer|",
        },
    ),
    (
        &[GenerateUntil],
        "k_recall",
        Definition {
            meaning: "share of the passage's words that the answer has",
            formula: "k_recall = 1/N Σ |answer ∩ passage| / |passage|",
        },
    ),
    (
        &[GenerateUntil],
        "k_f1",
        Definition {
            meaning: "harmonic mean of k_precision and k_recall",
            formula: "k_f1 = 1/N Σ 2·k_precision·k_recall / (k_precision + k_recall)",
        },
    ),
    (
        &[GenerateUntil],
        "k_precision_new",
        Definition {
            meaning: "share of the words that the answer adds to the question which the passage has",
            formula: "k_precision_new = 1/N Σ |(answer − question) ∩ passage| / |answer − question|",
        },
    ),
    (
        &[GenerateUntil],
        "words",
        Definition { meaning: "length of the answer in words", formula: "words = 1/N Σ words(answer)" },
    ),
    (
        &[GenerateUntil],
        "refusal",
        Definition {
            meaning: "share of answers that begin by declining",
            formula: "refusal = 1/N Σ [a phrase of refusal stands in the answer's beginning]",
        },
    ),
    (
        &[GenerateUntil],
        "accuracy",
        Definition {
            meaning: "share of answers that are, as whole numbers, the right class",
            formula: "accuracy = 1/N Σ [class of the answer = class of a reference]",
        },
    ),
    (
        &[GenerateUntil],
        "mcc",
        Definition {
            meaning: "Matthews correlation of the answers, each a class, with the right ones, −1 to 1, 0 is chance",
            formula: "mcc = (N·hits − Σ_k right_k·written_k) / √((N² − Σ right_k²)(N² − Σ written_k²))",
        },
    ),
    (
        &[GenerateUntil],
        "bypass",
        Definition { meaning: "nothing: answers are kept, not scored", formula: "bypass = 999, as the harness says" },
    ),
    (
        &[GenerateUntil],
        CodeOptions::NAME,
        Definition {
            meaning: "chance that one of k programs the model wrote passes its tests, run in a sandbox",
            formula: "pass@k = 1/N Σ (1 − C(n−c, k) / C(n, k)), n programs a question, c of which pass",
        },
    ),
    (
        &[Loglikelihood],
        "acc",
        Definition {
            meaning: "share of targets that greedy decoding would write",
            formula: "acc = 1/N Σ [every token of the target is the most likely one]",
        },
    ),
    (
        &[Loglikelihood],
        "perplexity",
        Definition {
            meaning: "how surprised the model is by a target, less is better",
            formula: "perplexity = exp(−Σ ll(target) / N)",
        },
    ),
    (
        &[Loglikelihood, LoglikelihoodRolling],
        "word_perplexity",
        Definition {
            meaning: "how surprised the model is by a word, less is better",
            formula: "word_perplexity = exp(−Σ ll / Σ words)",
        },
    ),
    (
        &[Loglikelihood, LoglikelihoodRolling],
        "byte_perplexity",
        Definition {
            meaning: "how surprised the model is by a byte, less is better",
            formula: "byte_perplexity = exp(−Σ ll / Σ bytes)",
        },
    ),
    (
        &[Loglikelihood, LoglikelihoodRolling],
        "bits_per_byte",
        Definition {
            meaning: "bits it takes to write a byte with this model, less is better",
            formula: "bits_per_byte = −Σ ll / (ln 2 · Σ bytes)",
        },
    ),
];

/// Of a metric of `evaluate` ([`super::labels`]): its definition, whichever average is taken.
const OF_LABELS: Definition = Definition {
    meaning: "share of answers that are the right class, example by example; of a binary average only those of the class `pos_label`",
    formula: "score = 1/N Σ [class of the answer = class of a reference], of a binary average [both are `pos_label`]",
};

/// The definition of a metric of a task whose file has these entries in its `metric_list`.
pub fn of_task(kind: Kind, name: &str, entries: &[Value]) -> Option<&'static Definition> {
    let bare = name.split(',').next().unwrap_or(name);
    let by_evaluate = |entry: &&Value| entry["metric"] == bare && entry["hf_evaluate"] == true;
    let is_label = kind == GenerateUntil && ["f1", "precision", "recall"].contains(&bare);
    match entries.iter().find(by_evaluate).filter(|_| is_label) {
        Some(_) => Some(&OF_LABELS),
        None => of(kind, name),
    }
}

/// The definition of a metric of a kind of task. A filter's name behind it (`exact_match,strict`) is left out.
pub fn of(kind: Kind, name: &str) -> Option<&'static Definition> {
    let bare = name.split(',').next().unwrap_or(name);
    let bare = CodeOptions::k_of(bare).map_or(bare, |_| CodeOptions::NAME);
    ALL.iter().find(|(kinds, known, _)| kinds.contains(&kind) && *known == bare).map(|(.., definition)| definition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_one_and_nothing_else_does() {
        for (kind, ..) in Kind::NAMES {
            for name in kind.metrics() {
                let definition =
                    of(kind, name).unwrap_or_else(|| panic!("{name} of {} has no definition", kind.name()));
                assert!(definition.formula.starts_with(&format!("{name} = ")), "{}", definition.formula);
            }
        }
        for (kinds, name, _) in ALL {
            assert!(kinds.iter().all(|kind| kind.metrics().contains(name)), "{name} is no metric");
        }
        assert_eq!(of(GenerateUntil, "exact_match,strict"), of(GenerateUntil, "exact_match"));
        assert_ne!(of(GenerateUntil, "f1"), of(MultipleChoice, "f1"));
        assert_eq!(of(LoglikelihoodRolling, "acc"), None);
        assert_eq!(of(GenerateUntil, "pass@10"), of(GenerateUntil, "pass@k"));
        let entries = [serde_json::json!({"metric": "f1", "hf_evaluate": true})];
        assert_eq!(of_task(GenerateUntil, "f1,first", &entries), Some(&OF_LABELS));
        assert_eq!(of_task(MultipleChoice, "f1", &entries), of(MultipleChoice, "f1"));
        assert_eq!(of_task(GenerateUntil, "f1", &[]), of(GenerateUntil, "f1"));
    }
}
