//! pass@k: the chance that at least one of `k` programs drawn without replacement from `n` passes its tests, where `c` of the
//! `n` did.
//!
//! `1 − C(n−c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374, equation 1), unbiased over the `n` samples. The binomials
//! overflow long before `n` is large, so they are never formed: `C(n−c, k) / C(n, k) = Π (1 − k/i)` over `i` from `n−c+1` to `n`,
//! the form of the paper's own code.

/// The estimate, from 0 to 1. `None` where there is none: no draw (`k` is 0), fewer samples than draws, more passes than
/// samples.
pub fn pass_at_k(samples: usize, passed: usize, k: usize) -> Option<f64> {
    if k == 0 || k > samples || passed > samples {
        return None;
    }
    // A draw of k cannot miss: there are fewer than k programs that fail.
    if samples - passed < k {
        return Some(1.0);
    }
    let missed: f64 = (samples - passed + 1..=samples).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exact up to `C(60, 30)`, which is below 2^57.
    fn binomial(n: u128, k: u128) -> u128 {
        if k > n {
            return 0;
        }
        (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
    }

    #[test]
    fn the_product_is_the_quotient_of_binomials() {
        assert_eq!((binomial(5, 2), binomial(60, 30), binomial(2, 3)), (10, 118_264_581_564_861_424, 0));
        for n in 1..=60usize {
            for c in 0..=n {
                for k in 1..=n {
                    let all = binomial(n as u128, k as u128);
                    let missed = binomial((n - c) as u128, k as u128);
                    let exact = (all - missed) as f64 / all as f64;
                    let found = pass_at_k(n, c, k).unwrap();
                    assert!((found - exact).abs() < 1e-12, "n {n}, c {c}, k {k}: {found} expected {exact}");
                }
            }
        }
    }

    /// `k` of `n` drawn in every way there is: the share of draws with a program that passes.
    #[test]
    fn it_is_the_share_of_draws_with_a_passing_program() {
        let (n, c) = (7u32, 2u32);
        for k in 1..=n {
            let draws: Vec<u32> = (0..1u32 << n).filter(|draw| draw.count_ones() == k).collect();
            let hits = draws.iter().filter(|draw| *draw & ((1 << c) - 1) != 0).count();
            let found = pass_at_k(n as usize, c as usize, k as usize).unwrap();
            assert!((found - hits as f64 / draws.len() as f64).abs() < 1e-12);
        }
    }

    #[test]
    fn ends_and_what_has_no_estimate() {
        assert_eq!(pass_at_k(10, 0, 10), Some(0.0));
        assert_eq!(pass_at_k(10, 1, 10), Some(1.0));
        assert_eq!(pass_at_k(10, 10, 1), Some(1.0));
        assert!((pass_at_k(200, 13, 1).unwrap() - 0.065).abs() < 1e-15);
        // The binomials have 300 digits and more.
        let large = pass_at_k(100_000, 1, 50_000).unwrap();
        assert!((large - 0.5).abs() < 1e-9, "{large}");
        for (n, c, k) in [(0, 0, 1), (5, 2, 0), (5, 2, 6), (5, 6, 1)] {
            assert_eq!(pass_at_k(n, c, k), None, "{n} {c} {k}");
        }
    }
}
