//! Metrics by name: what one example scores, and how examples make a task's score.
//!
//! Most metrics are means of per-example scores. Some are not (perplexity, BLEU, chrF, TER, F1 over classes, Matthews
//! correlation, calibration error): for those an example also keeps its [`ExampleScore::parts`], the numbers the task's score is computed
//! from, so that a scorecard can be aggregated again, resampled and compared without the model.
//!
//! A task file may name another aggregation of the harness' (`aggregation: median`): any that is for what an example of the metric is
//! ([`Metric::aggregate_by`]): a number, a pair of classes, a log-likelihood and a length, or an answer and its references.
//!
//! Names and definitions are those of lm-evaluation-harness, `rouge-score`, `sacrebleu`, the SQuAD script and scikit-learn.
//! Nothing here knows of models or files.

mod aggregated;
pub mod aggregation;
pub mod best_of;
pub mod bleu;
pub mod calibration;
pub mod choice;
pub mod chrf;
pub mod definitions;
pub mod documents;
pub mod exact_match;
pub mod kind;
pub mod labels;
pub mod porter;
pub mod refusal;
pub mod rouge;
pub mod squad;
pub mod ter;

use serde_json::{Map, Value};

use crate::code::CodeOptions;
use crate::python::regex::RegexError;
use crate::python::{count_words, is_space};
pub use aggregation::{Aggregation, ExampleScore};
use bleu::{BleuCounts, Smoothing};
use choice::ChoiceOutcome;
use chrf::{ChrfCounts, Grams};
use documents::Document;
use exact_match::ExactMatch;
pub use kind::Kind;
use labels::Labels;
use refusal::Refusal;
use rouge::Rouge;
use ter::TerCounts;

/// What is wrong with a metric of a task file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// No such metric, or not for this kind of task.
    #[error("unknown metric `{found}` for {kind} tasks{hint}; known: {known}")]
    Unknown {
        /// As written.
        found: String,
        /// The task's kind.
        kind: &'static str,
        /// `; did you mean …?`
        hint: String,
        /// Those there are.
        known: String,
    },
    /// An option that is none, or has no such value.
    #[error("metric `{metric}`: option `{option}` is {found}, expected {expected}")]
    Option {
        /// The metric.
        metric: String,
        /// The option.
        option: String,
        /// As written.
        found: String,
        /// What there is.
        expected: String,
    },
    /// An aggregation that is none, or not for what an example of the metric is.
    #[error("metric `{metric}` is not aggregated by `{found}`; it can be by {known}")]
    Aggregation {
        /// The metric.
        metric: String,
        /// As written.
        found: String,
        /// Those there are for it.
        known: String,
    },
    /// An answer or a reference that is no class of the metric's.
    #[error("metric `{metric}`: found `{found}`, expected {expected}")]
    Class {
        /// The metric.
        metric: String,
        /// The text, or the classes.
        found: String,
        /// What there should be.
        expected: String,
    },
    /// A pattern in an option.
    #[error(transparent)]
    Regex(#[from] RegexError),
}

/// What is compared for one example.
enum Measure {
    Acc,
    AccNorm,
    AccBytes,
    AccMutualInfo,
    GreedyChoice,
    Brier,
    Calibration {
        bins: u32,
    },
    ClassF1,
    Matthews,
    BestOf,
    Ties,
    Perplexity,
    PerWord,
    PerByte,
    BitsPerByte,
    ExactMatch(ExactMatch),
    TokenF1,
    Rouge(Rouge, bool),
    Bleu(Smoothing),
    Chrf(Grams),
    Ter,
    Document(Document),
    Refusal(Refusal),
    Code(CodeOptions),
    Labels(Labels),
    /// The class that a text is, and that of the reference.
    TextClasses,
    Nothing,
}

/// A metric of a task.
pub struct Metric {
    /// As in the task file.
    pub name: String,
    /// How examples make the task's score.
    pub aggregation: Aggregation,
    /// Whether more is better.
    pub higher_is_better: bool,
    measure: Measure,
    /// The harness' name of the aggregation.
    aggregated: &'static str,
}

/// A document's log-likelihood with the lengths it is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RollingOutcome {
    /// Natural log-probability of the whole document.
    pub log_likelihood: f64,
    /// Words, by runs of white space.
    pub words: usize,
    /// UTF-8 bytes.
    pub bytes: usize,
}

/// A written answer, and what it is held against.
#[derive(Clone, Copy, Debug)]
pub struct TextOutcome<'a> {
    /// What the filters left of the answer.
    pub text: &'a str,
    /// Right answers.
    pub references: &'a [String],
    /// What was asked.
    pub prompt: &'a str,
    /// The passage the answer should rest on.
    pub passage: Option<&'a str>,
    /// All answers as they were written, of a task with `repeats`.
    pub responses: &'a [String],
}

impl Metric {
    /// A metric by name with its options (what the task file's entry has besides `metric`, `aggregation`,
    /// `higher_is_better`). `hf_evaluate: true` means the metric of that name of the `evaluate` package, for written answers.
    pub fn new(kind: Kind, name: &str, options: &Map<String, Value>) -> Result<Metric, MetricError> {
        let unknown = || MetricError::Unknown {
            found: name.into(),
            kind: kind.name(),
            hint: crate::error::did_you_mean(name, kind.metrics().iter().copied()),
            known: kind.metrics().join(", "),
        };
        let draws = CodeOptions::k_of(name).filter(|_| kind == Kind::GenerateUntil);
        if draws.is_none() && !kind.metrics().contains(&name) {
            return Err(unknown());
        }
        // A name that the harness has not is `evaluate`'s there.
        let by_evaluate = kind == Kind::GenerateUntil
            && (name == "accuracy" || options.get("hf_evaluate") == Some(&Value::Bool(true)));
        if by_evaluate && name != "exact_match" && !labels::NAMES.contains(&name) {
            return Err(MetricError::Option {
                metric: name.into(),
                option: "hf_evaluate".into(),
                found: "true".into(),
                expected: format!(
                    "`false`; of the metrics of `evaluate` there are exact_match, {}",
                    labels::NAMES.join(", ")
                ),
            });
        }
        let allowed: &[&str] = match (kind, name) {
            _ if by_evaluate && name != "exact_match" => Labels::options(name),
            (Kind::MultipleChoice, calibration::NAME) => &[calibration::OPTION],
            (Kind::MultipleChoice, best_of::NAME) => &[best_of::OPTION],
            (Kind::GenerateUntil, "exact_match") => &ExactMatch::OPTIONS,
            (Kind::GenerateUntil, "bleu") => &["smooth_method"],
            (Kind::GenerateUntil, refusal::NAME) => &Refusal::OPTIONS,
            (Kind::GenerateUntil, rouge) if rouge.starts_with("rouge") => &["use_stemmer"],
            _ if draws.is_some() => &CodeOptions::OPTIONS,
            _ => &[],
        };
        let is_extra = |option: &str| option != "hf_evaluate" && !allowed.contains(&option);
        if let Some((option, value)) = options.iter().find(|(option, _)| is_extra(option)) {
            return Err(MetricError::Option {
                metric: name.into(),
                option: option.clone(),
                found: value.to_string(),
                expected: match allowed {
                    [] => "no options".into(),
                    some => format!("one of the options {}", some.join(", ")),
                },
            });
        }
        let stemmed = matches!(options.get("use_stemmer"), Some(Value::Bool(true)));
        let measure = match (kind, name) {
            _ if by_evaluate && name != "exact_match" => Measure::Labels(Labels::from_options(name, options)?),
            (Kind::GenerateUntil, "mcc") => Measure::TextClasses,
            (_, "bypass") => Measure::Nothing,
            (Kind::MultipleChoice | Kind::Loglikelihood, "acc") => Measure::Acc,
            (_, "acc_norm") => Measure::AccNorm,
            (_, "acc_bytes") => Measure::AccBytes,
            (_, "acc_mutual_info") => Measure::AccMutualInfo,
            (Kind::MultipleChoice, "exact_match") => Measure::GreedyChoice,
            (_, "brier_score") => Measure::Brier,
            (_, calibration::NAME) => {
                Measure::Calibration { bins: calibration::bins_option(options.get(calibration::OPTION))? }
            }
            (Kind::MultipleChoice, "f1") => Measure::ClassF1,
            (_, best_of::NAME) => match options.get(best_of::OPTION).map(Value::as_str) {
                None | Some(Some("best")) => Measure::BestOf,
                Some(Some("ties")) => Measure::Ties,
                Some(_) => {
                    return Err(MetricError::Option {
                        metric: name.into(),
                        option: best_of::OPTION.into(),
                        found: options[best_of::OPTION].to_string(),
                        expected: "`best` or `ties`".into(),
                    });
                }
            },
            (_, "mcc") => Measure::Matthews,
            (_, "perplexity") => Measure::Perplexity,
            (_, "word_perplexity") => Measure::PerWord,
            (_, "byte_perplexity") => Measure::PerByte,
            (_, "bits_per_byte") => Measure::BitsPerByte,
            (_, "exact_match") => Measure::ExactMatch(ExactMatch::from_options(options)?),
            (_, "f1") => Measure::TokenF1,
            (_, "rouge1") => Measure::Rouge(Rouge::N(1), stemmed),
            (_, "rouge2") => Measure::Rouge(Rouge::N(2), stemmed),
            (_, "rougeL") => Measure::Rouge(Rouge::L, stemmed),
            (_, "rougeLsum") => Measure::Rouge(Rouge::Lsum, stemmed),
            (_, refusal::NAME) => Measure::Refusal(Refusal::from_options(options)?),
            (Kind::GenerateUntil, name) if Document::from_name(name).is_some() => {
                Measure::Document(Document::from_name(name).ok_or_else(unknown)?)
            }
            (_, "chrf") => Measure::Chrf(Grams::Characters),
            (_, "chrf++") => Measure::Chrf(Grams::CharactersAndWords),
            (_, "ter") => Measure::Ter,
            (_, "bleu") => Measure::Bleu(bleu::smoothing_option(options.get("smooth_method"))?),
            _ => match draws {
                Some(k) => Measure::Code(CodeOptions::from_options(name, k, options)?),
                None => return Err(unknown()),
            },
        };
        let (aggregation, aggregated) = measure.aggregated();
        Ok(Metric { name: name.into(), aggregation, higher_is_better: !measure.less_is_better(), measure, aggregated })
    }

    /// Whether values are shares between 0 and 1, printed as points.
    pub fn is_share(&self) -> bool {
        let of_shares = matches!(
            self.aggregation,
            Aggregation::Mean
                | Aggregation::NanMean
                | Aggregation::Median
                | Aggregation::F1
                | Aggregation::Ece { .. }
                | Aggregation::Ties
        );
        let is_free = matches!(self.measure, Measure::Brier | Measure::Perplexity | Measure::Document(Document::Words));
        of_shares && !is_free
    }

    /// Whether the log-likelihoods of the choices without the prompt are needed.
    pub fn needs_unconditional(&self) -> bool {
        matches!(self.measure, Measure::AccMutualInfo)
    }

    /// Whether it takes items of one prompt together, which the task must name (`doc_to_group`).
    pub fn needs_group(&self) -> bool {
        matches!(self.measure, Measure::Ties)
    }

    /// Whether it asks only which choices score higher than others, so that any score will do.
    pub fn takes_any_score(&self) -> bool {
        matches!(self.measure, Measure::Acc | Measure::BestOf | Measure::Ties)
    }

    /// The choice this metric takes for the model's answer.
    pub fn picked(&self, outcome: &ChoiceOutcome<'_>) -> Option<usize> {
        match self.measure {
            Measure::AccNorm => choice::argmax(outcome.per_character()),
            Measure::AccBytes => choice::argmax(outcome.per_byte()),
            Measure::AccMutualInfo => choice::argmax(outcome.over_unconditional()),
            _ => outcome.predicted(),
        }
    }

    /// A multiple-choice example's score.
    pub fn of_choices(&self, outcome: &ChoiceOutcome<'_>) -> ExampleScore {
        let classes = |outcome: &ChoiceOutcome<'_>| {
            let gold = outcome.gold.indices.first().map_or(-100.0, |&i| i as f64);
            let predicted = outcome.predicted().map_or(-100.0, |i| i as f64);
            ExampleScore { score: outcome.acc(), parts: vec![gold, predicted] }
        };
        let score = match self.measure {
            Measure::AccNorm => ExampleScore::plain(outcome.acc_norm()),
            Measure::AccBytes => ExampleScore::plain(outcome.acc_bytes()),
            Measure::AccMutualInfo => ExampleScore::plain(outcome.acc_mutual_info()),
            Measure::GreedyChoice => ExampleScore::plain(outcome.exact_match()),
            Measure::Brier => ExampleScore::plain(outcome.brier()),
            Measure::Calibration { .. } => {
                let (confidence, correct) = (outcome.confidence(), outcome.acc());
                // Alone in its bin an example is off by so much.
                ExampleScore { score: (correct - confidence).abs(), parts: vec![confidence, correct] }
            }
            Measure::ClassF1 | Measure::Matthews => classes(outcome),
            Measure::BestOf => ExampleScore::plain(best_of::best_of(outcome.log_likelihoods, &outcome.gold.indices)),
            Measure::Ties => best_of::tie_score(outcome),
            _ => ExampleScore::plain(outcome.acc()),
        };
        self.shaped(score)
    }

    /// A number, in the shape that its aggregation takes.
    fn shaped(&self, score: ExampleScore) -> ExampleScore {
        match self.aggregation {
            Aggregation::WeightedPerplexity if score.parts.is_empty() => {
                ExampleScore { score: (-score.score).exp().min(f64::MAX), parts: vec![score.score, 1.0] }
            }
            _ => score,
        }
    }

    /// A target's score: `acc` is whether greedy decoding writes it; `perplexity` is by document, not by token.
    pub fn of_target(&self, log_likelihood: f64, is_greedy: bool, target: &str) -> ExampleScore {
        match self.measure {
            Measure::Perplexity => self.shaped(ExampleScore::plain(log_likelihood)),
            Measure::PerWord | Measure::PerByte | Measure::BitsPerByte => {
                let target = target.trim_matches(is_space);
                self.of_rolling(RollingOutcome { log_likelihood, words: count_words(target), bytes: target.len() })
            }
            _ => self.shaped(ExampleScore::plain(f64::from(is_greedy))),
        }
    }

    /// A document's score.
    pub fn of_rolling(&self, outcome: RollingOutcome) -> ExampleScore {
        let per = |n: usize| vec![outcome.log_likelihood, n as f64];
        let parts = match self.measure {
            Measure::PerWord => per(outcome.words),
            _ => per(outcome.bytes),
        };
        let alone = ExampleScore { score: f64::NAN, parts };
        ExampleScore { score: self.aggregation.value(std::iter::once(&alone)), ..alone }
    }

    /// How the answers' code is run and counted, of a metric that runs it.
    pub fn code(&self) -> Option<&CodeOptions> {
        match &self.measure {
            Measure::Code(options) => Some(options),
            _ => None,
        }
    }

    /// Whether the metric holds the answer against a passage, which the task must name (`doc_to_passage`).
    pub fn needs_passage(&self) -> bool {
        matches!(&self.measure, Measure::Document(document) if document.needs_passage())
    }

    /// A generated text's score against its references: the best one counts; BLEU and TER take all of them together.
    pub fn of_text(&self, outcome: &TextOutcome<'_>) -> Result<ExampleScore, MetricError> {
        let &TextOutcome { text, references, .. } = outcome;
        let best = |score: &dyn Fn(&str) -> f64| references.iter().map(|r| score(r)).fold(0.0, f64::max);
        let score = match &self.measure {
            Measure::Labels(labels) => ExampleScore::plain(labels.score(text, references)?),
            Measure::TextClasses => {
                let [reference] = references else {
                    return Err(MetricError::Class {
                        metric: self.name.clone(),
                        found: references.join(" | "),
                        expected: "one right answer, whose class it is".into(),
                    });
                };
                let [right, predicted] = [reference.as_str(), text].map(labels::class_of);
                ExampleScore { score: f64::from(right == predicted), parts: vec![right, predicted] }
            }
            Measure::Nothing => ExampleScore::plain(aggregated::BYPASS),
            Measure::ExactMatch(exact) => {
                let mut score: f64 = 0.0;
                for reference in references {
                    score = score.max(exact.score(text, reference)?);
                }
                ExampleScore::plain(score)
            }
            Measure::Rouge(variant, stemmed) => {
                ExampleScore::plain(best(&|r| rouge::rouge(*variant, r, text, *stemmed).f))
            }
            Measure::Bleu(smoothing) => {
                let references: Vec<&str> = references.iter().map(String::as_str).collect();
                let counts = BleuCounts::new(text, &references);
                ExampleScore { score: counts.score(*smoothing, true), parts: counts.to_numbers() }
            }
            Measure::Chrf(grams) => {
                let references: Vec<&str> = references.iter().map(String::as_str).collect();
                let counts = ChrfCounts::new(text, &references, *grams);
                ExampleScore { score: counts.score(), parts: counts.to_numbers() }
            }
            Measure::Ter => {
                let references: Vec<&str> = references.iter().map(String::as_str).collect();
                let counts = TerCounts::new(text, &references);
                ExampleScore { score: counts.score(), parts: counts.to_numbers() }
            }
            Measure::Document(document) => ExampleScore::plain(document.score(outcome)),
            Measure::Refusal(refusal) => ExampleScore::plain(f64::from(refusal.is_refusal(text))),
            _ => ExampleScore::plain(best(&|r| squad::token_f1(text, r))),
        };
        Ok(self.shaped(score))
    }
}

#[cfg(test)]
mod tests;
