//! Whether probability of wrong choices moves with that of the right one, over the models of a ladder.
//!
//! Schaeffer et al. 2024, arXiv 2406.04391: training puts probability on right and wrong choices together, and how much goes to the
//! wrong ones varies by orders of magnitude from question to question, which is why scores that compare them (accuracy) move less
//! evenly than the likelihood of the right one. For each question, over models `m`,
//!
//! ```text
//! ln p_m(c) = a + b · ln p_m(c*)         b by least squares: of every wrong choice, and of their sum ln Σ_{c≠c*} p_m(c)
//! ```
//!
//! The spread is the standard deviation of the residuals over questions, wrong choices and models, in powers of ten.
//!
//! What it does not know: why. A positive slope early in training is mostly the model learning the answers' form.

use hone_eval::statistics::{mean, quantile};
use serde::{Deserialize, Serialize};

/// How wrong choices move with the right one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WrongMass {
    /// Questions with a slope: those where the right answer's likelihood is not the same in all models.
    pub questions: usize,
    /// The share of them whose total wrong mass rises with the right one.
    pub positive: Option<f64>,
    /// Median of their slopes.
    pub slope: Option<f64>,
    /// 5 % of the slopes are below.
    pub slope_low: Option<f64>,
    /// 5 % of the slopes are above.
    pub slope_high: Option<f64>,
    /// Standard deviation of single wrong choices around their lines, in powers of ten.
    pub spread: Option<f64>,
}

/// Least-squares slope and intercept of `y` over `x`; `None` where `x` does not vary.
pub fn line(x: &[f64], y: &[f64]) -> Option<(f64, f64)> {
    let (mx, my) = (mean(x), mean(y));
    let square: f64 = x.iter().map(|x| (x - mx).powi(2)).sum();
    let product: f64 = x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum();
    let slope = product / square;
    slope.is_finite().then_some((slope, my - slope * mx))
}

/// `ln Σ exp(values)`, without leaving the range of numbers.
pub fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY { highest } else { highest + values.map(|v| (v - highest).exp()).sum::<f64>().ln() }
}

/// The slope of a question's total wrong mass. `likelihoods[model][choice]`.
pub fn total_slope(likelihoods: &[Vec<f64>], right: usize) -> Option<f64> {
    let of_right: Vec<f64> = likelihoods.iter().map(|model| model[right]).collect();
    let wrong = |model: &Vec<f64>| {
        log_sum(model.iter().enumerate().filter(|(choice, _)| *choice != right).map(|(_, value)| *value))
    };
    line(&of_right, &likelihoods.iter().map(wrong).collect::<Vec<_>>()).map(|(slope, _)| slope)
}

/// Of all questions: `likelihoods` as in [`total_slope`], with the right choice.
pub fn wrong_mass(questions: &[(Vec<Vec<f64>>, usize)]) -> WrongMass {
    let mut slopes: Vec<f64> = questions.iter().filter_map(|(of, right)| total_slope(of, *right)).collect();
    slopes.sort_by(f64::total_cmp);
    let mut residuals = Vec::new();
    for (likelihoods, right) in questions {
        let of_right: Vec<f64> = likelihoods.iter().map(|model| model[*right]).collect();
        let choices = likelihoods.first().map_or(0, Vec::len);
        for choice in (0..choices).filter(|choice| choice != right) {
            let of_wrong: Vec<f64> = likelihoods.iter().map(|model| model[choice]).collect();
            let Some((slope, start)) = line(&of_right, &of_wrong) else { continue };
            residuals.extend(of_right.iter().zip(&of_wrong).map(|(x, y)| y - start - slope * x));
        }
    }
    let some = |value: f64| value.is_finite().then_some(value);
    let squares: Vec<f64> = residuals.iter().map(|r| r * r).collect();
    WrongMass {
        questions: slopes.len(),
        positive: some(slopes.iter().filter(|slope| **slope > 0.0).count() as f64 / slopes.len() as f64),
        slope: some(quantile(&slopes, 0.5)),
        slope_low: some(quantile(&slopes, 0.05)),
        slope_high: some(quantile(&slopes, 0.95)),
        spread: some(mean(&squares).sqrt() / std::f64::consts::LN_10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_numpys() {
        // numpy.polyfit([1, 2, 4, 8], [2, 1, 5, 6], 1) = [0.6782608695652174, 0.9565217391304348]
        let (slope, start) = line(&[1.0, 2.0, 4.0, 8.0], &[2.0, 1.0, 5.0, 6.0]).unwrap();
        assert!((slope - 0.678_260_869_565_217_4).abs() < 1e-12 && (start - 0.956_521_739_130_434_8).abs() < 1e-12);
        assert_eq!(line(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert!((log_sum([-1000.0, -1000.0].into_iter()) - (-1000.0 + 2f64.ln())).abs() < 1e-9);
        assert_eq!(log_sum(std::iter::empty()), f64::NEG_INFINITY);
    }

    #[test]
    fn wrong_choices_that_follow_the_right_one_have_their_slope_and_no_spread() {
        let models = |slope: f64| -> Vec<Vec<f64>> {
            (0..8)
                .map(|m| f64::from(m) - 20.0)
                .map(|right| vec![-3.0 + slope * right, right, -4.0 + slope * right])
                .collect()
        };
        let found = wrong_mass(&[(models(0.5), 1), (models(-1.0), 1), (models(2.0), 1)]);
        assert_eq!(found.questions, 3);
        assert!((found.positive.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert!((found.slope.unwrap() - 0.5).abs() < 1e-9 && found.spread.unwrap() < 1e-9, "{found:?}");
        let nothing = wrong_mass(&[(vec![vec![-1.0, -2.0]; 4], 0)]);
        assert_eq!((nothing.questions, nothing.slope, nothing.spread), (0, None, None));
    }

    /// One wrong choice that lies a power of ten above and below its line in turn.
    #[test]
    fn the_spread_is_in_powers_of_ten() {
        let of = |m: i32, off: f64| vec![f64::from(m), off * std::f64::consts::LN_10];
        let models = vec![of(0, 1.0), of(1, -1.0), of(2, -1.0), of(3, 1.0)];
        let found = wrong_mass(&[(models, 0)]);
        assert!((found.spread.unwrap() - 1.0).abs() < 1e-9 && found.slope.unwrap().abs() < 1e-9, "{found:?}");
    }
}
