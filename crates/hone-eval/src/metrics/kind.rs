//! The four kinds of task, with the metrics each has.

use serde::{Deserialize, Serialize};

use crate::code::CodeOptions;

/// The four kinds of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Which choice is most likely.
    MultipleChoice,
    /// The model writes, the text is compared.
    GenerateUntil,
    /// Log-likelihood of one target.
    Loglikelihood,
    /// Log-likelihood of a whole document, in windows.
    LoglikelihoodRolling,
}

impl Kind {
    /// Every kind with its harness name and the shorter names that are also read.
    pub const NAMES: [(Kind, &'static str, &'static str); 4] = [
        (Kind::MultipleChoice, "multiple_choice", "choice"),
        (Kind::GenerateUntil, "generate_until", "generate"),
        (Kind::Loglikelihood, "loglikelihood", "target"),
        (Kind::LoglikelihoodRolling, "loglikelihood_rolling", "perplexity"),
    ];

    /// By any of its names.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::NAMES.iter().find(|(_, long, short)| name == *long || name == *short).map(|(kind, ..)| *kind)
    }

    /// The harness' name.
    pub fn name(self) -> &'static str {
        Kind::NAMES.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// Metrics of a task that names none.
    pub fn default_metrics(self) -> &'static [&'static str] {
        match self {
            Kind::MultipleChoice => &["acc", "acc_norm"],
            Kind::GenerateUntil => &["exact_match"],
            Kind::Loglikelihood => &["perplexity", "acc"],
            Kind::LoglikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        }
    }

    pub(super) fn metrics(self) -> &'static [&'static str] {
        match self {
            Kind::MultipleChoice => &[
                "acc",
                "acc_norm",
                "acc_bytes",
                "acc_mutual_info",
                "exact_match",
                "brier_score",
                "ece",
                "f1",
                "mcc",
                "best_of",
            ],
            Kind::GenerateUntil => &[
                "exact_match",
                "f1",
                "rouge1",
                "rouge2",
                "rougeL",
                "rougeLsum",
                "bleu",
                "chrf",
                "chrf++",
                "ter",
                "precision",
                "recall",
                "contains",
                "k_precision",
                "k_recall",
                "k_f1",
                "k_precision_new",
                "words",
                "refusal",
                "accuracy",
                "mcc",
                "bypass",
                CodeOptions::NAME,
            ],
            // The harness has the first two; by word and byte lets targets of different lengths be averaged.
            Kind::Loglikelihood => &["perplexity", "acc", "word_perplexity", "byte_perplexity", "bits_per_byte"],
            Kind::LoglikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        }
    }
}
