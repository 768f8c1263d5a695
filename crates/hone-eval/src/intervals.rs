//! The intervals of a scorecard's metrics: the bootstrap over its examples, for metrics that are means and for those that are
//! not (perplexity, BLEU, F1), which are computed anew on every resample.

use std::collections::BTreeMap;

use crate::metrics::{Aggregation, ExampleScore};
use crate::scorecard::MetricValue;
use crate::statistics::clusters::of_units;
use crate::statistics::{BootstrapOptions, Interval, Statistic, bootstrap_interval};
use crate::tally::Tally;

/// The interval of a statistic of a task's examples; those that belong together are drawn together.
pub fn interval_of(
    aggregation: Aggregation,
    examples: &[ExampleScore],
    options: &BootstrapOptions,
    statistic: Statistic<'_>,
) -> Interval {
    match aggregation.units(examples) {
        None => bootstrap_interval(examples.len(), options, statistic),
        Some(units) => of_units(&units, options, statistic),
    }
}

/// Lower and upper end by metric; metrics that rows have no scores of, and ends that are no numbers, are left out.
pub fn intervals(metrics: &[MetricValue], tally: &Tally, options: &BootstrapOptions) -> BTreeMap<String, (f64, f64)> {
    let mut all = BTreeMap::new();
    for metric in metrics.iter().filter(|metric| !tally.scores(&metric.name).is_empty()) {
        let examples = tally.of_metric(&metric.name);
        let on = |indices: &[usize]| metric.aggregation.value(indices.iter().map(|&i| &examples[i]));
        let found = interval_of(metric.aggregation, &examples, options, &on);
        if found.low.is_finite() && found.high.is_finite() {
            all.insert(metric.name.clone(), (found.low, found.high));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::best_of::{TieItem, Ties};

    /// Items of ties are drawn by prompt: the interval is that of the published score over drawn prompts.
    #[test]
    fn the_items_of_a_prompt_are_drawn_together() {
        let parts = |right: f64, best: f64, worst: f64, bad: f64, group: usize| ExampleScore {
            score: f64::from(worst > bad),
            parts: vec![right, best, worst, bad, group as f64],
        };
        let number = |i: usize, k: usize| (i * k % 17) as f64 / 17.0;
        let prompts: Vec<[ExampleScore; 2]> = (0..24)
            .map(|i| {
                let low = number(i, 5);
                [
                    parts(1.0, number(i, 3), number(i, 3), number(i, 7), i),
                    parts(2.0, low + number(i, 11), low, number(i, 13) - 0.2, i),
                ]
            })
            .collect();
        let options = BootstrapOptions { resamples: 500, ..BootstrapOptions::default() };
        let by_prompt = bootstrap_interval(prompts.len(), &options, &|drawn| {
            let item = |at: usize, k: usize| TieItem::from_parts(&prompts[at][k].parts).unwrap();
            Ties::of_pairs(drawn.iter().map(|&at| (item(at, 0), item(at, 1)))).score()
        });
        // In the card the second items stand behind all the first ones.
        let items: Vec<ExampleScore> = (0..2).flat_map(|k| prompts.iter().map(move |items| items[k].clone())).collect();
        let on = |drawn: &[usize]| Aggregation::Ties.value(drawn.iter().map(|&i| &items[i]));
        let found = interval_of(Aggregation::Ties, &items, &options, &on);
        assert!((found.low - by_prompt.low).abs() < 1e-9 && (found.high - by_prompt.high).abs() < 1e-9, "{found:?}");
        let by_item = bootstrap_interval(items.len(), &options, &on);
        assert!((found.low - by_item.low).abs() > 1e-3 || (found.high - by_item.high).abs() > 1e-3, "{by_item:?}");
    }
}
