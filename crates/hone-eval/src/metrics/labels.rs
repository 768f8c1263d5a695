//! Written answers as classes.
//!
//! `hf_evaluate: true` in a task file means the metric of the `evaluate` package: `accuracy`, `f1`, `precision` or `recall` of whole
//! numbers, as scikit-learn computes them. lm-evaluation-harness asks for it example by example, so it is a metric of one answer `p`
//! and one reference `g`, whatever `average` says:
//!
//! - `accuracy`, and the others with `average: micro`, `macro` or `weighted`: 1 if `p = g`, else 0;
//! - with `average: binary` (the default): 1 if `p = g = pos_label`, else 0; that neither of two different classes is `pos_label`
//!   is an error there and here.
//!
//! The mean of these is the accuracy, or the share of right answers of the one class: not the F1 over all examples.
//!
//! Without `hf_evaluate`, `mcc` and (with `aggregation: f1` or `matthews_corrcoef`) `f1` are computed once over all answers; each is
//! a class. Here an answer that is no whole number stands for its class by a number made of its text ([`class_of`]).
//!
//! What it does not know: `labels`, `sample_weight` and `zero_division`, which change nothing of a single pair of classes or weigh it.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::MetricError;

/// The metrics of `evaluate` that are computed of classes.
pub const NAMES: [&str; 4] = ["accuracy", "f1", "precision", "recall"];

/// A metric of one pair of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    metric: String,
    /// The class that counts, of a `binary` average.
    positive: Option<i64>,
}

impl Labels {
    /// By its name, one of [`NAMES`], with the options of a task file.
    ///
    /// # Errors
    /// An average that is none, or a class that is no whole number.
    pub fn from_options(metric: &str, options: &Map<String, Value>) -> Result<Labels, MetricError> {
        let wrong = |option: &str, expected: &str| MetricError::Option {
            metric: metric.into(),
            option: option.into(),
            found: options[option].to_string(),
            expected: expected.into(),
        };
        let positive = match options.get("pos_label") {
            None => 1,
            Some(class) => class.as_i64().ok_or_else(|| wrong("pos_label", "a whole number"))?,
        };
        let binary = match options.get("average").map(Value::as_str) {
            None => metric != NAMES[0],
            Some(Some("binary")) => true,
            Some(Some("micro" | "macro" | "weighted")) => false,
            Some(_) => return Err(wrong("average", "`binary`, `micro`, `macro` or `weighted`")),
        };
        Ok(Labels { metric: metric.into(), positive: binary.then_some(positive) })
    }

    /// Options of a metric.
    pub fn options(metric: &str) -> &'static [&'static str] {
        if metric == NAMES[0] { &[] } else { &["average", "pos_label"] }
    }

    /// The score of an answer; of several references the best one counts.
    ///
    /// # Errors
    /// A text that is no whole number; or two different classes, none of which is the one that counts.
    pub fn score(&self, text: &str, references: &[String]) -> Result<f64, MetricError> {
        let class = |text: &str| {
            whole(text).ok_or_else(|| MetricError::Class {
                metric: self.metric.clone(),
                found: text.to_owned(),
                expected: "a whole number; make the answers numbers, such as by the filter `map`".into(),
            })
        };
        let mut best: f64 = 0.0;
        for reference in references {
            let (predicted, right) = (class(text)?, class(reference)?);
            let counts = match self.positive {
                Some(positive) if predicted != right && predicted != positive && right != positive => {
                    return Err(MetricError::Class {
                        metric: self.metric.clone(),
                        found: format!("{predicted} for {right}"),
                        expected: format!(
                            "one of them to be the class {positive}; of more than two classes an `average` is taken: micro, \
                             macro or weighted"
                        ),
                    });
                }
                positive => predicted == right && positive.is_none_or(|positive| positive == right),
            };
            best = best.max(f64::from(counts));
        }
        Ok(best)
    }
}

/// A whole number as Python's `int` reads it, without underscores.
fn whole(text: &str) -> Option<i64> {
    let digits = text.trim();
    digits.parse().ok()
}

/// The number that a text's class goes by: its own, or, of what is no small whole number, one made of the text's SHA-256, above all
/// small ones.
pub fn class_of(text: &str) -> f64 {
    const SMALL: u64 = 1 << 31;
    match whole(text).filter(|class| class.unsigned_abs() < SMALL) {
        Some(class) => class as f64,
        None => {
            let hash = Sha256::digest(text);
            let number = hash.iter().take(6).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            ((1u64 << 48) | number) as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(metric: &str, options: Value) -> Result<Labels, MetricError> {
        Labels::from_options(metric, options.as_object().unwrap())
    }

    #[test]
    fn what_is_no_class_is_named() {
        let binary = labels("f1", json!({})).unwrap();
        let message = |text: &str, reference: &str| binary.score(text, &[reference.into()]).unwrap_err().to_string();
        assert!(message("[invalid]", "1").contains("metric `f1`: found `[invalid]`, expected a whole number"));
        assert!(message("2", "3").contains("2 for 3"));
        assert_eq!(binary.score(" +1 ", &["0".into(), "1".into()]).unwrap(), 1.0);
        let message = labels("recall", json!({"average": "samples"})).unwrap_err().to_string();
        assert!(message.contains("`average` is \"samples\", expected `binary`"), "{message}");
        assert!(labels("recall", json!({"pos_label": "a"})).is_err());
    }

    #[test]
    fn classes_are_told_apart_and_small_numbers_are_themselves() {
        assert_eq!(["-7", " 12 ", "0"].map(class_of), [-7.0, 12.0, 0.0]);
        let texts = ["yes", "no", "Yes", "", "12a", "99999999999", "-9223372036854775808", "9223372036854775807"];
        let classes = texts.map(class_of);
        for (i, class) in classes.iter().enumerate() {
            assert!(*class >= (1u64 << 48) as f64 && class.fract() == 0.0 && *class as i64 as f64 == *class);
            assert!(classes[..i].iter().all(|other| other != class), "{}", texts[i]);
        }
    }
}
