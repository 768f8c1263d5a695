//! Correlations of pairs of numbers.
//!
//! Spearman's rank correlation (Spearman 1904) is Pearson's correlation of the ranks, ties sharing their mean rank. Kendall's τ-b
//! (Kendall 1945, "The treatment of ties in ranking problems") counts pairs of places: with `C` that both sides order alike, `D` that
//! they order the other way, and `n_a`, `n_b` of those that are no ties in `a`, in `b`,
//!
//! ```text
//! τ_b = (C − D) / √(n_a n_b)
//! ```

use super::mean;

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let end = start + order[start..].iter().take_while(|&&i| values[i] == value).count().max(1);
        let shared = (start + 1 + end) as f64 / 2.0;
        order[start..end].iter().for_each(|&i| ranks[i] = shared);
        start = end;
    }
    ranks
}

/// Pearson's correlation; NaN where one side does not vary, or of fewer than two pairs.
///
/// Panics if the sides differ in length.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a correlation needs pairs");
    let (ma, mb) = (mean(a), mean(b));
    let covariance: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let square = |v: &[f64], m: f64| v.iter().map(|x| (x - m).powi(2)).sum::<f64>();
    covariance / (square(a, ma) * square(b, mb)).sqrt()
}

/// Spearman's rank correlation; NaN where one side does not vary, or of fewer than two pairs.
///
/// Panics if the sides differ in length.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

/// Kendall's τ-b; NaN where one side does not vary, or of fewer than two pairs. Takes time in the square of the length.
///
/// Panics if the sides differ in length.
pub fn kendall(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a correlation needs pairs");
    let (mut difference, mut varies_a, mut varies_b) = (0i64, 0u64, 0u64);
    for i in 0..a.len() {
        for j in 0..i {
            let order = |v: &[f64]| i64::from(v[i] > v[j]) - i64::from(v[i] < v[j]);
            let (of_a, of_b) = (order(a), order(b));
            difference += of_a * of_b;
            varies_a += u64::from(of_a != 0);
            varies_b += u64::from(of_b != 0);
        }
    }
    difference as f64 / ((varies_a as f64) * (varies_b as f64)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_correlations_are_scipys() {
        // scipy.stats.rankdata, pearsonr, spearmanr
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        let (a, b) = ([1.0, 2.0, 2.0, 5.0, 7.0, 11.0], [2.0, 1.0, 4.0, 4.0, 3.0, 20.0]);
        assert!((spearman(&a, &b) - 0.661_764_705_882_352_9).abs() < 1e-12, "{}", spearman(&a, &b));
        assert!((pearson(&a, &b) - 0.838_833_919_496_349_3).abs() < 1e-12, "{}", pearson(&a, &b));
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(spearman(&[], &[]).is_nan());
    }

    #[test]
    fn kendalls_tau_b_is_scipys() {
        // scipy.stats.kendalltau (variant "b")
        let (a, b) = ([1.0, 2.0, 2.0, 5.0, 7.0, 11.0], [2.0, 1.0, 4.0, 4.0, 3.0, 20.0]);
        assert!((kendall(&a, &b) - 0.5).abs() < 1e-12, "{}", kendall(&a, &b));
        let right = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        let compute = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
        assert!((kendall(&right, &compute) - 0.634_335_047_416_546_6).abs() < 1e-12, "{}", kendall(&right, &compute));
        let tied = kendall(&[3.0, 1.0, 3.0, 2.0, 3.0, 5.0], &[2.0, 2.0, 1.0, 1.0, 4.0, 4.0]);
        assert!((tied - 0.416_666_666_666_666_74).abs() < 1e-12, "{tied}");
        assert_eq!(kendall(&compute, &compute.map(|c| -c)), -1.0);
        assert!(kendall(&[1.0, 1.0], &[1.0, 2.0]).is_nan() && kendall(&[], &[]).is_nan());
    }
}
