//! How a metric's examples are aggregated: as the metric has it, or as a task file names another of the harness' aggregations.
//!
//! The harness takes any aggregation of whatever an example is. Here it has to be for that: a number, a pair of classes, a
//! log-likelihood with a length, or an answer with its references; of the others the harness makes an error or nonsense.

use super::bleu::Smoothing;
use super::chrf::Grams;
use super::documents::Document;
use super::{Aggregation, Measure, Metric, MetricError, calibration};

/// What the harness' `bypass` says of anything.
pub(super) const BYPASS: f64 = 999.0;

/// Aggregations of what an example is, by the harness' names; `bypass` is for anything.
const OF_NUMBERS: [&str; 5] = ["mean", "nanmean", "median", "perplexity", "bypass"];
const OF_CLASSES: [&str; 3] = ["f1", "matthews_corrcoef", "bypass"];
const OF_LENGTHS: [&str; 3] = ["weighted_perplexity", "bits_per_byte", "bypass"];
const OF_TEXTS: [&str; 5] = ["bleu", "chrf", "chrf++", "ter", "bypass"];

impl Measure {
    /// The aggregation that the metric has, and the harness' name of it.
    pub(super) fn aggregated(&self) -> (Aggregation, &'static str) {
        match self {
            Measure::Perplexity => (Aggregation::WeightedPerplexity, "perplexity"),
            Measure::PerWord | Measure::PerByte => (Aggregation::WeightedPerplexity, "weighted_perplexity"),
            Measure::BitsPerByte => (Aggregation::BitsPerByte, "bits_per_byte"),
            Measure::Brier => (Aggregation::Mean, "brier_score"),
            Measure::Calibration { bins } => (Aggregation::Ece { bins: *bins }, calibration::NAME),
            Measure::ClassF1 => (Aggregation::F1, "f1"),
            Measure::Matthews | Measure::TextClasses => (Aggregation::MatthewsCorrcoef, "matthews_corrcoef"),
            Measure::Ties => (Aggregation::Ties, "ties"),
            Measure::Bleu(Smoothing::Exp) => (Aggregation::Bleu, "bleu"),
            Measure::Bleu(Smoothing::None) => (Aggregation::BleuNone, "bleu"),
            Measure::Bleu(Smoothing::Floor) => (Aggregation::BleuFloor, "bleu"),
            Measure::Bleu(Smoothing::AddK) => (Aggregation::BleuAddK, "bleu"),
            Measure::Chrf(Grams::Characters) => (Aggregation::Chrf, "chrf"),
            Measure::Chrf(Grams::CharactersAndWords) => (Aggregation::ChrfWords, "chrf++"),
            Measure::Ter => (Aggregation::Ter, "ter"),
            Measure::Nothing => (Aggregation::Bypass, "bypass"),
            _ => (Aggregation::Mean, "mean"),
        }
    }

    /// Whether a lower score is better.
    pub(super) fn less_is_better(&self) -> bool {
        matches!(
            self,
            Measure::Perplexity
                | Measure::PerWord
                | Measure::PerByte
                | Measure::BitsPerByte
                | Measure::Brier
                | Measure::Calibration { .. }
                | Measure::Ter
                | Measure::Document(Document::Words)
        )
    }
}

impl Metric {
    /// The aggregations, by the harness' names, that are for what an example of the metric is.
    fn aggregations(&self) -> Vec<&'static str> {
        match &self.measure {
            Measure::ClassF1 | Measure::Matthews | Measure::TextClasses => OF_CLASSES.to_vec(),
            Measure::PerWord | Measure::PerByte | Measure::BitsPerByte => OF_LENGTHS.to_vec(),
            Measure::Bleu(_) | Measure::Chrf(_) | Measure::Ter => OF_TEXTS.to_vec(),
            Measure::Brier | Measure::Calibration { .. } | Measure::Ties | Measure::Nothing => {
                vec![self.aggregated, "bypass"]
            }
            // Its parts are those of the answers that were run.
            Measure::Code(_) => OF_NUMBERS.into_iter().filter(|name| *name != "perplexity").collect(),
            Measure::TokenF1 => OF_CLASSES[..2].iter().chain(&OF_NUMBERS).copied().collect(),
            _ => OF_NUMBERS.to_vec(),
        }
    }

    /// Lets the examples be aggregated in another way, by the harness' name of it.
    ///
    /// # Errors
    /// There is none of the name, or it is for examples of another kind.
    pub fn aggregate_by(&mut self, named: &str) -> Result<(), MetricError> {
        if named == self.aggregated {
            return Ok(());
        }
        let known = self.aggregations();
        let Some(name) = known.iter().copied().find(|known| *known == named) else {
            return Err(MetricError::Aggregation {
                metric: self.name.clone(),
                found: named.into(),
                known: known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            });
        };
        // Of a translation the numbers are others; of written answers the classes are meant.
        let measure = match name {
            "bleu" => Some(Measure::Bleu(Smoothing::Exp)),
            "chrf" => Some(Measure::Chrf(Grams::Characters)),
            "chrf++" => Some(Measure::Chrf(Grams::CharactersAndWords)),
            "ter" => Some(Measure::Ter),
            "f1" | "matthews_corrcoef" if matches!(self.measure, Measure::TokenF1) => Some(Measure::TextClasses),
            _ => None,
        };
        if let Some(measure) = measure {
            self.measure = measure;
        }
        self.aggregated = name;
        self.aggregation = match name {
            "nanmean" => Aggregation::NanMean,
            "median" => Aggregation::Median,
            "perplexity" | "weighted_perplexity" => Aggregation::WeightedPerplexity,
            "bits_per_byte" => Aggregation::BitsPerByte,
            "f1" => Aggregation::F1,
            "matthews_corrcoef" => Aggregation::MatthewsCorrcoef,
            "bleu" => Aggregation::Bleu,
            "chrf" => Aggregation::Chrf,
            "chrf++" => Aggregation::ChrfWords,
            "ter" => Aggregation::Ter,
            "bypass" => Aggregation::Bypass,
            _ => Aggregation::Mean,
        };
        Ok(())
    }

    /// The harness' name of the aggregation.
    pub fn aggregated_by(&self) -> &'static str {
        self.aggregated
    }
}
