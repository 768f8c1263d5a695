//! Expected calibration error of multiple choice: does a model that is 80 % sure turn out right 80 times of 100?
//!
//! An example's confidence is the probability of the choice taken, the largest of the softmax over the choices'
//! log-likelihoods. Confidences fall into `M` bins of equal width, each closed above, `((m − 1)/M, m/M]`, and
//!
//! ```text
//! ECE = Σ_m |B_m|/N · |acc(B_m) − conf(B_m)|            0 to 1, less is better
//! ```
//!
//! (Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017, arXiv 1706.04599.) It is no mean over examples: an example keeps its
//! confidence and whether it was right, and every set of examples, a resample too, is binned anew. What chance leaves in
//! each bin adds up, so the ECE of few examples is too large, and that of a resample larger still: compare models on the same
//! questions, and read an interval of one model's ECE with that in mind.
//!
//! Nothing here knows of tasks or models.

use serde_json::Value;

use super::MetricError;

/// The name in a task file.
pub const NAME: &str = "ece";
/// Its only option.
pub const OPTION: &str = "bins";
/// Bins of a task file that does not say.
const BINS: u32 = 10;
/// Most bins: with more, each holds an example or none.
const MOST_BINS: u64 = 1000;

/// The option `bins`.
pub fn bins_option(value: Option<&Value>) -> Result<u32, MetricError> {
    let Some(value) = value else { return Ok(BINS) };
    let bins = value.as_u64().filter(|bins| (1..=MOST_BINS).contains(bins)).and_then(|bins| u32::try_from(bins).ok());
    bins.ok_or_else(|| MetricError::Option {
        metric: NAME.into(),
        option: OPTION.into(),
        found: value.to_string(),
        expected: format!("a whole number from 1 to {MOST_BINS}"),
    })
}

/// ECE over pairs of an example's confidence (0 to 1) and whether it was right (1 or 0). NaN over none.
pub fn expected_calibration_error(examples: impl Iterator<Item = (f64, f64)>, bins: u32) -> f64 {
    // |B|·(acc(B) − conf(B)) of each bin.
    let mut gaps = vec![0.0; bins.max(1) as usize];
    let mut count = 0usize;
    for (confidence, correct) in examples {
        let place = (confidence * f64::from(bins)).ceil() as usize;
        gaps[place.clamp(1, bins.max(1) as usize) - 1] += correct - confidence;
        count += 1;
    }
    gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONFIDENCE: [f64; 10] = [0.55, 0.62, 0.7, 0.71, 0.85, 0.91, 0.97, 1.0, 0.5, 0.64];
    const CORRECT: [f64; 10] = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0];

    fn ece(bins: u32) -> f64 {
        expected_calibration_error(CONFIDENCE.into_iter().zip(CORRECT), bins)
    }

    /// NumPy, with `c` and `h` the arrays above:
    /// `b = np.digitize(c, np.linspace(0, 1, n + 1)[1:-1], right=True)`,
    /// `sum((b == m).mean() * abs(h[b == m].mean() - c[b == m].mean()) for m in range(n) if (b == m).any())`.
    #[test]
    fn it_is_what_numpy_computes() {
        for (bins, expected) in [(1, 0.145), (5, 0.145), (10, 0.273), (15, 0.283)] {
            assert!((ece(bins) - expected).abs() < 1e-12, "{bins} bins: {}, expected {expected}", ece(bins));
        }
    }

    #[test]
    fn edges_belong_to_the_bin_below() {
        // 0.5 lies in (0.4, 0.5] and does not meet 0.55: their errors do not cancel.
        let apart = expected_calibration_error([(0.5, 1.0), (0.55, 0.0)].into_iter(), 10);
        assert!((apart - (0.5 + 0.55) / 2.0).abs() < 1e-12, "{apart}");
        let together = expected_calibration_error([(0.52, 1.0), (0.55, 0.0)].into_iter(), 10);
        assert!((together - (0.55 - 0.48) / 2.0).abs() < 1e-12, "{together}");
        let ends = expected_calibration_error([(0.0, 0.0), (1.0, 1.0)].into_iter(), 10);
        assert_eq!(ends, 0.0);
    }

    #[test]
    fn it_lies_between_the_bias_of_the_whole_and_the_mean_error_of_each() {
        let whole = CONFIDENCE.iter().zip(CORRECT).map(|(c, h)| h - c).sum::<f64>().abs() / 10.0;
        let each = CONFIDENCE.iter().zip(CORRECT).map(|(c, h)| (h - c).abs()).sum::<f64>() / 10.0;
        assert!((1..200).all(|bins| ece(bins) >= whole - 1e-12 && ece(bins) <= each + 1e-12));
        assert!(expected_calibration_error(std::iter::empty(), 10).is_nan());
    }

    #[test]
    fn a_wrong_number_of_bins_is_named() {
        assert_eq!(bins_option(None), Ok(10));
        assert_eq!(bins_option(Some(&json!(15))), Ok(15));
        for wrong in [json!(0), json!(1001), json!(2.5), json!("ten"), json!(-3)] {
            let message = bins_option(Some(&wrong)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(message.contains("option `bins` is") && message.contains("from 1 to 1000"), "{wrong}: {message}");
        }
    }
}
