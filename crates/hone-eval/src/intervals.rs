//! The intervals of a scorecard's metrics: the bootstrap over its examples, for metrics that are means and for those that are
//! not (perplexity, BLEU, F1), which are computed anew on every resample.

use std::collections::BTreeMap;

use crate::metrics::ExampleScore;
use crate::scorecard::Scorecard;
use crate::statistics::{BootstrapOptions, bootstrap_interval};

/// Lower and upper end by metric; metrics that rows have no scores of, and ends that are no numbers, are left out.
pub fn intervals(card: &Scorecard, options: &BootstrapOptions) -> BTreeMap<String, (f64, f64)> {
    let mut all = BTreeMap::new();
    for metric in &card.header.metrics {
        let examples: Option<Vec<ExampleScore>> = card
            .rows
            .iter()
            .map(|row| {
                let parts = row.parts.get(&metric.name).cloned().unwrap_or_default();
                Some(ExampleScore { score: *row.scores.get(&metric.name)?, parts })
            })
            .collect();
        let Some(examples) = examples else { continue };
        let on = |indices: &[usize]| metric.aggregation.value(indices.iter().map(|&i| &examples[i]));
        let found = bootstrap_interval(examples.len(), options, &on);
        if found.low.is_finite() && found.high.is_finite() {
            all.insert(metric.name.clone(), (found.low, found.high));
        }
    }
    all
}
