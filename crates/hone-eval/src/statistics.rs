//! The one statistics module: standard errors, bootstrap intervals, exact tests and corrections for many of them.
//!
//! Resamples are drawn with CPython's generator in chunks of a thousand, each chunk from a seed of its own, so results
//! depend on the seed alone and not on the number of threads.
//!
//! Sources: percentile and BCa intervals, Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 13 and 14;
//! exact McNemar test, McNemar (1947), on the binomial distribution; Holm (1979); Wilson (1927); Student (1908). Statistics of
//! several sets of examples at once are in [`groups`], of clusters and tables in [`clusters`], rank correlation in
//! [`correlation`], effect sizes in [`effect`]; how an end that is not there is written in JSON, in [`json`].
//!
//! A single unit can be drawn in one way only, so its bootstrap says nothing: it has no interval, wherever one is made.

pub mod clusters;
pub mod correlation;
pub mod effect;
mod estimate;
pub mod groups;
pub mod json;
pub mod power;

pub use estimate::Estimate;
use rayon::prelude::*;
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal, StudentsT};

use crate::python::random::PythonRandom;

/// Resamples drawn from one seed.
const CHUNK: usize = 1000;

/// Mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with `n - 1` in the denominator; NaN of fewer than two values.
pub fn sample_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Standard error of the mean; `None` of fewer than two values.
pub fn mean_stderr(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| sample_deviation(values) / (values.len() as f64).sqrt())
}

/// Student's interval of the mean of a few independent values, such as those of a few seeds; `None` of fewer than two.
pub fn t_interval(values: &[f64], level: f64) -> Option<(f64, f64)> {
    let stderr = mean_stderr(values)?;
    let student = StudentsT::new(0.0, 1.0, (values.len() - 1) as f64).ok()?;
    let half = student.inverse_cdf(0.5 + level / 2.0) * stderr;
    Some((mean(values) - half, mean(values) + half))
}

/// A statistic of a resample, given as indices into the examples.
pub type Statistic<'a> = &'a (dyn Fn(&[usize]) -> f64 + Sync);

/// The statistic on `resamples` resamples of `n` examples, drawn with replacement. Chunk `i` of a thousand is drawn by
/// `random.Random(chunk_seed(i)).choices(range(n), k=n)`.
fn replicates(
    n: usize,
    resamples: usize,
    chunk_seed: impl Fn(u64) -> u64 + Sync,
    statistic: Statistic<'_>,
) -> Vec<f64> {
    let chunks: Vec<usize> = (0..resamples.div_ceil(CHUNK)).collect();
    let of_chunk = |&chunk: &usize| {
        let mut random = PythonRandom::new(chunk_seed(chunk as u64));
        let mut indices = vec![0usize; n];
        let size = CHUNK.min(resamples - chunk * CHUNK);
        let draw = |_| {
            indices.iter_mut().for_each(|i| *i = random.choice(n));
            statistic(&indices)
        };
        (0..size).map(draw).collect::<Vec<f64>>()
    };
    chunks.par_iter().map(of_chunk).collect::<Vec<_>>().concat()
}

/// Standard error by bootstrap as the reference harness computes it: chunk `i` is drawn with seed `i`. `None` of fewer than
/// two examples.
pub fn bootstrap_stderr(n: usize, resamples: usize, statistic: Statistic<'_>) -> Option<f64> {
    let resamples = if resamples > CHUNK { resamples / CHUNK * CHUNK } else { resamples };
    (n > 1).then(|| sample_deviation(&replicates(n, resamples, |chunk| chunk, statistic)))
}

/// How the ends of an interval are read off the replicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalMethod {
    /// Percentiles of the replicates.
    #[default]
    Percentile,
    /// Percentiles corrected for bias and skew.
    Bca,
}

/// Settings of a bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootstrapOptions {
    /// Resamples drawn.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u32,
    /// Coverage, 0.95 for a 95 % interval.
    pub level: f64,
    /// How the ends are found.
    pub method: IntervalMethod,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        BootstrapOptions { resamples: 10_000, seed: 1234, level: 0.95, method: IntervalMethod::Percentile }
    }
}

/// A bootstrap interval of a statistic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end; NaN where there is none.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Two-sided p-value of "the statistic is 0": twice the share of replicates on the far side of 0.
    pub p: f64,
}

impl Interval {
    /// Of nothing, or without resamples.
    const NONE: Interval = Interval { low: f64::NAN, high: f64::NAN, p: f64::NAN };
    /// Of a single unit: without ends, and as it says nothing of others, no value of theirs is unlikely.
    const OF_ONE: Interval = Interval { p: 1.0, ..Interval::NONE };
}

/// Interval of a statistic over `n` examples. Paired comparison: let the statistic be the difference of two models' scores on
/// the same resample. The ends are NaN for fewer than two examples.
pub fn bootstrap_interval(n: usize, options: &BootstrapOptions, statistic: Statistic<'_>) -> Interval {
    if n == 0 || options.resamples == 0 {
        return Interval::NONE;
    }
    if n == 1 {
        return Interval::OF_ONE;
    }
    let seed = u64::from(options.seed) << 32;
    let mut drawn = replicates(n, options.resamples, |chunk| seed | chunk, statistic);
    let p = two_sided_p(&drawn);
    drawn.sort_by(f64::total_cmp);
    let tail = (1.0 - options.level) / 2.0;
    let (low, high) = match options.method {
        IntervalMethod::Percentile => (tail, 1.0 - tail),
        IntervalMethod::Bca => {
            let whole: Vec<usize> = (0..n).collect();
            let without = |left_out: usize| -> f64 {
                let rest: Vec<usize> = whole.iter().copied().filter(|&i| i != left_out).collect();
                statistic(&rest)
            };
            let jackknife: Vec<f64> = whole.par_iter().map(|&i| without(i)).collect();
            bca_tails(&drawn, statistic(&whole), &jackknife, tail)
        }
    };
    Interval { low: quantile(&drawn, low), high: quantile(&drawn, high), p }
}

/// Twice the smaller share of replicates at or beyond 0, the observed one counted among them (Davison & Hinkley 1997, 4.2).
fn two_sided_p(replicates: &[f64]) -> f64 {
    let share = |beyond: fn(&f64) -> bool| {
        (replicates.iter().copied().filter(beyond).count() + 1) as f64 / (replicates.len() + 1) as f64
    };
    (2.0 * share(|d| *d <= 0.0).min(share(|d| *d >= 0.0))).min(1.0)
}

/// Quantile of sorted values, linear between neighbours (NumPy's default).
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

/// The two tail probabilities of the BCa interval. `jackknife` holds the statistic with one example left out each.
fn bca_tails(replicates: &[f64], observed: f64, jackknife: &[f64], tail: f64) -> (f64, f64) {
    let plain = (tail, 1.0 - tail);
    let n = replicates.len() as f64;
    let below = replicates.iter().filter(|&&r| r < observed).count() as f64;
    let at_or_below = replicates.iter().filter(|&&r| r <= observed).count() as f64;
    let share = (below + at_or_below) / (2.0 * n);
    let centre = mean(jackknife);
    let cubes: f64 = jackknife.iter().map(|v| (centre - v).powi(3)).sum();
    let squares: f64 = jackknife.iter().map(|v| (centre - v).powi(2)).sum();
    // Without spread, or with every replicate on one side, there is nothing to correct by.
    if !(squares > 0.0 && share > 0.0 && share < 1.0) {
        return plain;
    }
    let acceleration = cubes / (6.0 * squares.powf(1.5));
    let normal = Normal::standard();
    let bias = normal.inverse_cdf(share);
    let corrected = |probability: f64| {
        let z = bias + normal.inverse_cdf(probability);
        normal.cdf(bias + z / (1.0 - acceleration * z))
    };
    (corrected(tail), corrected(1.0 - tail))
}

/// Exact two-sided McNemar test: of the examples that changed, as many gains as losses are expected. 1 if none changed.
pub fn mcnemar_exact(gained: u64, lost: u64) -> f64 {
    let changed = gained + lost;
    match Binomial::new(0.5, changed) {
        Ok(binomial) if changed > 0 => (2.0 * binomial.cdf(gained.min(lost))).min(1.0),
        _ => 1.0,
    }
}

/// Holm's step-down correction of p-values, in the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut highest: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        highest = highest.max((p_values[i] * (p_values.len() - rank) as f64).min(1.0));
        corrected[i] = highest;
    }
    corrected
}

/// Wilson's interval of a share: `successes` of `n`. The whole of 0..1 for no trials.
pub fn wilson(successes: usize, n: usize, level: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let z = Normal::standard().inverse_cdf(0.5 + level / 2.0);
    let (n, share) = (n as f64, successes as f64 / n as f64);
    let centre = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    #[test]
    fn standard_errors_are_the_harness() {
        let values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        close(mean(&values), 0.625);
        close(mean_stderr(&values).unwrap(), 0.182_981_263_677_849_95);
        assert_eq!(mean_stderr(&[1.0]), None);
        // lm_eval.api.metrics.bootstrap_stderr(perplexity, lls, iters=2000)
        let lls = [-1.5, -0.25, -3.0, -2.0, -0.5];
        let perplexity = |indices: &[usize]| (-indices.iter().map(|&i| lls[i]).sum::<f64>() / 5.0).exp();
        close(bootstrap_stderr(5, 2000, &perplexity).unwrap(), 2.283_231_858_562_565);
    }

    #[test]
    fn the_mean_of_a_few_seeds_has_students_interval() {
        // scipy.stats.t.interval(0.95, 2, loc=mean, scale=sem) of the values
        let (low, high) = t_interval(&[0.1, 0.3, 0.25], 0.95).unwrap();
        close(low, -0.041_890_583_960_446_48);
        close(high, 0.475_223_917_293_779_83);
        let (low, high) = t_interval(&[1.0, 2.0, 4.0, 8.0, 16.0], 0.9).unwrap();
        close(low, 0.385_097_235_588_350_63);
        close(high, 12.014_902_764_411_646);
        assert_eq!(t_interval(&[1.0], 0.95), None);
    }

    #[test]
    fn exact_tests_are_statsmodels() {
        // statsmodels: mcnemar(exact=True), multipletests(method="holm"), proportion_confint(method="wilson").
        let mcnemar = [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (5, 1, 0.218_75),
            (3, 3, 1.0),
            (12, 30, 0.007_915_897_334_896_727),
            (58, 21, 3.761_512_780_416_609e-5),
            (400, 301, 0.000_209_698_308_997_996_65),
            (0, 40, 1.818_989_403_545_856_5e-12),
            (1500, 1400, 0.065_987_349_665_184_63),
        ];
        for (gained, lost, p) in mcnemar {
            let found = mcnemar_exact(gained, lost);
            assert!((found - p).abs() <= 1e-9 * p, "{gained} {lost}: {found}, expected {p}");
        }
        for (found, expected) in holm(&[0.01, 0.04, 0.03, 0.005, 0.9]).into_iter().zip([0.04, 0.09, 0.09, 0.025, 0.9]) {
            close(found, expected);
        }
        let wilson_golden = [
            (0, 10, 0.0, 0.277_532_799_862_889_26),
            (10, 10, 0.722_467_200_137_110_6, 1.0),
            (7, 20, 0.181_191_824_101_082_03, 0.567_145_723_314_763_8),
            (431, 1000, 0.400_628_443_767_472_3, 0.461_899_648_903_534_3),
        ];
        for (k, n, low, high) in wilson_golden {
            let found = wilson(k, n, 0.95);
            close(found.0, low);
            close(found.1, high);
        }
    }

    #[test]
    fn bca_tails_are_scipys() {
        // scipy.stats._resampling._bca_interval for the mean of `data`, with these replicates.
        let data = [1.0, 2.0, 4.0, 8.0, 16.0, 3.0, 5.0, -2.0, 7.0, 0.5];
        let replicates =
            [0.3, 2.35, 2.5, 2.9, 3.2, 3.4, 3.8, 3.8, 3.9, 4.2, 4.3, 4.3, 4.6, 4.85, 5.35, 5.8, 6.55, 7.3, 7.5];
        let total: f64 = data.iter().sum();
        let jackknife: Vec<f64> = data.iter().map(|v| (total - v) / 9.0).collect();
        let (low, high) = bca_tails(&replicates, total / 10.0, &jackknife, 0.025);
        close(low, 0.125_415_064_355_686);
        close(high, 0.998_577_547_078_706_7);
        // numpy.percentile(replicates, [2.5, 50, 97.5])
        for (q, expected) in [(0.025, 1.2225), (0.5, 4.2), (0.975, 7.41)] {
            close(quantile(&replicates, q), expected);
        }
    }

    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        // Differences with a known mean: of 200 samples, the 90 % interval must miss in about 20. A binomial of 200 and 0.1
        // lies within 8..=36 with probability 0.9998.
        let mut random = PythonRandom::new(7);
        let truth = 0.1;
        let mut missed = [0; 2];
        for sample in 0..200 {
            let values: Vec<f64> = (0..60).map(|_| if random.random() < 0.55 { 1.0 } else { -1.0 }).collect();
            let statistic = |indices: &[usize]| indices.iter().map(|&i| values[i]).sum::<f64>() / indices.len() as f64;
            for (i, method) in [IntervalMethod::Percentile, IntervalMethod::Bca].into_iter().enumerate() {
                let options = BootstrapOptions { resamples: 400, seed: sample, level: 0.9, method };
                let interval = bootstrap_interval(60, &options, &statistic);
                missed[i] += usize::from(!(interval.low..=interval.high).contains(&truth));
            }
        }
        assert!(missed.iter().all(|m| (8..=36).contains(m)), "{missed:?}");
    }

    #[test]
    fn intervals_depend_on_the_seed_alone() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i % 7) - 2.0).collect();
        let statistic = |indices: &[usize]| indices.iter().map(|&i| values[i]).sum::<f64>();
        let with = |seed, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let options = BootstrapOptions { resamples: 3500, seed, ..Default::default() };
            pool.install(|| bootstrap_interval(40, &options, &statistic))
        };
        assert_eq!(with(1, 1), with(1, 3));
        assert_ne!(with(1, 1), with(2, 1));
        let nothing = bootstrap_interval(5, &BootstrapOptions::default(), &|_: &[usize]| 0.0);
        assert_eq!(nothing, Interval { low: 0.0, high: 0.0, p: 1.0 });
        assert!(bootstrap_interval(0, &BootstrapOptions::default(), &statistic).low.is_nan());
    }

    /// However they are drawn: one question, one question of each task, one cluster of one, one wording of one question.
    #[test]
    fn a_single_unit_has_no_interval() {
        let options = BootstrapOptions { resamples: 50, ..BootstrapOptions::default() };
        let with = |method| BootstrapOptions { method, ..options };
        let one = [IntervalMethod::Percentile, IntervalMethod::Bca]
            .map(|method| bootstrap_interval(1, &with(method), &|_: &[usize]| -0.5));
        let groups = |sizes: &[usize]| groups::interval(sizes, &options, &|drawn| drawn[0][0] as f64 - 0.5);
        let clusters = |clusters: &[Vec<f64>]| clusters::mean_of_clusters(clusters, &options);
        let two_way = |rows: &[Vec<f64>]| clusters::two_way(&[rows.to_vec()], &options, &|means| mean(&means[0]));
        let alone = [groups(&[1]), groups(&[1, 1]), clusters(&[vec![0.3]]), two_way(&[vec![0.3]])];
        for found in one.iter().chain(&alone) {
            assert!(found.low.is_nan() && found.high.is_nan() && found.p == 1.0, "{found:?}");
        }
        // What can be drawn in two ways has one.
        let more = [groups(&[2, 1]), clusters(&[vec![0.1], vec![0.4]]), clusters(&[vec![0.1, 0.4]])];
        let wordings = [two_way(&[vec![0.1, 0.4]]), two_way(&[vec![0.1], vec![0.4]])];
        for found in more.iter().chain(&wordings) {
            assert!(found.low < found.high, "{found:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn holm_never_lowers_and_keeps_order(p_values in proptest::collection::vec(0.0f64..=1.0, 1..20)) {
            let corrected = holm(&p_values);
            for (i, (p, c)) in p_values.iter().zip(&corrected).enumerate() {
                proptest::prop_assert!(c >= p && *c <= 1.0);
                for (q, d) in p_values[i..].iter().zip(&corrected[i..]) {
                    proptest::prop_assert!(p > q || c <= d);
                }
            }
        }

        #[test]
        fn mcnemar_is_symmetric_and_falls_with_imbalance(lost in 0u64..60, gained in 0u64..60) {
            let p = mcnemar_exact(gained, lost);
            proptest::prop_assert!((0.0..=1.0).contains(&p));
            proptest::prop_assert_eq!(p, mcnemar_exact(lost, gained));
            if gained > lost {
                proptest::prop_assert!(mcnemar_exact(gained + 1, lost) <= p + 1e-12);
            }
        }
    }
}
