//! Naive `f64` versions of every operation: the oracle of the kernels' tests. Written for being obviously right.
//!
//! Everything is a flat row-major slice in, a fresh `Vec` out. Gradients have no loops of their own here: they are
//! differences of these functions (`gradient_check`, for tests).

#[cfg(test)]
pub(crate) mod gradient_check;
pub mod linear;
pub mod matrix;
pub mod norms;
pub mod pointwise;

pub mod attention;

/// Error function by its Maclaurin series, and by the continued fraction of its complement from 3 on; 1e-14 accurate.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        // erf x = 2/√π Σ (-1)^n x^(2n+1) / (n! (2n+1))
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    // erfc x = e^(-x²)/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …))))
    let mut fraction = a;
    for n in (1..60).rev() {
        fraction = a + n as f64 / 2.0 / fraction;
    }
    (1.0 - (-a * a).exp() * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / fraction).copysign(x)
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_matches_published_values() {
        // Abramowitz and Stegun, table 7.1, and DLMF.
        for (x, y) in [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7)] {
            assert!((super::erf(x) - y).abs() < 1e-14);
            assert!((super::erf(-x) + y).abs() < 1e-14);
        }
        assert!((super::erf(3.5) - 0.999_999_256_901_627_7).abs() < 1e-14);
    }
}
