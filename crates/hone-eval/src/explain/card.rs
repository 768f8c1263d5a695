//! A metric of one scorecard, explained.

use rayon::prelude::*;
use serde_json::Value;

use super::shown::{self, Texts};
use super::{ExplainError, Explanation, Fact, Options, how, names, number, steps};
use crate::intervals::interval_of;
use crate::metrics::definitions::Definition;
use crate::metrics::{Aggregation, ExampleScore, Kind, definitions};
use crate::scorecard::{MetricValue, Scorecard, ScorecardHeader, ScorecardRow};

/// Relative difference between a header's value and its rows' that rounding explains.
const ROUNDING: f64 = 1e-9;

/// Explains the metric `asked` of a card.
///
/// # Errors
/// The card has no such metric; the error names those it has.
pub fn of(card: &Scorecard, asked: &str, options: &Options) -> Result<Explanation, ExplainError> {
    let header = &card.header;
    let Some(metric) = header.metrics.iter().find(|metric| names(asked, &metric.name)) else {
        let known: Vec<&str> = header.metrics.iter().map(|metric| metric.name.as_str()).collect();
        return Err(ExplainError::unknown(asked, &format!("the scorecard of {}", header.task), &known));
    };
    let examples: Vec<ExampleScore> = card.rows.iter().map(|row| scored(row, metric)).collect();
    let value = metric.aggregation.value(examples.iter());
    let mut steps = vec![format!("{}: {}", metric.name, formula(header, &metric.name))];
    steps.extend(steps::of(metric, &examples));
    steps.extend(stderr(metric, &examples));
    let on = |indices: &[usize]| metric.aggregation.value(indices.iter().map(|&i| &examples[i]));
    let ends = interval_of(metric.aggregation, &examples, &options.bootstrap, &on);
    let interval = (ends.low.is_finite() && ends.high.is_finite()).then_some((ends.low, ends.high));
    if let Some((low, high)) = interval {
        let level = 100.0 * options.bootstrap.level;
        let drawn = match metric.aggregation.units(&examples) {
            None => format!("the {} questions", examples.len()),
            Some(prompts) => format!("the {} prompts, each with its items", prompts.len()),
        };
        let made = how(&options.bootstrap, &drawn);
        steps.push(format!("{level:.0} % interval: {} to {}: {made}", number(low), number(high)));
    }
    if (value - metric.value).abs() > ROUNDING * metric.value.abs().max(1.0) {
        steps.push(format!(
            "the card's header says {}, which its rows do not make: it was changed, or written by another version",
            number(metric.value)
        ));
    }
    let bare = metric.name.split(',').next().unwrap_or_default();
    let influence = influences(metric, &examples);
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let margins: Vec<f64> = card.rows.iter().map(|row| shown::margin(row, bare)).collect();
    let largest = influence.iter().fold(0.0, |largest: f64, i| largest.max(i.abs())).max(f64::MIN_POSITIVE);
    // In steps, so that rounding does not decide between two examples that count alike.
    let steps_of = |i: usize| (influence[i].abs() / largest * 1e9).round();
    order.sort_by(|&a, &b| steps_of(b).total_cmp(&steps_of(a)).then(margins[b].total_cmp(&margins[a])));
    let texts = Texts::of(header, options.show_sensitive);
    let shown = order.iter().take(options.limit).map(|&i| {
        let row = &card.rows[i];
        let mut example = shown::example(header, row, bare, texts);
        example.influence = Some(influence[i]).filter(|influence| influence.is_finite());
        example.facts.insert(0, Fact { label: "score".into(), value: number(examples[i].score) });
        example
    });
    Ok(Explanation {
        task: header.task.clone(),
        metric: metric.name.clone(),
        model: header.named(),
        definition: format!(
            "{}{}",
            meaning(header, &metric.name),
            if metric.counts_answers_to_avoid() { LESS } else { "" }
        ),
        value: finite(value),
        steps,
        interval,
        variants: Vec::new(),
        n: examples.len(),
        order: "those that move the value most first, of equal ones the surest call".into(),
        examples: shown.collect(),
    })
}

/// Said of a share of answers that are to be avoided.
pub(super) const LESS: &str = " (less is better: what the task names is to be avoided)";

/// JSON has no number for what is none.
pub(super) fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// What a metric of a card means.
pub(super) fn meaning(header: &ScorecardHeader, metric: &str) -> String {
    let found = definition(header, metric);
    found.map_or_else(|| "a metric that this version does not know".into(), |definition| definition.meaning.into())
}

fn definition(header: &ScorecardHeader, metric: &str) -> Option<&'static Definition> {
    let entries = header.definition.get("metric_list").and_then(Value::as_array);
    definitions::of_task(Kind::from_name(&header.kind)?, metric, entries.map_or(&[], Vec::as_slice))
}

fn formula(header: &ScorecardHeader, metric: &str) -> String {
    let found = definition(header, metric);
    // The name stands before it already.
    found.map_or_else(
        || "formula not known".into(),
        |definition| match definition.formula.split_once(" = ") {
            Some((_, formula)) => formula.to_owned(),
            None => definition.formula.to_owned(),
        },
    )
}

pub(super) fn scored(row: &ScorecardRow, metric: &MetricValue) -> ExampleScore {
    ExampleScore {
        score: row.scores.get(&metric.name).copied().unwrap_or(row.score),
        parts: row.parts.get(&metric.name).cloned().unwrap_or_default(),
    }
}

/// How the standard error came about; nothing where there is none.
fn stderr(metric: &MetricValue, examples: &[ExampleScore]) -> Option<String> {
    let error = metric.stderr?;
    let n = examples.len();
    let value = number(metric.value);
    let made = match metric.aggregation {
        Aggregation::Mean if steps::right_or_wrong(examples) && n > 1 => {
            format!("√({value} · (1 − {value}) / ({n} − 1)) = ")
        }
        Aggregation::Mean => format!("standard deviation of the scores / √{n} = "),
        _ => "by bootstrap over the questions, as the reference harness draws it: ".into(),
    };
    Some(format!("standard error = {made}{}", number(error)))
}

/// By how much the value is higher with each example than without it.
fn influences(metric: &MetricValue, examples: &[ExampleScore]) -> Vec<f64> {
    let n = examples.len();
    let value = metric.aggregation.value(examples.iter());
    if n < 2 {
        return vec![value; n];
    }
    if metric.aggregation == Aggregation::Mean {
        // Without example i the mean is (n·mean − sᵢ)/(n − 1).
        return examples.iter().map(|example| (example.score - value) / (n - 1) as f64).collect();
    }
    let without = |i: usize| metric.aggregation.value(examples[..i].iter().chain(&examples[i + 1..]));
    (0..n).into_par_iter().map(|i| value - without(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn influence_is_what_leaving_out_changes() {
        let metric = |aggregation| MetricValue { aggregation, ..MetricValue::default() };
        let examples: Vec<ExampleScore> = [(1.0, [-3.0, 2.0]), (0.0, [-9.0, 4.0]), (0.5, [-1.0, 1.0])]
            .into_iter()
            .map(|(score, parts)| ExampleScore { score, parts: parts.to_vec() })
            .collect();
        let found = influences(&metric(Aggregation::Mean), &examples);
        for (found, expected) in found.iter().zip([0.25, -0.25, 0.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        let found = influences(&metric(Aggregation::WeightedPerplexity), &examples);
        let whole = (13.0f64 / 7.0).exp();
        for (found, without) in found.iter().zip([10.0f64 / 5.0, 4.0 / 3.0, 12.0 / 6.0]) {
            assert!((found - (whole - without.exp())).abs() < 1e-12, "{found}");
        }
    }
}
