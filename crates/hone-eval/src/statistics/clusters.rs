//! Bootstrap intervals where examples come in clusters, or where two things were drawn at random.
//!
//! **Clusters** (the questions of several tasks, when the claim is about tasks in general): clusters are drawn with replacement,
//! then as many examples within each (two-stage bootstrap; Davison & Hinkley 1997, section 3.8).
//!
//! **Two ways** (every question in every wording): rows and columns are drawn apart from each other, each with replacement, so
//! that the interval is about other wordings and other questions (Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111). It is
//! wider than either alone, and conservative where there are few of one kind.

use super::groups::percentiles;
use super::{BootstrapOptions, Interval, Statistic, bootstrap_interval, mean};
use crate::python::random::PythonRandom;

/// Interval of the mean of the clusters' means, each cluster counted once. NaN without a cluster, with an empty one, or of a
/// single example.
pub fn mean_of_clusters(clusters: &[Vec<f64>], options: &BootstrapOptions) -> Interval {
    if clusters.iter().any(Vec::is_empty) {
        return Interval::NONE;
    }
    if clusters.iter().map(Vec::len).sum::<usize>() == 1 {
        return Interval::OF_ONE;
    }
    drawn(clusters.len(), options, |random| {
        let of_cluster = |random: &mut PythonRandom| {
            let cluster = &clusters[random.choice(clusters.len())];
            (0..cluster.len()).map(|_| cluster[random.choice(cluster.len())]).sum::<f64>() / cluster.len() as f64
        };
        (0..clusters.len()).map(|_| of_cluster(random)).sum::<f64>() / clusters.len() as f64
    })
}

/// Interval of a statistic of examples of which some are drawn together: `units` are their places. The statistic reads the places
/// of the drawn examples, unit by unit.
pub fn of_units(units: &[Vec<usize>], options: &BootstrapOptions, statistic: Statistic<'_>) -> Interval {
    bootstrap_interval(units.len(), options, &|drawn| {
        statistic(&drawn.iter().flat_map(|&unit| units[unit].iter().copied()).collect::<Vec<_>>())
    })
}

/// Interval of a statistic of groups of rows over common columns: `rows[group][row][column]`. The statistic reads, for each
/// group, the means of its drawn rows over the drawn columns. NaN without a group, with an empty one, or of single rows
/// of a single column.
pub fn two_way(
    rows: &[Vec<Vec<f64>>],
    options: &BootstrapOptions,
    statistic: &(dyn Fn(&[Vec<f64>]) -> f64 + Sync),
) -> Interval {
    let columns = rows.first().and_then(|group| group.first()).map_or(0, Vec::len);
    if columns == 0 || rows.iter().any(Vec::is_empty) || rows.iter().flatten().any(|row| row.len() != columns) {
        return Interval::NONE;
    }
    if columns == 1 && rows.iter().all(|group| group.len() == 1) {
        return Interval::OF_ONE;
    }
    drawn(rows.len(), options, |random| {
        let at: Vec<usize> = (0..columns).map(|_| random.choice(columns)).collect();
        let means: Vec<Vec<f64>> = rows
            .iter()
            .map(|group| {
                let pick = |_| {
                    let row = &group[random.choice(group.len())];
                    at.iter().map(|&i| row[i]).sum::<f64>() / columns as f64
                };
                (0..group.len()).map(pick).collect()
            })
            .collect();
        statistic(&means)
    })
}

/// The replicates of `draw`, each from a generator that depends on the seed and the replicate's number alone.
fn drawn(size: usize, options: &BootstrapOptions, draw: impl Fn(&mut PythonRandom) -> f64 + Sync) -> Interval {
    use rayon::prelude::*;
    if size == 0 {
        return Interval::NONE;
    }
    let seed = u64::from(options.seed) << 32;
    let of_chunk = |chunk: usize| {
        let mut random = PythonRandom::new(seed | chunk as u64);
        let count = super::CHUNK.min(options.resamples - chunk * super::CHUNK);
        (0..count).map(|_| draw(&mut random)).collect::<Vec<f64>>()
    };
    let chunks = options.resamples.div_ceil(super::CHUNK);
    percentiles((0..chunks).into_par_iter().map(of_chunk).collect::<Vec<_>>().concat(), options)
}

/// Population standard deviation (`n` in the denominator): the spread of wordings that are all there are. 0 of one value, NaN of
/// none.
pub fn spread(values: &[f64]) -> f64 {
    let centre = mean(values);
    (values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: BootstrapOptions =
        BootstrapOptions { resamples: 10_000, seed: 7, level: 0.95, method: super::super::IntervalMethod::Percentile };

    /// Clusters without spread inside: the interval is that of the clusters' means alone.
    #[test]
    fn clusters_that_differ_widen_the_interval() {
        let means: Vec<f64> = (0..20).map(|i| f64::from(i % 5)).collect();
        let clusters: Vec<Vec<f64>> = means.iter().map(|&m| vec![m; 50]).collect();
        let found = mean_of_clusters(&clusters, &OPTIONS);
        let half = 1.959_964 * spread(&means) / (means.len() as f64).sqrt();
        for (end, expected) in [(found.low, 2.0 - half), (found.high, 2.0 + half)] {
            assert!((end - expected).abs() < 0.06 * half, "{end}, expected {expected}");
        }
        // The plain bootstrap over all thousand examples would be seven times as narrow.
        assert!(found.high - found.low > 1.0, "{found:?}");
    }

    #[test]
    fn one_cluster_is_the_plain_bootstrap_of_its_examples() {
        let values: Vec<f64> = (0..60).map(|i| f64::from(i * 7 % 11)).collect();
        let found = mean_of_clusters(std::slice::from_ref(&values), &OPTIONS);
        let half = 1.959_964 * spread(&values) / (values.len() as f64).sqrt();
        assert!((found.high - found.low - 2.0 * half).abs() < 0.1 * half, "{found:?}");
    }

    /// Variance of the pigeonhole bootstrap of an additive table: rows' plus columns' variance of the mean.
    #[test]
    fn both_ways_count() {
        let (a, b): (Vec<f64>, Vec<f64>) =
            ((0..12).map(|i| f64::from(i % 4)).collect(), (0..40).map(|i| f64::from(i % 3)).collect());
        let table: Vec<Vec<f64>> = a.iter().map(|x| b.iter().map(|y| x + y).collect()).collect();
        let found = two_way(&[table], &OPTIONS, &|means| mean(&means[0]));
        let variance = spread(&a).powi(2) / 12.0 + spread(&b).powi(2) / 40.0;
        let half = 1.959_964 * variance.sqrt();
        assert!((found.high - found.low - 2.0 * half).abs() < 0.1 * half, "{found:?}, half {half}");
    }

    /// Two examples that always agree are one: the interval is that of half as many.
    #[test]
    fn what_is_drawn_together_counts_once() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i / 2 * 7 % 11)).collect();
        let mean_of = |at: &[usize]| at.iter().map(|&i| values[i]).sum::<f64>() / at.len() as f64;
        let pairs: Vec<Vec<usize>> = (0..20).map(|i| vec![2 * i, 2 * i + 1]).collect();
        let found = of_units(&pairs, &OPTIONS, &mean_of);
        let half = 1.959_964 * spread(&values) / 20f64.sqrt();
        assert!((found.high - found.low - 2.0 * half).abs() < 0.1 * half, "{found:?}, half {half}");
        // Units of one are the plain bootstrap, to the bit.
        let single: Vec<Vec<usize>> = (0..40).map(|i| vec![i]).collect();
        assert_eq!(of_units(&single, &OPTIONS, &mean_of), bootstrap_interval(40, &OPTIONS, &mean_of));
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(mean_of_clusters(&[], &OPTIONS).low.is_nan() && mean_of_clusters(&[vec![]], &OPTIONS).low.is_nan());
        assert!(two_way(&[], &OPTIONS, &|_| 1.0).low.is_nan() && two_way(&[vec![]], &OPTIONS, &|_| 1.0).low.is_nan());
        let ragged = vec![vec![1.0, 2.0], vec![1.0]];
        assert!(two_way(&[ragged], &OPTIONS, &|_| 1.0).low.is_nan());
        assert_eq!(spread(&[3.0]), 0.0);
    }
}
