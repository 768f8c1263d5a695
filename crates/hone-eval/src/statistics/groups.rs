//! The percentile bootstrap of a statistic over several groups of examples, such as the questions of several tasks.
//!
//! Each group is resampled by itself, so that every resample has as many questions of each task as there were (a stratified
//! bootstrap; Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.2). Scores of several models on
//! the same questions belong to one group: they are resampled together, which makes their comparison a paired one.

use rayon::prelude::*;

use super::{BootstrapOptions, CHUNK, Interval, quantile, two_sided_p};
use crate::python::random::PythonRandom;

/// A statistic of a resample: for each group, indices into its examples.
pub type GroupStatistic<'a> = &'a (dyn Fn(&[Vec<usize>]) -> f64 + Sync);

/// Interval of a statistic over groups of `sizes` examples. Percentiles, whatever method the options name; replicates that
/// are not a number (a ratio whose denominator came out as 0) are left out. All ends are NaN without a group, with an empty
/// one, or if no replicate is a number; where every group is a single example there are none either.
///
/// With one group the resamples are those of [`super::bootstrap_interval`].
pub fn interval(sizes: &[usize], options: &BootstrapOptions, statistic: GroupStatistic<'_>) -> Interval {
    if sizes.is_empty() || sizes.contains(&0) || options.resamples == 0 {
        return Interval::NONE;
    }
    if sizes.iter().all(|&n| n == 1) {
        return Interval::OF_ONE;
    }
    let seed = u64::from(options.seed) << 32;
    let chunks: Vec<usize> = (0..options.resamples.div_ceil(CHUNK)).collect();
    let of_chunk = |&chunk: &usize| {
        let mut random = PythonRandom::new(seed | chunk as u64);
        let mut drawn: Vec<Vec<usize>> = sizes.iter().map(|&n| vec![0; n]).collect();
        let size = CHUNK.min(options.resamples - chunk * CHUNK);
        let draw = |_| {
            for indices in &mut drawn {
                let n = indices.len();
                indices.iter_mut().for_each(|i| *i = random.choice(n));
            }
            statistic(&drawn)
        };
        (0..size).map(draw).collect::<Vec<f64>>()
    };
    percentiles(chunks.par_iter().map(of_chunk).collect::<Vec<_>>().concat(), options)
}

/// The interval that replicates give; those that are not a number are left out. NaN of none.
pub(super) fn percentiles(replicates: Vec<f64>, options: &BootstrapOptions) -> Interval {
    let mut replicates: Vec<f64> = replicates.into_iter().filter(|r| !r.is_nan()).collect();
    if replicates.is_empty() {
        return Interval::NONE;
    }
    let p = two_sided_p(&replicates);
    replicates.sort_by(f64::total_cmp);
    let tail = (1.0 - options.level) / 2.0;
    Interval { low: quantile(&replicates, tail), high: quantile(&replicates, 1.0 - tail), p }
}

#[cfg(test)]
mod tests {
    use super::super::{bootstrap_interval, mean};
    use super::*;

    const OPTIONS: BootstrapOptions =
        BootstrapOptions { resamples: 2500, seed: 9, level: 0.95, method: super::super::IntervalMethod::Percentile };

    fn values(n: usize, step: usize) -> Vec<f64> {
        (0..n).map(|i| (i * step % 11) as f64).collect()
    }

    #[test]
    fn one_group_is_the_plain_bootstrap() {
        let scores = values(30, 7);
        let pick = |indices: &[usize]| mean(&indices.iter().map(|&i| scores[i]).collect::<Vec<_>>());
        let plain = bootstrap_interval(30, &OPTIONS, &pick);
        assert_eq!(interval(&[30], &OPTIONS, &|drawn| pick(&drawn[0])), plain);
    }

    #[test]
    fn the_mean_of_two_groups_spreads_as_theory_says() {
        let (a, b) = (values(40, 3), values(60, 5));
        let pick = |v: &[f64], indices: &[usize]| mean(&indices.iter().map(|&i| v[i]).collect::<Vec<_>>());
        let options = BootstrapOptions { resamples: 20_000, ..OPTIONS };
        let found = interval(&[40, 60], &options, &|drawn| pick(&a, &drawn[0]) - pick(&b, &drawn[1]));
        let variance = |v: &[f64]| v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / (v.len() * v.len()) as f64;
        let half = 1.959_964 * (variance(&a) + variance(&b)).sqrt();
        let centre = mean(&a) - mean(&b);
        for (end, expected) in [(found.low, centre - half), (found.high, centre + half)] {
            assert!((end - expected).abs() < 0.05 * half, "{end}, expected {expected}");
        }
    }

    #[test]
    fn replicates_without_a_value_are_left_out_and_nothing_gives_nothing() {
        let sometimes = interval(&[1, 4], &OPTIONS, &|drawn| if drawn[1][0] == 0 { f64::NAN } else { 2.0 });
        assert_eq!((sometimes.low, sometimes.high), (2.0, 2.0));
        assert!(interval(&[], &OPTIONS, &|_| 1.0).low.is_nan());
        assert!(interval(&[3, 0], &OPTIONS, &|_| 1.0).low.is_nan());
        assert!(interval(&[3], &OPTIONS, &|_| f64::NAN).high.is_nan());
    }
}
