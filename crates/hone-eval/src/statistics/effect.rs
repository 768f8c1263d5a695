//! Effect sizes: how large a difference is, apart from how surely it is one.
//!
//! ```text
//! h   = 2 asin √p₂ − 2 asin √p₁          two shares (Cohen 1988, "Statistical Power Analysis", chapter 6)
//! d_z = mean(Δ) / sd(Δ)                  paired differences (Cohen 1988, section 2.3.5)
//!     = D / (√n · se(D))                 the same of a difference D with its standard error
//! ```
//!
//! The second form is for scores that are no mean over examples (a perplexity, in which long texts count for more; BLEU): the
//! mean of their examples' differences may have the other sign. There `se(D)` is half the bootstrap interval in standard
//! errors, as a normal distribution has them.
//!
//! By Cohen's own words 0.2 is small, 0.5 medium, 0.8 large; what that means for a user's task they do not know.

use statrs::distribution::{ContinuousCDF, Normal};

use super::{mean, sample_deviation};

/// Cohen's `h` of two shares; values outside 0..1 count as the nearest end.
pub fn cohens_h(before: f64, after: f64) -> f64 {
    let angle = |p: f64| 2.0 * p.clamp(0.0, 1.0).sqrt().asin();
    angle(after) - angle(before)
}

/// Cohen's `d_z` of paired differences; `None` of fewer than two, or where they do not vary.
pub fn cohens_dz(differences: &[f64]) -> Option<f64> {
    let deviation = sample_deviation(differences);
    (deviation > 0.0).then(|| mean(differences) / deviation)
}

/// Cohen's `d_z` of a difference over `n` paired examples, from the ends of its interval at `level`; with the sign of the
/// difference. `None` where the interval has no ends or no width.
pub fn cohens_dz_of_interval(difference: f64, (low, high): (f64, f64), level: f64, n: usize) -> Option<f64> {
    let stderr = (high - low) / (2.0 * Normal::standard().inverse_cdf(0.5 + level / 2.0));
    (stderr.is_finite() && stderr > 0.0).then(|| difference / ((n as f64).sqrt() * stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_cohens() {
        // statsmodels: proportion_effectsize(0.5, 0.6) = -0.2013579207903309 (its first share is the later one).
        assert!((cohens_h(0.5, 0.6) - 0.201_357_920_790_330_9).abs() < 1e-12);
        assert!((cohens_h(0.0, 1.0) - std::f64::consts::PI).abs() < 1e-12);
        assert_eq!(cohens_h(0.3, 0.3), 0.0);
        // Differences 1, 2, 3: mean 2, deviation 1.
        assert_eq!(cohens_dz(&[1.0, 2.0, 3.0]), Some(2.0));
        assert_eq!((cohens_dz(&[1.0, 1.0]), cohens_dz(&[1.0])), (None, None));
    }

    #[test]
    fn the_form_with_a_standard_error_is_that_of_a_mean() {
        use crate::statistics::{BootstrapOptions, bootstrap_interval};
        let differences: Vec<f64> = (0..200).map(|i| f64::from(i * 7 % 23) - 9.0).collect();
        let mean_of = |at: &[usize]| at.iter().map(|&i| differences[i]).sum::<f64>() / at.len() as f64;
        let found = bootstrap_interval(200, &BootstrapOptions::default(), &mean_of);
        let by_interval = cohens_dz_of_interval(mean(&differences), (found.low, found.high), 0.95, 200).unwrap();
        let expected = cohens_dz(&differences).unwrap();
        assert!((by_interval / expected - 1.0).abs() < 0.05, "{by_interval}, expected {expected}");
        assert_eq!(cohens_dz_of_interval(1.0, (f64::NAN, f64::NAN), 0.95, 4), None);
        assert_eq!(cohens_dz_of_interval(1.0, (0.5, 0.5), 0.95, 4), None);
    }
}
