//! Effect sizes: how large a difference is, apart from how surely it is one.
//!
//! ```text
//! h   = 2 asin √p₂ − 2 asin √p₁          two shares (Cohen 1988, "Statistical Power Analysis", chapter 6)
//! d_z = mean(Δ) / sd(Δ)                  paired differences (Cohen 1988, section 2.3.5)
//! ```
//!
//! By Cohen's own words 0.2 is small, 0.5 medium, 0.8 large; what that means for a user's task they do not know.

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
}
