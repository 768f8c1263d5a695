//! The steps from rows to a metric's value: the formula with this run's numbers in it.

use crate::metrics::best_of::{TieItem, Ties, pairs};
use crate::metrics::bleu::BleuCounts;
use crate::metrics::chrf::{CHARACTER_ORDER, ChrfCounts, OrderCounts};
use crate::metrics::ter::TerCounts;
use crate::metrics::{Aggregation, ExampleScore};
use crate::scorecard::MetricValue;

use super::number;

/// The formula of `metric` over `examples`, filled in.
pub(super) fn of(metric: &MetricValue, examples: &[ExampleScore]) -> Vec<String> {
    let name = &metric.name;
    let value = number(metric.aggregation.value(examples.iter()));
    let n = examples.len();
    match metric.aggregation {
        Aggregation::Mean if right_or_wrong(examples) && metric.counts_answers_to_avoid() => {
            let count = examples.iter().filter(|example| example.score == 1.0).count();
            vec![format!("{name} = {count} such answers / {n} questions = {value} (less is better)")]
        }
        Aggregation::Mean if right_or_wrong(examples) => {
            let right = examples.iter().filter(|example| example.score == 1.0).count();
            vec![format!("{name} = {right} right / {n} questions = {value}")]
        }
        Aggregation::Mean => {
            let sum: f64 = examples.iter().map(|example| example.score).sum();
            vec![format!("{name} = sum of scores {} / {n} questions = {value}", number(sum))]
        }
        Aggregation::NanMean => {
            let numbers: Vec<f64> = examples.iter().map(|e| e.score).filter(|score| !score.is_nan()).collect();
            let sum: f64 = numbers.iter().sum();
            let of = numbers.len();
            vec![format!("{name} = sum of scores {} / {of} questions that have one, of {n} = {value}", number(sum))]
        }
        Aggregation::Median => {
            vec![
                "the task's file asks for the median of the questions' scores in place of their mean".into(),
                format!("{name} = the score at place {} of {n} in order = {value}", n / 2 + 1),
            ]
        }
        Aggregation::Bypass => vec![format!("{name} = {value}, whatever the answers are: nothing is to be computed")],
        Aggregation::WeightedPerplexity => {
            let (log_likelihood, per) = sums(examples);
            let unit = unit(name);
            vec![format!("{name} = exp(−({}) / {} {unit}) = {value}", number(log_likelihood), number(per))]
        }
        Aggregation::BitsPerByte => {
            let (log_likelihood, bytes) = sums(examples);
            vec![format!("{name} = −({}) / (0.6931 · {} bytes) = {value}", number(log_likelihood), number(bytes))]
        }
        Aggregation::F1 => {
            let (hits, missed, wrong) = classes(examples);
            vec![
                format!("class 1 found {hits} times, missed {missed} times, named wrongly {wrong} times"),
                format!("{name} = 2 · {hits} / (2 · {hits} + {missed} + {wrong}) = {value}"),
            ]
        }
        Aggregation::MatthewsCorrcoef => {
            let hits = examples.iter().filter(|example| part(example, 0) == part(example, 1)).count();
            let mut pairs: Vec<(i64, i64)> =
                examples.iter().map(|example| (part(example, 0) as i64, part(example, 1) as i64)).collect();
            pairs.sort_unstable();
            let counted =
                pairs.chunk_by(|a, b| a == b).map(|same| format!("{} as {}: {}", same[0].0, same[0].1, same.len()));
            vec![
                format!("right class as picked class: {}", counted.collect::<Vec<_>>().join(", ")),
                format!("{name} = {value} ({hits} of {n} on the diagonal)"),
            ]
        }
        Aggregation::Ece { bins } => calibration(name, examples, bins, &value),
        Aggregation::Bleu | Aggregation::BleuNone | Aggregation::BleuFloor | Aggregation::BleuAddK => {
            bleu(name, examples, &value)
        }
        Aggregation::Chrf | Aggregation::ChrfWords => chrf(name, examples, &value),
        Aggregation::Ter => {
            let mut sum = TerCounts::default();
            for counts in examples.iter().filter_map(|example| TerCounts::from_numbers(&example.parts)) {
                sum.add(&counts);
            }
            vec![format!("{name} = 100 · {} edits / {} words = {value}", number(sum.edits), number(sum.words))]
        }
        Aggregation::Ties => {
            let items = examples.iter().filter_map(|example| TieItem::from_parts(&example.parts));
            let ties = Ties::of_pairs(pairs(items).into_iter());
            vec![
                format!(
                    "{} prompts with one item of one right completion (ref) and one of several (tied)",
                    ties.prompts
                ),
                format!(
                    "right above wrong: ref {}, tied {}; margin over spread: {}, with the smaller margin {}; smooth {}",
                    number(ties.accurate_ref),
                    number(ties.accurate_tied),
                    number(ties.over_spread),
                    number(ties.over_spread_hard),
                    number(ties.smooth)
                ),
                format!("{name} = 0.3 tied + 0.3 ref + 0.2 over spread + 0.2 smaller + 0.01 smooth = {value}"),
            ]
        }
    }
}

/// Whether every score is 1 or 0.
pub(super) fn right_or_wrong(examples: &[ExampleScore]) -> bool {
    examples.iter().all(|example| example.score == 0.0 || example.score == 1.0)
}

fn part(example: &ExampleScore, i: usize) -> f64 {
    example.parts.get(i).copied().unwrap_or(f64::NAN)
}

fn sums(examples: &[ExampleScore]) -> (f64, f64) {
    examples.iter().fold((0.0, 0.0), |(a, b), example| (a + part(example, 0), b + part(example, 1)))
}

/// What a perplexity is by.
fn unit(name: &str) -> &'static str {
    match name {
        word if word.starts_with("word") => "words",
        byte if byte.starts_with("byte") => "bytes",
        _ => "questions",
    }
}

/// Of class 1: found, missed, named where it was not right.
fn classes(examples: &[ExampleScore]) -> (usize, usize, usize) {
    let count = |right: bool, picked: bool| {
        examples.iter().filter(|e| (part(e, 0) == 1.0) == right && (part(e, 1) == 1.0) == picked).count()
    };
    (count(true, true), count(true, false), count(false, true))
}

/// A line a bin that holds an answer.
fn calibration(name: &str, examples: &[ExampleScore], bins: u32, value: &str) -> Vec<String> {
    let n = examples.len() as f64;
    let place = |confidence: f64| (confidence * f64::from(bins)).ceil().clamp(1.0, f64::from(bins.max(1))) as u32;
    let mut lines = Vec::new();
    for bin in 1..=bins.max(1) {
        let inside: Vec<&ExampleScore> = examples.iter().filter(|example| place(part(example, 0)) == bin).collect();
        if inside.is_empty() {
            continue;
        }
        let count = inside.len() as f64;
        let mean = |i: usize| inside.iter().map(|example| part(example, i)).sum::<f64>() / count;
        let (confidence, right) = (mean(0), mean(1));
        lines.push(format!(
            "confidence {:.0} to {:.0} %: {} answers, right {:.1} %, confident {:.1} %, adds {}",
            100.0 * f64::from(bin - 1) / f64::from(bins),
            100.0 * f64::from(bin) / f64::from(bins),
            inside.len(),
            100.0 * right,
            100.0 * confidence,
            number(count / n * (right - confidence).abs()),
        ));
    }
    lines.push(format!("{name} = what the bins add, together = {value}"));
    lines
}

fn bleu(name: &str, examples: &[ExampleScore], value: &str) -> Vec<String> {
    let mut sum = BleuCounts::default();
    for counts in examples.iter().filter_map(|example| BleuCounts::from_numbers(&example.parts)) {
        sum.add(&counts);
    }
    let orders: Vec<String> = sum
        .matches
        .iter()
        .zip(&sum.totals)
        .enumerate()
        .map(|(i, (m, t))| format!("{}-grams {m} of {t}", i + 1))
        .collect();
    vec![
        format!("matches: {}; words: answers {}, references {}", orders.join(", "), sum.hypothesis, sum.reference),
        format!("{name} = {value}, from these counts over all answers"),
    ]
}

fn chrf(name: &str, examples: &[ExampleScore], value: &str) -> Vec<String> {
    let mut sum = ChrfCounts::default();
    for counts in examples.iter().filter_map(|example| ChrfCounts::from_numbers(&example.parts)) {
        sum.add(&counts);
    }
    let order = |(i, order): (usize, &OrderCounts)| {
        let of = match i.checked_sub(CHARACTER_ORDER) {
            None => format!("{} characters", i + 1),
            Some(words) => format!("{} words", words + 1),
        };
        format!("{of} {} of {} and {}", order.matches, order.hypothesis, order.reference)
    };
    let orders: Vec<String> = sum.orders.iter().enumerate().map(order).collect();
    vec![
        format!("runs in common, of those in answers and in references: {}", orders.join(", ")),
        format!("{name} = {value}, from these counts over all answers"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::chrf::Grams;

    fn metric(name: &str, aggregation: Aggregation) -> MetricValue {
        MetricValue { name: name.into(), aggregation, ..MetricValue::default() }
    }

    fn examples(rows: &[(f64, &[f64])]) -> Vec<ExampleScore> {
        rows.iter().map(|(score, parts)| ExampleScore { score: *score, parts: parts.to_vec() }).collect()
    }

    #[test]
    fn formulas_hold_the_runs_own_numbers() {
        let right = examples(&[(1.0, &[]), (0.0, &[]), (1.0, &[]), (0.0, &[]), (1.0, &[])]);
        assert_eq!(of(&metric("acc", Aggregation::Mean), &right), ["acc = 3 right / 5 questions = 0.6000"]);
        let scores = examples(&[(0.25, &[]), (0.5, &[])]);
        assert_eq!(of(&metric("f1", Aggregation::Mean), &scores), ["f1 = sum of scores 0.7500 / 2 questions = 0.3750"]);
        let documents = examples(&[(0.0, &[-12.0, 3.0]), (0.0, &[-8.0, 5.0])]);
        let found = of(&metric("word_perplexity", Aggregation::WeightedPerplexity), &documents);
        assert_eq!(found, ["word_perplexity = exp(−(−20) / 8 words) = 12.1825"]);
    }

    #[test]
    fn classes_and_bins_are_counted() {
        let classes = examples(&[(1.0, &[1.0, 1.0]), (0.0, &[1.0, 0.0]), (0.0, &[0.0, 1.0]), (1.0, &[0.0, 0.0])]);
        let found = of(&metric("f1", Aggregation::F1), &classes);
        assert_eq!(found[1], "f1 = 2 · 1 / (2 · 1 + 1 + 1) = 0.5000");
        let found = of(&metric("mcc", Aggregation::MatthewsCorrcoef), &classes);
        assert_eq!(found[0], "right class as picked class: 0 as 0: 1, 0 as 1: 1, 1 as 0: 1, 1 as 1: 1");
        let answers = examples(&[(0.0, &[0.55, 1.0]), (0.0, &[0.58, 0.0]), (0.0, &[0.95, 1.0])]);
        let found = of(&metric("ece", Aggregation::Ece { bins: 10 }), &answers);
        assert_eq!(found[0], "confidence 50 to 60 %: 2 answers, right 50.0 %, confident 56.5 %, adds 0.0433");
        assert_eq!(found[2], "ece = what the bins add, together = 0.0600");
    }

    #[test]
    fn chrf_and_ter_show_their_counts() {
        let counts = ChrfCounts::new("abcd", &["abce"], Grams::CharactersAndWords);
        let rows = [ExampleScore { score: 0.0, parts: counts.to_numbers() }];
        let found = of(&metric("chrf++", Aggregation::ChrfWords), &rows);
        assert!(found[0].contains("1 characters 3 of 4 and 4, 2 characters 2 of 3 and 3,"), "{found:?}");
        assert!(found[0].ends_with("1 words 0 of 1 and 1, 2 words 0 of 0 and 0"), "{found:?}");
        let rows = [ExampleScore { score: 50.0, parts: vec![2.0, 4.0] }];
        assert_eq!(of(&metric("ter", Aggregation::Ter), &rows), ["ter = 100 · 2 edits / 4 words = 50"]);
    }

    #[test]
    fn bleu_shows_its_counts() {
        let counts = BleuCounts::new("the cat sat on the mat", &["the cat is on the mat"]);
        let rows = [ExampleScore { score: 0.0, parts: counts.to_numbers() }];
        let found = of(&metric("bleu", Aggregation::Bleu), &rows);
        assert!(found[0].starts_with("matches: 1-grams 5 of 6, 2-grams 3 of 5,"), "{found:?}");
    }
}
