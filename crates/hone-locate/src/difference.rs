//! How two maps of attention differ on the same examples: after minus before for every layer and head, with a paired bootstrap
//! interval over the examples.
//!
//! The intervals are one by one: of a hundred heads that did not change, about five have an interval that leaves 0 out.
//! `apart` counts those that do, to be held against that.

use hone_eval::statistics::{BootstrapOptions, Estimate, bootstrap_interval, json, mean};
use serde::{Deserialize, Serialize};

use crate::attention::{AttentionMass, Change, Looked};
use crate::error::LocateError;
use crate::prompt::Part;

/// After minus before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Layers.
    pub layers: usize,
    /// Query heads of each.
    pub heads: usize,
    /// Examples paired.
    pub n: usize,
    /// `[layers, heads]`, layer by layer.
    pub difference: Vec<f64>,
    /// Lower ends of the intervals; NaN, in files `null`, where there are none.
    #[serde(deserialize_with = "json::ends")]
    pub low: Vec<f64>,
    /// Upper ends.
    #[serde(deserialize_with = "json::ends")]
    pub high: Vec<f64>,
    /// Each layer's mean over its heads.
    pub by_layer: Vec<Estimate>,
    /// The mean over all heads.
    pub overall: Estimate,
    /// Heads whose interval leaves 0 out.
    pub apart: usize,
}

/// Compares two maps; `pairs` are places in their `per_example`.
///
/// # Errors
/// Maps of another number of layers or heads, or without the examples they are made of; no pairs.
pub fn difference(
    before: &AttentionMass,
    after: &AttentionMass,
    pairs: &[(usize, usize)],
    options: &BootstrapOptions,
) -> Result<Difference, LocateError> {
    let differ = |difference: String| Err(LocateError::NotComparable { difference });
    if (before.layers, before.heads) != (after.layers, after.heads) {
        return differ(format!(
            "{} layers of {} heads against {} of {}; compare versions of one model",
            before.layers, before.heads, after.layers, after.heads
        ));
    }
    if pairs.is_empty() {
        return differ("they have no example in common; look at the same task or file with both".into());
    }
    let example = |(a, b): &(usize, usize)| -> Option<Vec<f64>> {
        let (a, b) = (before.per_example.get(*a)?, after.per_example.get(*b)?);
        Some(b.iter().zip(a).map(|(b, a)| b - a).collect())
    };
    let Some(examples) = pairs.iter().map(example).collect::<Option<Vec<Vec<f64>>>>() else {
        return differ("one of them does not hold its examples; measure it again".into());
    };
    let (layers, heads, n) = (before.layers, before.heads, pairs.len());
    let of_cells = |cells: std::ops::Range<usize>| {
        let values: Vec<f64> = examples.iter().map(|example| mean(&example[cells.clone()])).collect();
        let resampled = |indices: &[usize]| indices.iter().map(|&i| values[i]).sum::<f64>() / indices.len() as f64;
        let interval = bootstrap_interval(n, options, &resampled);
        Estimate { value: mean(&values), low: interval.low, high: interval.high }
    };
    let cells: Vec<Estimate> = (0..layers * heads).map(|cell| of_cells(cell..cell + 1)).collect();
    let ends = |end: fn(&Estimate) -> f64| cells.iter().map(end).collect::<Vec<f64>>();
    Ok(Difference {
        layers,
        heads,
        n,
        difference: ends(|e| e.value),
        low: ends(|e| e.low),
        high: ends(|e| e.high),
        by_layer: (0..layers).map(|layer| of_cells(layer * heads..(layer + 1) * heads)).collect(),
        overall: of_cells(0..layers * heads),
        apart: cells.iter().filter(|e| e.low > 0.0 || e.high < 0.0).count(),
    })
}

/// What changed from one model's maps to another's, form by form, over the questions that both were asked.
pub fn changes(before: &Looked, after: &Looked, options: &BootstrapOptions) -> Result<Vec<Change>, LocateError> {
    let place = |id: &String| before.ids.iter().position(|other| other == id);
    let paired = after.ids.iter().enumerate().filter_map(|(at, id)| Some((place(id)?, at)));
    let pairs: Vec<(usize, usize)> = paired.collect();
    let mut all = Vec::new();
    for now in &after.forms {
        let Some(then) = before.form(now.form) else { continue };
        let [a, b] = [(&then.from_prompt, &now.from_prompt), (&then.from_answer, &now.from_answer)]
            .map(|(then, now)| difference(then.part(Part::Context), now.part(Part::Context), &pairs, options));
        all.push(Change { form: now.form, from_prompt: a?, from_answer: b? });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_subtracted_and_resampled_together() {
        // One head gains 0.2 on every example, whatever it had; the other's differences cancel.
        let had = [0.1, 0.5, 0.3, 0.7, 0.2, 0.6];
        let before = AttentionMass::new(1, 2, had.iter().map(|x| vec![*x, 0.5]).collect());
        let sign = |i: usize| if i.is_multiple_of(2) { 0.1 } else { -0.1 };
        let after = had.iter().enumerate().map(|(i, x)| vec![x + 0.2, 0.5 + sign(i)]).collect();
        let after = AttentionMass::new(1, 2, after);
        let pairs: Vec<_> = (0..6).map(|i| (i, i)).collect();
        let options = BootstrapOptions { resamples: 500, ..BootstrapOptions::default() };
        let found = difference(&before, &after, &pairs, &options).unwrap();
        assert!((found.difference[0] - 0.2).abs() < 1e-6 && found.difference[1].abs() < 1e-6, "{found:?}");
        assert!(found.low[0] > 0.19 && found.high[0] < 0.21, "a paired difference does not vary: {found:?}");
        assert!(found.low[1] < 0.0 && found.high[1] > 0.0 && found.apart == 1, "{found:?}");
        assert!((found.overall.value - 0.1).abs() < 1e-6 && found.by_layer.len() == 1);
        let other = AttentionMass::new(2, 1, vec![vec![0.1, 0.2]]);
        let error = difference(&before, &other, &pairs, &options).unwrap_err().to_string();
        assert!(error.contains("1 layers of 2 heads against 2 of 1"), "{error}");
        assert!(difference(&before, &after, &[], &options).is_err());
        let slim = AttentionMass { per_example: Vec::new(), ..after };
        assert!(difference(&before, &slim, &pairs, &options).unwrap_err().to_string().contains("measure it again"));
    }
}
