//! How small a change a comparison could have seen, and how many questions a change needs.
//!
//! Two models answer the same `n` questions. Let `ψ` be the share of questions whose answer changed (right to wrong or wrong to
//! right) and `δ` the difference in accuracy. McNemar's test at level `α` finds `δ` with probability `1 − β` when
//!
//! ```text
//! n = (z_{1−α/2} √ψ + z_{1−β} √(ψ − δ²))² / δ²
//! ```
//!
//! (Miettinen 1968, Biometrics 24; Connor 1987, Biometrics 43, whose form this is.) Solved for `δ`, with `a = z_{1−α/2}` and
//! `b = z_{1−β}`:
//!
//! ```text
//! δ = √ψ (a √n + b √(n − a² + b²)) / (n + b²)
//! ```
//!
//! `δ` cannot be larger than `ψ`. Where it would be, so few answers changed that even changes all of one kind would not have
//! been seen; then as many more of one kind are assumed as it takes (`ψ = δ`). Scores that are not right or wrong have the usual
//! `δ = (a + b) · standard error of the mean difference`.
//!
//! What it does not know: the test that is run is the exact one, which finds a little less with few changed answers; and `ψ`
//! is taken from the comparison at hand, which is itself a sample.

use statrs::distribution::{ContinuousCDF, Normal};

/// The power that is usual: four of five comparisons of models that differ by so much find it.
pub const USUAL: f64 = 0.8;

fn quantiles(level: f64, power: f64) -> (f64, f64) {
    let normal = Normal::standard();
    (normal.inverse_cdf(0.5 + level / 2.0), normal.inverse_cdf(power))
}

/// The smallest difference of two shares over `n` paired questions, of which the share `changed` came out differently, that a
/// test at `1 − level` finds with probability `power`. `None` if not even a change of all of them would be found.
pub fn detectable_share(n: usize, changed: f64, level: f64, power: f64) -> Option<f64> {
    let (a, b) = quantiles(level, power);
    let n = n as f64;
    let room = n - a * a + b * b;
    if room <= 0.0 {
        return None;
    }
    let found = changed.max(0.0).sqrt() * (a * n.sqrt() + b * room.sqrt()) / (n + b * b);
    if found > 0.0 && found <= changed {
        return Some(found);
    }
    // All changes of one kind: n δ = (a + b √(1 − δ))², whose right side falls with δ.
    let missing = |share: f64| (a + b * (1.0 - share).sqrt()).powi(2) - n * share;
    if missing(1.0) > 0.0 {
        return None;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if missing(middle) > 0.0 { low = middle } else { high = middle }
    }
    Some(high)
}

/// The same for paired scores of any kind: from the standard error of their mean difference, in its unit.
pub fn detectable_mean(stderr: f64, level: f64, power: f64) -> f64 {
    let (a, b) = quantiles(level, power);
    (a + b) * stderr
}

/// The paired questions it takes to find a difference of two shares, where the share `changed` comes out differently. `None`
/// for no difference, or one larger than `changed`.
pub fn questions_needed(difference: f64, changed: f64, level: f64, power: f64) -> Option<usize> {
    let size = difference.abs();
    if !(size > 0.0 && size <= changed && changed <= 1.0) {
        return None;
    }
    let (a, b) = quantiles(level, power);
    let root = a * changed.sqrt() + b * (changed - size * size).sqrt();
    Some((root / size).powi(2).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::super::mcnemar_exact;
    use super::*;
    use crate::python::random::PythonRandom;

    /// Chow, Shao & Wang, "Sample Size Calculations in Clinical Research" (2nd ed. 2008), example 2.5.6 (R's
    /// `TrialSize::McNemar.Test(0.05, 0.2, 0.2/0.5, 0.7)`): 0.5 change one way, 0.2 the other, 59 pairs.
    #[test]
    fn a_published_example_comes_out() {
        assert_eq!(questions_needed(0.3, 0.7, 0.95, 0.8), Some(59));
    }

    #[test]
    fn the_two_directions_are_one_formula() {
        for (n, changed) in [(100, 0.3), (300, 0.26), (5000, 0.1)] {
            let found = detectable_share(n, changed, 0.95, USUAL).unwrap();
            let needed = questions_needed(found, changed, 0.95, USUAL).unwrap();
            assert!(needed.abs_diff(n) <= 1, "{n} questions see {found}, which needs {needed}");
        }
    }

    #[test]
    fn few_changed_answers_see_nothing_and_more_are_assumed() {
        let found = |changed: f64| detectable_share(1000, changed, 0.95, USUAL).unwrap();
        assert!((found(0.01) - 0.008_849).abs() < 1e-6, "{}", found(0.01));
        // Five questions of a thousand changed: even all of one kind would not have been seen.
        assert!((found(0.005) - 0.007_830).abs() < 1e-6, "{}", found(0.005));
        assert!((found(0.0) - of_one_kind(1000)).abs() < 1e-9, "{}", found(0.0));
        assert_eq!(detectable_share(3, 0.5, 0.95, USUAL), None);
        assert_eq!(questions_needed(0.0, 0.2, 0.95, USUAL), None);
        assert_eq!(questions_needed(0.3, 0.2, 0.95, USUAL), None);
    }

    /// The fixed point by iteration instead of bisection.
    fn of_one_kind(n: usize) -> f64 {
        let (a, b) = quantiles(0.95, USUAL);
        (0..200).fold(0.5, |share: f64, _| (a + b * (1.0 - share).sqrt()).powi(2) / n as f64)
    }

    #[test]
    fn four_of_five_simulated_comparisons_find_it() {
        let (n, changed) = (800, 0.25);
        let difference = detectable_share(n, changed, 0.95, USUAL).unwrap();
        let (gain, loss) = ((changed + difference) / 2.0, (changed - difference) / 2.0);
        let mut random = PythonRandom::new(11);
        let tries = 2000;
        let found = (0..tries).filter(|_| {
            let (mut gained, mut lost) = (0, 0);
            for _ in 0..n {
                match random.random() {
                    draw if draw < gain => gained += 1,
                    draw if draw < gain + loss => lost += 1,
                    _ => {}
                }
            }
            mcnemar_exact(gained, lost) < 0.05
        });
        let share = found.count() as f64 / f64::from(tries);
        // The exact test is a little more careful than the formula, and 2,000 tries are off by 0.009 in the mean.
        assert!((0.74..0.83).contains(&share), "{share}");
    }

    #[test]
    fn scores_of_any_kind_need_their_standard_error() {
        assert!((detectable_mean(1.0, 0.95, 0.8) - 2.801_585_218).abs() < 1e-6);
    }
}
